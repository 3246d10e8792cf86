"""SegNeXt with offset learning computes what the authors' model computes."""

import json
import re
import runpy
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from offseg_hf import OffSegSegNextConfig, OffSegSegNextForSemanticSegmentation

GOLDEN = Path(__file__).parents[1] / "golden"
rule = types.SimpleNamespace(**runpy.run_path(str(GOLDEN / "rule.py")))


def official_name(name):
    """The authors' name of an entry of our model."""
    if not name.startswith("backbone."):
        return name
    stage, module, rest = re.fullmatch(r"backbone\.stages\.(\d)\.(\w+)\.(.+)", name).groups()
    number = int(stage) + 1
    if module == "patch_embed":
        if number == 1:
            return f"backbone.patch_embed1.proj.{rest}"
        return f"backbone.patch_embed{number}.{rest.replace('0.', 'proj.').replace('1.', 'norm.')}"
    return f"backbone.{module.removesuffix('s')}{number}.{rest}"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "segnext-t-k150.safetensors")


@pytest.fixture(scope="module")
def entries():
    """Names and shapes of what the authors' model uses of its checkpoint."""
    entries = json.loads((GOLDEN / "segnext-t-k150.json").read_text())["entries"]
    return {name: shape for name, (_, shape) in entries.items() if ".conv_seg." not in name}


@pytest.fixture(scope="module")
def model(entries):
    model = OffSegSegNextForSemanticSegmentation(OffSegSegNextConfig(num_labels=150, logit_normalization="layer_norm"))
    weights = rule.state_dict(entries)
    model.load_state_dict({name: weights[official_name(name)] for name in model.state_dict()})
    return model.eval()


def test_entries_are_the_authors(model, entries):
    assert {official_name(name): list(tensor.shape) for name, tensor in model.state_dict().items()} == entries


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


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, 4_394_636),
        ({"hidden_sizes": (64, 128, 320, 512), "depths": (2, 2, 4, 2)}, 14_064_108),
        ({"hidden_sizes": (64, 128, 320, 512), "depths": (3, 3, 12, 3), "decoder_hidden_size": 512}, 28_160_748),
    ],
    ids=["T", "S", "B"],
)
def test_number_of_parameters_is_the_authors(fields, parameters):
    with torch.device("meta"):
        model = OffSegSegNextForSemanticSegmentation(OffSegSegNextConfig(num_labels=150, **fields))
    assert model.num_parameters() == parameters
