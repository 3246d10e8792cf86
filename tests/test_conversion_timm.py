"""Conversion of EfficientFormerV2 alone as timm publishes it: an encoder to start OffSeg-T, -B, -L from."""

import re
import runpy
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from offseg_hf import EfficientFormerV2Backbone, OffSegEfficientFormerForSemanticSegmentation
from offseg_hf.conversion import convert_checkpoint, convert_entries, extend_bias_table
from offseg_hf.training.model import create_model

rule = types.SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "golden" / "rule.py")))

# name → widths, expansions of each stage's blocks, attention blocks, entries of timm 1.0.31's model
ARCHITECTURES = {
    "offseg-t": ((32, 48, 120, 224), ("444", "444", "443333444", "443344"), 2, 722),
    "offseg-b": ((32, 64, 144, 288), ("4444", "4444", "443333334444", "44333344"), 4, 1054),
    "offseg-l": ((40, 80, 192, 384), ("44444", "44444", "444433333334444", "4443333444"), 6, 1386),
}


def timm_shapes(variant):
    """Every entry of timm's model for images of 224×224, its classifiers included: name → shape."""
    widths, expansions, num_attention, _ = ARCHITECTURES[variant]
    shapes = {}

    def add(name, *weight):
        shapes.update({f"{name}.weight": weight, f"{name}.bias": weight[:1]})

    def add_norm(name, c):
        add(name, c)
        shapes.update({f"{name}.running_mean": (c,), f"{name}.running_var": (c,), f"{name}.num_batches_tracked": ()})

    def add_conv_norm(name, *weight):
        add(f"{name}.conv", *weight)
        add_norm(f"{name}.bn", weight[0])

    add_conv_norm("stem.conv1", widths[0] // 2, 3, 3, 3)
    add_conv_norm("stem.conv2", widths[0], widths[0] // 2, 3, 3)
    for i, (c, ratios) in enumerate(zip(widths, expansions)):
        if i > 0:
            add_conv_norm(f"stages.{i}.downsample.conv", c, widths[i - 1], 3, 3)
        if i == 3:
            attention, before = "stages.3.downsample.attn", widths[2]
            shapes[f"{attention}.attention_biases"] = (8, 14 * 14)
            add(f"{attention}.q.local", before, 1, 3, 3)
            add_conv_norm(f"{attention}.q.proj", 128, before, 1, 1)
            add_conv_norm(f"{attention}.k", 128, before, 1, 1)
            add_conv_norm(f"{attention}.v", 512, before, 1, 1)
            add_conv_norm(f"{attention}.v_local", 512, 1, 3, 3)
            add_conv_norm(f"{attention}.proj", c, 512, 1, 1)
        for j, ratio in enumerate(map(int, ratios)):
            block = f"stages.{i}.blocks.{j}"
            if i > 1 and j >= len(ratios) - num_attention:
                mixer = f"{block}.token_mixer"
                shapes |= {f"{block}.ls1.gamma": (c,), f"{mixer}.attention_biases": (8, 7 * 7)}
                if i == 2:
                    add_conv_norm(f"{mixer}.stride_conv", c, 1, 3, 3)
                add_conv_norm(f"{mixer}.q", 256, c, 1, 1)
                add_conv_norm(f"{mixer}.k", 256, c, 1, 1)
                add_conv_norm(f"{mixer}.v", 1024, c, 1, 1)
                add_conv_norm(f"{mixer}.v_local", 1024, 1, 3, 3)
                add(f"{mixer}.talking_head1", 8, 8, 1, 1)
                add(f"{mixer}.talking_head2", 8, 8, 1, 1)
                add_conv_norm(f"{mixer}.proj", c, 1024, 1, 1)
            shapes[f"{block}.ls2.gamma"] = (c,)
            add_conv_norm(f"{block}.mlp.fc1", ratio * c, c, 1, 1)
            add_conv_norm(f"{block}.mlp.mid", ratio * c, 1, 3, 3)
            add_conv_norm(f"{block}.mlp.fc2", c, ratio * c, 1, 1)
    add_norm("norm", widths[3])
    add("head", 1000, widths[3])
    add("head_dist", 1000, widths[3])
    return shapes


def timm_entries(variant):
    """Values by rule; what only classifies is not a number, and must not matter."""
    shapes = timm_shapes(variant)
    floats = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    entries = rule.state_dict(floats) | {name: torch.tensor(7) for name in shapes if name not in floats}
    for name in floats:
        if name.startswith(("norm.", "head")):
            entries[name].fill_(torch.nan)
    return entries


def our_name(name):
    """Our name of one of timm's entries, read from timm's side: the module, and the place in it."""
    *modules, leaf = name.split(".")
    path = ".".join(modules)
    if path.startswith("stem."):
        place = {"stem.conv1.conv": 0, "stem.conv1.bn": 1, "stem.conv2.conv": 3, "stem.conv2.bn": 4}[path]
        return f"stem.{place}.{leaf}"
    if match := re.fullmatch(r"(.*)\.ls([12])", path):
        return f"{match[1]}.layer_scale_{match[2]}"
    if match := re.fullmatch(r"stages\.([123])\.downsample\.conv\.(conv|bn)", path):
        ours = {"conv": "conv", "bn": "bn"} if match[1] == "3" else {"conv": "proj", "bn": "norm"}
        return f"stages.{match[1]}.downsample.{ours[match[2]]}.{leaf}"
    if match := re.fullmatch(r"(.*\.mlp)\.(\w+)\.(conv|bn)", path):
        norms = {"fc1": "norm1", "mid": "mid_norm", "fc2": "norm2"}
        return f"{match[1]}.{match[2] if match[3] == 'conv' else norms[match[2]]}.{leaf}"
    if path.endswith("q.local"):
        return f"{path}.0.{leaf}"
    if match := re.fullmatch(r"(.*)\.(conv|bn)", path):
        after_activation = re.search(r"(token_mixer|attn)\.proj$", match[1]) is not None
        return f"{match[1]}.{(match[2] == 'bn') + after_activation}.{leaf}"
    return name


@pytest.fixture(scope="module")
def entries():
    return timm_entries("offseg-t")


@pytest.fixture(scope="module")
def folder(entries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("timm")
    save_file(entries, folder / "efficientformerv2_s1.safetensors")
    convert_checkpoint(folder / "efficientformerv2_s1.safetensors", folder / "encoder")
    return folder / "encoder"


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_entries_of_these_tests_are_as_many_as_timms(variant):
    assert len(timm_shapes(variant)) == ARCHITECTURES[variant][3]


def test_every_entry_is_put_in_its_place(folder, entries):
    converted = EfficientFormerV2Backbone.from_pretrained(folder).state_dict()
    used = {our_name(name): tensor for name, tensor in entries.items() if not name.startswith(("norm.", "head"))}
    assert used.keys() == converted.keys()
    for name, tensor in used.items():
        if not name.endswith("attention_biases"):
            assert torch.equal(converted[name].flatten(), tensor.flatten()), name


@pytest.mark.parametrize(
    ("name", "side", "extended"),
    [("stages.2.blocks.8.token_mixer", 7, 16), ("stages.3.downsample.attn", 14, 32)],
)
def test_biases_keep_their_distance_in_pixels(folder, entries, name, side, extended):
    converted = EfficientFormerV2Backbone.from_pretrained(folder).state_dict()[f"{name}.attention_biases"]
    table = entries[f"{name}.attention_biases"]
    assert converted.shape == (8, extended**2)
    for dy in range(extended):
        for dx in range(extended):
            nearest = min(dy, side - 1) * side + min(dx, side - 1)
            assert torch.equal(converted[:, dy * extended + dx], table[:, nearest])


def test_extend_bias_table_repeats_the_farthest_biases():
    table = extend_bias_table(torch.arange(49.0)[None]).reshape(16, 16)
    assert table[0].tolist() == [0, 1, 2, 3, 4, 5] + [6] * 10
    assert table[:, 15].tolist() == [6, 13, 20, 27, 34, 41] + [48] * 10


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_variant_is_inferred(variant):
    zeros = {name: torch.zeros(()).expand(shape) for name, shape in timm_shapes(variant).items()}
    another = "offseg-b1" if variant == "offseg-b0" else "offseg-b0"
    with pytest.raises(ValueError, match=rf"must be that of the checkpoint, which is {variant}, got '{another}'"):
        convert_entries(zeros, another)


def test_model_starts_from_an_encoder(folder, entries):
    model, report = OffSegEfficientFormerForSemanticSegmentation.from_pretrained(
        folder, num_labels=19, output_loading_info=True
    )
    assert all(name.startswith("decode_head.") for name in report["missing_keys"])
    assert not report["unexpected_keys"] | report["mismatched_keys"]
    assert (model.config.num_labels, model.config.logit_normalization) == (19, "class_bias")
    weight = entries["stages.3.blocks.5.mlp.fc2.conv.weight"]
    assert torch.equal(model.backbone.stages[3].blocks[5].mlp.fc2.weight, weight)


def test_training_starts_from_an_encoder(folder, entries):
    model = create_model("offseg-t", str(folder), {0: "sky", 1: "road", 2: "car"})
    assert torch.equal(model.backbone.stem[3].weight, entries["stem.conv2.conv.weight"])


def test_convert_entries_lists_all_that_differs(entries):
    entries = dict(entries)
    del entries["stages.0.blocks.1.ls2.gamma"]
    entries["stages.3.blocks.4.token_mixer.attention_biases"] = torch.zeros(8, 64)
    entries["stages.4.norm.weight"] = torch.ones(224)
    with pytest.raises(ValueError, match="nearest to the encoder of offseg-t, but 3 of its entries differ") as error:
        convert_entries(entries)
    assert str(error.value).splitlines()[1:] == [
        "  missing: stages.0.blocks.1.ls2.gamma (32,)",
        "  misshapen: stages.3.blocks.4.token_mixer.attention_biases (8, 64), must be (8, 49)",
        "  unknown: stages.4.norm.weight (224,)",
    ]
