import json
import os
import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from offseg_hf import OffSegForSemanticSegmentation
from offseg_hf.conversion import convert_checkpoint, convert_entries, read_checkpoint

GOLDEN = Path(__file__).parent / "golden"
rule = types.SimpleNamespace(**runpy.run_path(str(GOLDEN / "rule.py")))

NARROW, WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
# name → widths, depths, parameters for 150 classes
ARCHITECTURES = {
    "offseg-b0": (NARROW, (2, 2, 2, 2), 3_884_940),
    "offseg-b1": (WIDE, (2, 2, 2, 2), 13_848_044),
    "offseg-b2": (WIDE, (3, 4, 6, 3), 24_892_908),
    "offseg-b3": (WIDE, (3, 4, 18, 3), 44_768_748),
    "offseg-b4": (WIDE, (3, 8, 27, 3), 61_539_308),
    "offseg-b5": (WIDE, (3, 6, 40, 3), 82_139_628),
}


def official_shapes(variant, num_classes):
    """Every entry of an official checkpoint: name → shape."""
    widths, depths, _ = ARCHITECTURES[variant]
    shapes = {}

    def add(name, *weight, bias=True):
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = weight[:1]

    def add_conv_and_norm(name, c_in):
        add(f"{name}.conv", 256, c_in, 1, 1, bias=False)
        add(f"{name}.bn", 256)
        shapes.update({f"{name}.bn.{leaf}": (256,) for leaf in ("running_mean", "running_var")})
        shapes[f"{name}.bn.num_batches_tracked"] = ()

    for i, (c, depth) in enumerate(zip(widths, depths)):
        c_in, kernel = (3, 7) if i == 0 else (widths[i - 1], 3)
        add(f"backbone.layers.{i}.0.projection", c, c_in, kernel, kernel)
        add(f"backbone.layers.{i}.0.norm", c)
        for j in range(depth):
            block = f"backbone.layers.{i}.1.{j}"
            add(f"{block}.norm1", c)
            shapes[f"{block}.attn.attn.in_proj_weight"] = (3 * c, c)
            shapes[f"{block}.attn.attn.in_proj_bias"] = (3 * c,)
            add(f"{block}.attn.attn.out_proj", c, c)
            if i < 3:
                add(f"{block}.attn.sr", c, c, (8, 4, 2)[i], (8, 4, 2)[i])
                add(f"{block}.attn.norm", c)
            add(f"{block}.norm2", c)
            add(f"{block}.ffn.layers.0", 4 * c, c, 1, 1)
            add(f"{block}.ffn.layers.1", 4 * c, 1, 3, 3)
            add(f"{block}.ffn.layers.4", c, 4 * c, 1, 1)
        add(f"backbone.layers.{i}.2", c)
        add_conv_and_norm(f"decode_head.convs.{i}", c)
    add("decode_head.conv_seg", num_classes, 256, 1, 1)
    add_conv_and_norm("decode_head.fusion_conv", 1024)
    shapes["decode_head.offset_learning.cls_repr"] = (1, num_classes, 256)
    add("decode_head.offset_learning.mask_norm", num_classes)
    add("decode_head.offset_learning.cls_offset_proj", 256, 256, bias=False)
    add("decode_head.offset_learning.feat_offset_proj", 256, 256, bias=False)
    return shapes


def official_entries(variant="offseg-b0", num_classes=150):
    """An official checkpoint with values by rule; the dead classifier is not a number, and must not matter."""
    shapes = official_shapes(variant, num_classes)
    floats = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    entries = rule.state_dict(floats)
    entries.update({name: torch.tensor(7) for name in shapes if name not in floats})
    entries["decode_head.conv_seg.weight"].fill_(torch.nan)
    return entries


def empty_entries(variant="offseg-b0", num_classes=150):
    """An official checkpoint without memory: names and shapes of zeros."""
    return {name: torch.zeros(()).expand(shape) for name, shape in official_shapes(variant, num_classes).items()}


def official_logits(entries, x):
    """The authors' network written out from its description, straight on the checkpoint's entries."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], entries[f"{name}.weight"], entries[f"{name}.bias"], 1e-6)

    def conv(name, x, **kwargs):
        return F.conv2d(x, entries[f"{name}.weight"], entries.get(f"{name}.bias"), **kwargs)

    def conv_norm_relu(name, x):
        mean, var, weight, bias = (
            entries[f"{name}.bn.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(conv(f"{name}.conv", x), mean, var, weight, bias).relu()

    def tokens(x):
        return x.flatten(2).mT  # (B, C, H, W) -> (B, H*W, C)

    stages = []
    for i, (heads, reduction) in enumerate(zip((1, 2, 5, 8), (8, 4, 2, 1))):
        stage = f"backbone.layers.{i}"
        x = conv(f"{stage}.0.projection", x, stride=4 if i == 0 else 2, padding=3 if i == 0 else 1)
        size = x.shape[2:]

        def image(x, size=size):
            return x.mT.unflatten(2, size)  # (B, H*W, C) -> (B, C, H, W)

        x = norm(f"{stage}.0.norm", tokens(x))
        for j in range(sum(name.startswith(f"{stage}.1.") and name.endswith("norm1.bias") for name in entries)):
            block = f"{stage}.1.{j}"
            query = key = norm(f"{block}.norm1", x)
            if reduction > 1:
                key = norm(f"{block}.attn.norm", tokens(conv(f"{block}.attn.sr", image(query), stride=reduction)))
            weights, biases = (entries[f"{block}.attn.attn.in_proj_{leaf}"].chunk(3) for leaf in ("weight", "bias"))
            query, key, value = (
                F.linear(z, weight, bias).unflatten(2, (heads, -1)).transpose(1, 2)  # (B, heads, N, C/heads)
                for z, weight, bias in zip((query, key, key), weights, biases)
            )
            attended = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
            out = f"{block}.attn.attn.out_proj"
            x = x + F.linear(attended.transpose(1, 2).flatten(2), entries[f"{out}.weight"], entries[f"{out}.bias"])
            hidden = conv(f"{block}.ffn.layers.0", image(norm(f"{block}.norm2", x)))
            hidden = F.gelu(conv(f"{block}.ffn.layers.1", hidden, padding=1, groups=hidden.shape[1]))
            x = x + tokens(conv(f"{block}.ffn.layers.4", hidden))
        x = image(norm(f"{stage}.2", x))
        stages.append(x)

    size = stages[0].shape[2:]
    maps = [conv_norm_relu(f"decode_head.convs.{i}", stage) for i, stage in enumerate(stages)]
    maps = [F.interpolate(map_, size=size, mode="bilinear", align_corners=False) for map_ in maps]
    x = F.max_pool2d(conv_norm_relu("decode_head.fusion_conv", torch.cat(maps, 1)), 2)

    size, x = x.shape[2:], tokens(x)
    head = {name.removeprefix("decode_head.offset_learning."): entry for name, entry in entries.items()}
    w = head["cls_repr"]
    a = x @ w.mT  # (B, N, K)
    w_moved = w + a.softmax(1).mT @ x @ head["cls_offset_proj.weight"].T
    x_moved = x + a.softmax(2) @ w @ head["feat_offset_proj.weight"].T
    logits = F.layer_norm(
        x_moved @ w_moved.mT, w.shape[1:2], head["mask_norm.weight"], head["mask_norm.bias"], eps=1e-5
    )
    return logits.mT.unflatten(2, size)


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "segformer-b0-k150.safetensors")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint file as mmsegmentation writes it."""
    path = tmp_path_factory.mktemp("checkpoint") / "iter_160000.pth"
    meta = {"iter": 160_000, "dataset_meta": {"classes": ("wall", "building")}}
    torch.save({"meta": meta, "state_dict": official_entries()}, path)
    return path


@pytest.fixture(scope="module")
def folder(checkpoint):
    """That checkpoint converted."""
    folder = checkpoint.parent / "models" / "offseg-b0"
    convert_checkpoint(checkpoint, folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForSemanticSegmentation.from_pretrained(folder)


def test_entries_of_these_tests_are_those_of_the_authors():
    entries = json.loads((GOLDEN / "segformer-b0-k150.json").read_text())["entries"]
    assert official_shapes("offseg-b0", 150) == {name: tuple(shape) for name, (_, shape) in entries.items()}


@pytest.mark.parametrize(("seed", "height", "width"), [(100, 128, 160), (101, 96, 96)])
def test_logits_are_the_authors(model, golden, seed, height, width):
    with torch.no_grad():
        logits = model(rule.image(seed, height, width)).logits
    torch.testing.assert_close(logits, golden[f"logits_{height}x{width}"], rtol=0, atol=1e-4)


def test_stages_are_the_authors(model, golden):
    with torch.no_grad():
        stages = model(rule.image(100, 128, 160), output_hidden_states=True).hidden_states
    assert len(stages) == 4
    for i, stage in enumerate(stages):
        torch.testing.assert_close(stage.mean((2, 3)), golden[f"stage{i}_mean"], rtol=0, atol=1e-5)


def test_folder_loads_as_a_published_model(folder):
    model, info = AutoModelForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
    assert type(model) is OffSegForSemanticSegmentation
    assert not any(info.values())
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_884_940
    assert model.config.logit_normalization == "layer_norm"
    assert model.config.layer_norm_eps == 1e-6
    assert model.config.id2label[149] == "LABEL_149"
    assert model.config.label2id["LABEL_149"] == 149


def test_folder_holds_the_image_processor(folder):
    image_processor = AutoImageProcessor.from_pretrained(folder)
    assert dict(image_processor.size) == {"shortest_edge": 512, "longest_edge": 2048}


@pytest.mark.parametrize(("num_classes", "height", "width"), [(7, 65, 97), (19, 70, 33)])
def test_logits_are_right_for_other_numbers_of_classes_at_odd_sizes(num_classes, height, width):
    check_logits("offseg-b0", num_classes, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("variant", list(ARCHITECTURES)[1:])
def test_logits_are_right_for_every_variant(variant):
    check_logits(variant, 19, 65, 97)


def check_logits(variant, num_classes, height, width):
    entries = official_entries(variant, num_classes)
    image = rule.image(3, height, width)
    with torch.no_grad():
        logits = convert_entries(entries)(image).logits
        expected = official_logits(entries, image)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_reference_of_these_tests_is_the_authors_network(golden):
    with torch.no_grad():
        logits = official_logits(official_entries(), rule.image(101, 96, 96))
    torch.testing.assert_close(logits, golden["logits_96x96"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_variant_is_inferred(variant):
    another = "offseg-b1" if variant == "offseg-b0" else "offseg-b0"
    with pytest.raises(ValueError, match=rf"must be that of the checkpoint, which is {variant}, got '{another}'"):
        convert_entries(empty_entries(variant), another)


def test_model_is_of_the_inferred_variant():
    model = convert_entries(empty_entries("offseg-b1"))
    widths, depths, parameters = ARCHITECTURES["offseg-b1"]
    assert (tuple(model.config.hidden_sizes), tuple(model.config.depths)) == (widths, depths)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("num_classes", [7, 171])
def test_number_of_classes_is_inferred(num_classes):
    assert convert_entries(empty_entries(num_classes=num_classes)).config.num_labels == num_classes


def test_class_names_are_kept_when_given():
    config = convert_entries(empty_entries(num_classes=3), id2label={0: "sky", 1: "road", 2: "car"}).config
    assert config.id2label == {0: "sky", 1: "road", 2: "car"}
    assert config.label2id == {"sky": 0, "road": 1, "car": 2}


def test_half_precision_becomes_float32():
    entries = {name: tensor.half() for name, tensor in official_entries(num_classes=7).items()}
    model = convert_entries(entries)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert model.decode_head.fusion_conv.bn.num_batches_tracked.dtype == torch.int64
    assert torch.equal(
        model.decode_head.offset_learning.cls_repr, entries["decode_head.offset_learning.cls_repr"].float()
    )


def test_dead_classifier_may_be_left_out():
    entries = {name: entry for name, entry in empty_entries().items() if "conv_seg" not in name}
    assert convert_entries(entries).config.num_labels == 150


def test_convert_entries_lists_all_that_differs():
    entries = empty_entries()
    del entries["backbone.layers.0.1.1.attn.attn.in_proj_bias"]
    del entries["decode_head.convs.2.bn.num_batches_tracked"]
    entries["auxiliary_head.conv_seg.weight"] = torch.empty(150, 256, 1, 1)
    entries["backbone.layers.2.1.0.ffn.layers.0.weight"] = torch.empty(640, 160)
    entries["decode_head.offset_learning.mask_norm.bias"] = torch.empty(19)
    with pytest.raises(ValueError, match="nearest to offseg-b0 with 150 classes, but 5 of") as error:
        convert_entries(entries)
    assert str(error.value).splitlines()[1:] == [
        "  missing: backbone.layers.0.1.1.attn.attn.in_proj_bias (96,)",
        "  missing: decode_head.convs.2.bn.num_batches_tracked ()",
        "  misshapen: backbone.layers.2.1.0.ffn.layers.0.weight (640, 160), must be (640, 160, 1, 1)",
        "  misshapen: decode_head.offset_learning.mask_norm.bias (19,), must be (150,)",
        "  unknown: auxiliary_head.conv_seg.weight (150, 256, 1, 1)",
    ]


def test_convert_entries_lists_every_missing_entry():
    entries = empty_entries()
    rest = {name: entries.pop(name) for name in ("decode_head.offset_learning.cls_repr", "decode_head.conv_seg.bias")}
    with pytest.raises(ValueError, match="nearest to offseg-b0") as error:
        convert_entries(rest)
    missing = [line.split()[1] for line in str(error.value).splitlines()[1:]]
    assert sorted(missing) == sorted(name for name in entries if name != "decode_head.conv_seg.weight")


def test_convert_entries_raises_when_a_stage_is_deeper_than_any_variants():
    entries = empty_entries("offseg-b2")
    entries |= {
        name.replace("layers.2.1.5.", "layers.2.1.6."): entry
        for name, entry in entries.items()
        if name.startswith("backbone.layers.2.1.5.")
    }
    with pytest.raises(ValueError, match=r"nearest to offseg-b2(?s:.*)unknown: backbone\.layers\.2\.1\.6\."):
        convert_entries(entries)


def test_convert_entries_raises_when_the_head_has_no_offset_learning():
    entries = {name: entry for name, entry in empty_entries().items() if "offset_learning" not in name}
    with pytest.raises(
        ValueError, match="`checkpoint` must be of a model with offset learning or of an encoder alone"
    ):
        convert_entries(entries)


def test_convert_entries_raises_when_the_variant_is_another():
    with pytest.raises(ValueError, match="`variant` must be that of the checkpoint, which is offseg-b0"):
        convert_entries(empty_entries(), "offseg-b1")


def test_convert_entries_raises_when_class_names_do_not_fit():
    with pytest.raises(ValueError, match="`id2label` must name the 7 classes of the checkpoint, got 2 names"):
        convert_entries(empty_entries(num_classes=7), id2label={0: "sky", 1: "road"})


def test_read_checkpoint_takes_every_form(tmp_path):
    entries = {"weight": torch.arange(3.0), "num_batches_tracked": torch.tensor(5)}
    torch.save(entries, tmp_path / "bare.pth")
    torch.save({"state_dict": entries}, tmp_path / "wrapped.pth")
    torch.save({"state_dict": entries}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(entries, tmp_path / "flat.safetensors")
    for path in tmp_path.iterdir():
        found = read_checkpoint(path)
        assert found.keys() == entries.keys()
        assert all(torch.equal(found[name], entries[name]) for name in entries)


def test_read_checkpoint_skips_the_training_records_of_mmengine(tmp_path, monkeypatch):
    # As mmengine's class pickles: arrays, numpy scalars, and references to its own methods.
    class HistoryBuffer:
        def __init__(self):
            self.history, self.methods = np.ones(3), {"mean": HistoryBuffer.mean}

        def mean(self):
            return self.history.mean()

    HistoryBuffer.__qualname__, HistoryBuffer.__module__ = "HistoryBuffer", "mmengine.logging.history_buffer"
    HistoryBuffer.mean.__qualname__, HistoryBuffer.mean.__module__ = "HistoryBuffer.mean", HistoryBuffer.__module__
    module = types.ModuleType(HistoryBuffer.__module__)
    module.HistoryBuffer = HistoryBuffer
    hub = {"log_scalars": {"loss": HistoryBuffer()}, "runtime_info": {"iter": np.int64(3), "lr": np.float64(0.1)}}
    with monkeypatch.context() as context:
        for name in ("mmengine", "mmengine.logging"):
            context.setitem(sys.modules, name, types.ModuleType(name))
        context.setitem(sys.modules, module.__name__, module)
        torch.save({"message_hub": hub, "state_dict": {"weight": torch.ones(2)}}, tmp_path / "iter_3.pth")
    with pytest.raises(Exception, match="HistoryBuffer was not an allowed global"):
        torch.load(tmp_path / "iter_3.pth", weights_only=True)

    entries = read_checkpoint(tmp_path / "iter_3.pth")
    assert list(entries) == ["weight"]
    assert torch.equal(entries["weight"], torch.ones(2))


class Attack:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_read_checkpoint_runs_no_code_from_the_file(tmp_path):
    torch.save({"meta": Attack(tmp_path / "ran"), "state_dict": {}}, tmp_path / "attack.pth")
    with pytest.raises(ValueError, match=r"attack\.pth, where reading stopped at exec"):
        read_checkpoint(tmp_path / "attack.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["page.pth", "cut.pth", "empty.pth", "page.safetensors"])
def test_read_checkpoint_raises_when_the_file_is_damaged(tmp_path, name):
    torch.save({"weight": torch.ones(1000)}, tmp_path / "whole.pth")
    content = {"page": b"<!DOCTYPE html>", "cut": (tmp_path / "whole.pth").read_bytes()[:2000], "empty": b""}
    (tmp_path / name).write_bytes(content[name.split(".")[0]])
    with pytest.raises(ValueError, match="`checkpoint` must be a whole file of tensors"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("content", [[torch.ones(2)], {"epoch": 3}, {"state_dict": {"weight": [1.0]}}])
def test_read_checkpoint_raises_when_it_holds_no_dictionary_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="`checkpoint` must be a dictionary of tensors"):
        read_checkpoint(tmp_path / "other.pth")


def test_read_checkpoint_raises_when_there_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`checkpoint` must be a file, but there is none at .*absent\.pth"):
        read_checkpoint(tmp_path / "absent.pth")


def test_convert_checkpoint_leaves_nothing_behind_when_it_fails(tmp_path):
    entries = official_entries()
    del entries["decode_head.offset_learning.cls_repr"]
    save_file(entries, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match="but 1 of its entries differ"):
        convert_checkpoint(tmp_path / "broken.safetensors", tmp_path / "model")
    assert os.listdir(tmp_path) == ["broken.safetensors"]


def test_convert_checkpoint_leaves_nothing_beside_the_folder(folder):
    assert os.listdir(folder.parent) == ["offseg-b0"]
    assert sorted(os.listdir(folder)) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "training.json",
    ]


def test_convert_checkpoint_raises_before_reading_when_the_folder_is_not_empty(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="`output` must be a new or empty folder"):
        convert_checkpoint(tmp_path / "absent.pth", tmp_path)
    with pytest.raises(FileExistsError, match="`output` must be a new or empty folder"):
        convert_checkpoint(tmp_path / "absent.pth", tmp_path / "notes.txt", overwrite=True)


def test_convert_checkpoint_replaces_only_its_own_files_when_told_to_overwrite(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "config.json").write_text("{}")
    convert_checkpoint(checkpoint, tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert AutoModelForSemanticSegmentation.from_pretrained(tmp_path).config.num_labels == 150


def test_convert_checkpoint_leaves_nothing_that_loads_when_it_is_stopped_while_it_overwrites(checkpoint, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").mkdir()  # which no file can replace
    with pytest.raises(OSError, match=r"model\.safetensors"):
        convert_checkpoint(checkpoint, tmp_path, overwrite=True)
    assert not (tmp_path / "config.json").exists()
    assert not list(tmp_path.parent.glob(".unfinished*"))
