"""Conversion of the authors' models on SegNeXt, and of MSCAN alone as mmsegmentation publishes it."""

import json
import runpy
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from offseg_hf import MscanBackbone, OffSegSegNextForSemanticSegmentation
from offseg_hf.conversion import convert_checkpoint, convert_entries
from offseg_hf.training.model import create_model

GOLDEN = Path(__file__).parent / "golden"
rule = types.SimpleNamespace(**runpy.run_path(str(GOLDEN / "rule.py")))

# name → widths, depths, channels of the head, parameters for 150 classes
ARCHITECTURES = {
    "offseg-segnext-t": ((32, 64, 160, 256), (3, 3, 5, 2), 256, 4_394_636),
    "offseg-segnext-s": ((64, 128, 320, 512), (2, 2, 4, 2), 256, 14_064_108),
    "offseg-segnext-b": ((64, 128, 320, 512), (3, 3, 12, 3), 512, 28_160_748),
}
STRIPS = {"conv0_1": (1, 7), "conv0_2": (7, 1), "conv1_1": (1, 11), "conv1_2": (11, 1), "conv2_1": (1, 21),
          "conv2_2": (21, 1)}  # fmt: skip


def encoder_shapes(variant):
    """Every entry of MSCAN: name → shape."""
    widths, depths, _, _ = ARCHITECTURES[variant]
    shapes = {}

    def add(name, *weight):
        shapes.update({f"{name}.weight": weight, f"{name}.bias": weight[:1]})

    def add_norm(name, c):
        add(name, c)
        shapes.update({f"{name}.running_mean": (c,), f"{name}.running_var": (c,), f"{name}.num_batches_tracked": ()})

    for i, (c, depth, ratio) in enumerate(zip(widths, depths, (8, 8, 4, 4)), start=1):
        embedding = f"patch_embed{i}"
        if i == 1:
            add(f"{embedding}.proj.0", c // 2, 3, 3, 3)
            add_norm(f"{embedding}.proj.1", c // 2)
            add(f"{embedding}.proj.3", c, c // 2, 3, 3)
            add_norm(f"{embedding}.proj.4", c)
        else:
            add(f"{embedding}.proj", c, widths[i - 2], 3, 3)
            add_norm(f"{embedding}.norm", c)
        for j in range(depth):
            block = f"block{i}.{j}"
            gate = f"{block}.attn.spatial_gating_unit"
            shapes.update({f"{block}.layer_scale_1": (c,), f"{block}.layer_scale_2": (c,)})
            add_norm(f"{block}.norm1", c)
            add(f"{block}.attn.proj_1", c, c, 1, 1)
            add(f"{gate}.conv0", c, 1, 5, 5)
            for name, kernel in STRIPS.items():
                add(f"{gate}.{name}", c, 1, *kernel)
            add(f"{gate}.conv3", c, c, 1, 1)
            add(f"{block}.attn.proj_2", c, c, 1, 1)
            add_norm(f"{block}.norm2", c)
            add(f"{block}.mlp.fc1", ratio * c, c, 1, 1)
            add(f"{block}.mlp.dwconv", ratio * c, 1, 3, 3)
            add(f"{block}.mlp.fc2", c, ratio * c, 1, 1)
        add(f"norm{i}", c)
    return shapes


def official_shapes(variant, num_classes):
    """Every entry of an official checkpoint: name → shape."""
    widths, _, c, _ = ARCHITECTURES[variant]
    shapes = {f"backbone.{name}": shape for name, shape in encoder_shapes(variant).items()}
    head = {"conv_seg.weight": (num_classes, c, 1, 1), "conv_seg.bias": (num_classes,)}
    head["squeeze.conv.weight"] = (c, sum(widths[1:]), 1, 1)
    for name in ("hamburger.ham_in", "hamburger.ham_out", "align"):
        head[f"{name}.conv.weight"] = (c, c, 1, 1)
    head["hamburger.ham_in.conv.bias"] = (c,)
    for name in ("squeeze", "hamburger.ham_out", "align"):
        head |= {f"{name}.gn.weight": (c,), f"{name}.gn.bias": (c,)}
    head |= {f"offset_learning.{name}_offset_proj.weight": (c, c) for name in ("cls", "feat")}
    head |= {f"offset_learning.mask_norm.{leaf}": (num_classes,) for leaf in ("weight", "bias")}
    head["offset_learning.cls_repr"] = (1, num_classes, c)
    return shapes | {f"decode_head.{name}": shape for name, shape in head.items()}


def ruled_entries(shapes):
    """Values by rule; what is never used is not a number, and must not matter."""
    floats = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    entries = rule.state_dict(floats) | {name: torch.tensor(7) for name in shapes if name not in floats}
    for name in entries:
        if "conv_seg" in name or name.startswith("head."):
            entries[name].fill_(torch.nan)
    return entries


def official_logits(entries, x):
    """The authors' network written out from its description, straight on the checkpoint's entries."""

    def conv(name, x, **kwargs):
        return F.conv2d(x, entries[f"{name}.weight"], entries.get(f"{name}.bias"), **kwargs)

    def depthwise(name, x):
        weight = entries[f"{name}.weight"]
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        return conv(name, x, padding=padding, groups=len(weight))

    def batch_norm(name, x):
        leaves = (entries[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *leaves)

    def group_norm(name, x):
        return F.group_norm(x, 32, entries[f"{name}.weight"], entries[f"{name}.bias"])

    stages = []
    for i in range(1, 5):
        embedding = f"backbone.patch_embed{i}"
        if i == 1:
            x = F.gelu(batch_norm(f"{embedding}.proj.1", conv(f"{embedding}.proj.0", x, stride=2, padding=1)))
            x = batch_norm(f"{embedding}.proj.4", conv(f"{embedding}.proj.3", x, stride=2, padding=1))
        else:
            x = batch_norm(f"{embedding}.norm", conv(f"{embedding}.proj", x, stride=2, padding=1))
        for j in range(sum(name.startswith(f"backbone.block{i}.") and "layer_scale_1" in name for name in entries)):
            block = f"backbone.block{i}.{j}"
            gate = f"{block}.attn.spatial_gating_unit"
            z = batch_norm(f"{block}.norm1", x)
            u = F.gelu(conv(f"{block}.attn.proj_1", z))
            a = depthwise(f"{gate}.conv0", u)
            strips = (depthwise(f"{gate}.conv{k}_2", depthwise(f"{gate}.conv{k}_1", a)) for k in range(3))
            attended = conv(f"{block}.attn.proj_2", u * conv(f"{gate}.conv3", a + sum(strips))) + z
            x = x + entries[f"{block}.layer_scale_1"][:, None, None] * attended
            hidden = conv(f"{block}.mlp.fc1", batch_norm(f"{block}.norm2", x))
            hidden = conv(f"{block}.mlp.fc2", F.gelu(depthwise(f"{block}.mlp.dwconv", hidden)))
            x = x + entries[f"{block}.layer_scale_2"][:, None, None] * hidden
        weight, bias = (entries[f"backbone.norm{i}.{leaf}"] for leaf in ("weight", "bias"))
        x = F.layer_norm(x.movedim(1, 3), weight.shape, weight, bias).movedim(3, 1)
        stages.append(x)

    size = stages[1].shape[2:]
    x = torch.cat([F.interpolate(stage, size=size, mode="bilinear", align_corners=False) for stage in stages[1:]], 1)
    x = group_norm("decode_head.squeeze.gn", conv("decode_head.squeeze.conv", x)).relu()
    ham = conv("decode_head.hamburger.ham_in.conv", x).relu().flatten(2)  # (1, C, N)
    torch.manual_seed(0)
    bases = F.normalize(torch.rand(1, ham.shape[1], 16), dim=1)
    coef = (ham.mT @ bases).softmax(2)  # (1, N, R)
    for _ in range(7):
        coef = coef * (ham.mT @ bases) / (coef @ (bases.mT @ bases) + 1e-6)
        bases = bases * (ham @ coef) / (bases @ (coef.mT @ coef) + 1e-6)
    coef = coef * (ham.mT @ bases) / (coef @ (bases.mT @ bases) + 1e-6)
    ham = conv("decode_head.hamburger.ham_out.conv", (bases @ coef.mT).unflatten(2, size))
    x = (x + group_norm("decode_head.hamburger.ham_out.gn", ham)).relu()
    x = group_norm("decode_head.align.gn", conv("decode_head.align.conv", x)).relu()

    x = x.flatten(2).mT  # (1, N, C)
    head = {name.removeprefix("decode_head.offset_learning."): entry for name, entry in entries.items()}
    w = head["cls_repr"]
    a = x @ w.mT  # (1, N, K)
    w_moved = w + a.softmax(1).mT @ x @ head["cls_offset_proj.weight"].T
    x_moved = x + a.softmax(2) @ w @ head["feat_offset_proj.weight"].T
    logits = F.layer_norm(x_moved @ w_moved.mT, w.shape[1:2], head["mask_norm.weight"], head["mask_norm.bias"])
    return logits.mT.unflatten(2, size)


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "segnext-t-k150.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An official checkpoint converted and loaded."""
    folder = tmp_path_factory.mktemp("segnext")
    save_file(ruled_entries(official_shapes("offseg-segnext-t", 150)), folder / "iter_160000.safetensors")
    convert_checkpoint(folder / "iter_160000.safetensors", folder / "model")
    return OffSegSegNextForSemanticSegmentation.from_pretrained(folder / "model")


def test_entries_of_these_tests_are_those_of_the_authors():
    entries = json.loads((GOLDEN / "segnext-t-k150.json").read_text())["entries"]
    assert official_shapes("offseg-segnext-t", 150) == {name: tuple(shape) for name, (_, shape) in entries.items()}


@pytest.mark.parametrize(("seed", "height", "width"), [(100, 128, 160), (101, 96, 96)])
def test_logits_are_the_authors(model, golden, seed, height, width):
    with torch.no_grad():
        logits = model(rule.image(seed, height, width)).logits
    torch.testing.assert_close(logits, golden[f"logits_{height}x{width}"], rtol=0, atol=1e-4)


def test_stages_are_the_authors(model, golden):
    with torch.no_grad():
        stages = model(rule.image(100, 128, 160), output_hidden_states=True).hidden_states
    for i, stage in enumerate(stages):
        torch.testing.assert_close(stage.mean((2, 3)), golden[f"stage{i}_mean"], rtol=0, atol=1e-5)


def test_reference_of_these_tests_is_the_authors_network(golden):
    with torch.no_grad():
        logits = official_logits(ruled_entries(official_shapes("offseg-segnext-t", 150)), rule.image(101, 96, 96))
    torch.testing.assert_close(logits, golden["logits_96x96"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "num_classes", "height", "width"),
    [
        ("offseg-segnext-t", 7, 65, 97),
        pytest.param("offseg-segnext-s", 19, 70, 33, marks=pytest.mark.slow),
        pytest.param("offseg-segnext-b", 171, 65, 97, marks=pytest.mark.slow),
    ],
)
def test_logits_are_right_for_other_variants_numbers_of_classes_and_sizes(variant, num_classes, height, width):
    entries = ruled_entries(official_shapes(variant, num_classes))
    image = rule.image(3, height, width)
    with torch.no_grad():
        logits = convert_entries(entries)(image).logits
        expected = official_logits(entries, image)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_variant_is_inferred(variant):
    entries = {name: torch.zeros(()).expand(shape) for name, shape in official_shapes(variant, 19).items()}
    another = "offseg-b1" if variant == "offseg-b0" else "offseg-b0"
    with pytest.raises(ValueError, match=rf"must be that of the checkpoint, which is {variant}, got '{another}'"):
        convert_entries(entries, another)


@pytest.fixture(scope="module")
def encoder_entries():
    """MSCAN-T with its ImageNet classifier."""
    head = {"head.weight": (1000, 256), "head.bias": (1000,)}
    return ruled_entries(encoder_shapes("offseg-segnext-t") | head)


@pytest.fixture(scope="module")
def encoder_folder(encoder_entries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mscan")
    torch.save({"state_dict": encoder_entries}, folder / "mscan_t.pth")
    convert_checkpoint(folder / "mscan_t.pth", folder / "encoder", "offseg-segnext-t")
    return folder / "encoder"


def test_encoder_alone_is_that_of_a_whole_model(encoder_folder):
    whole = convert_entries(
        {f"backbone.{name}": tensor for name, tensor in ruled_entries(encoder_shapes("offseg-segnext-t")).items()}
        | {
            name: tensor
            for name, tensor in ruled_entries(official_shapes("offseg-segnext-t", 7)).items()
            if "head" in name
        }
    )
    encoder = MscanBackbone.from_pretrained(encoder_folder)
    image = rule.image(4, 64, 96)
    with torch.no_grad():
        expected = whole.backbone(image).feature_maps
        found = encoder(image).feature_maps
    assert all(map(torch.equal, found, expected))


def test_encoder_may_have_the_prefix_of_a_whole_model(encoder_entries):
    plain = convert_entries(encoder_entries).state_dict()
    prefixed = convert_entries({f"backbone.{name}": tensor for name, tensor in encoder_entries.items()}).state_dict()
    assert plain.keys() == prefixed.keys()
    assert all(torch.equal(plain[name], prefixed[name]) for name in plain)


def assert_starts_from(model, encoder_entries):
    weight = encoder_entries["block3.4.attn.spatial_gating_unit.conv3.weight"]
    assert torch.equal(model.backbone.stages[2].blocks[4].attn.spatial_gating_unit.conv3.weight, weight)


@pytest.mark.parametrize(("num_labels", "normalization"), [(2, "class_bias"), (21, "fitted_layer_norm")])
def test_model_starts_from_an_encoder_with_what_fits_its_classes(
    encoder_folder, encoder_entries, num_labels, normalization
):
    model, report = OffSegSegNextForSemanticSegmentation.from_pretrained(
        encoder_folder, num_labels=num_labels, output_loading_info=True
    )
    assert all(name.startswith("decode_head.") for name in report["missing_keys"])
    assert not report["unexpected_keys"] | report["mismatched_keys"]
    assert (model.config.num_labels, model.config.logit_normalization) == (num_labels, normalization)
    assert_starts_from(model, encoder_entries)


def test_training_starts_from_an_encoder(encoder_folder, encoder_entries):
    model = create_model("offseg-segnext-t", str(encoder_folder), {0: "sky", 1: "road", 2: "car"})
    assert_starts_from(model, encoder_entries)


def test_convert_entries_lists_all_that_differs_in_an_encoder(encoder_entries):
    entries = {f"backbone.{name}": tensor for name, tensor in encoder_entries.items()}
    del entries["backbone.norm2.bias"]
    entries["backbone.block1.0.layer_scale_1"] = torch.ones(32, 1, 1)
    entries["backbone.norm.weight"] = torch.ones(256)
    with pytest.raises(ValueError, match="nearest to the encoder of offseg-segnext-t, but 3 of its") as error:
        convert_entries(entries)
    assert str(error.value).splitlines()[1:] == [
        "  missing: backbone.norm2.bias (64,)",
        "  misshapen: backbone.block1.0.layer_scale_1 (32, 1, 1), must be (32,)",
        "  unknown: backbone.norm.weight (256,)",
    ]


def test_convert_entries_raises_when_classes_are_named_for_an_encoder(encoder_entries):
    with pytest.raises(ValueError, match="`id2label` must be left out for an encoder alone"):
        convert_entries(encoder_entries, id2label={0: "sky", 1: "road"})
