"""The paper's own network computes what the authors' model computes."""

import json
import re
import runpy
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from offseg_hf import OffSegEfficientFormerConfig, OffSegEfficientFormerForSemanticSegmentation

GOLDEN = Path(__file__).parents[1] / "golden"
rule = types.SimpleNamespace(**runpy.run_path(str(GOLDEN / "rule.py")))
# What a size or the ImageNet training alone decided, or nothing uses.
DEAD = r"\.conv_seg\.|\.hamming_|\.init_pos$|\.attention_biases$|\.attention_bias_idxs"


def official_name(name):
    """The authors' name of an entry of our model."""
    name = name.replace("backbone.stem.", "backbone.patch_embed.").replace("attention_biases", "attention_biases_seg")
    name = re.sub(r"stages\.(\d)\.blocks", lambda match: f"network.{2 * int(match[1])}", name)
    return re.sub(r"stages\.(\d)\.downsample", lambda match: f"network.{2 * int(match[1]) - 1}", name)


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "offseg-t-k150.safetensors")


@pytest.fixture(scope="module")
def entries():
    """Names and shapes of what the authors' model uses of its checkpoint."""
    entries = json.loads((GOLDEN / "offseg-t-k150.json").read_text())["entries"]
    return {name: shape for name, (_, shape) in entries.items() if not re.search(DEAD, name)}


@pytest.fixture(scope="module")
def model(entries):
    config = OffSegEfficientFormerConfig(num_labels=150, logit_normalization="layer_norm")
    model = OffSegEfficientFormerForSemanticSegmentation(config)
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
        ({}, 6_183_626),
        (
            {
                "hidden_sizes": (32, 64, 144, 288),
                "depths": (4, 4, 12, 8),
                "num_attention_blocks": 4,
                "mlp_ratios": ((4,) * 4, (4,) * 4, (4, 4, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4), (4, 4, 3, 3, 3, 3, 4, 4)),
                "neck_hidden_sizes": (32, 64, 128, 256),
            },
            12_916_850,
        ),
        (
            {
                "hidden_sizes": (40, 80, 192, 384),
                "depths": (5, 5, 15, 10),
                "num_attention_blocks": 6,
                "mlp_ratios": (
                    (4,) * 5,
                    (4,) * 5,
                    (4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4),
                    (4, 4, 4, 3, 3, 3, 3, 4, 4, 4),
                ),
                "neck_hidden_sizes": (32, 64, 128, 256),
            },
            26_375_458,
        ),
    ],
    ids=["T", "B", "L"],
)
def test_number_of_parameters_is_the_authors(fields, parameters):
    with torch.device("meta"):
        model = OffSegEfficientFormerForSemanticSegmentation(OffSegEfficientFormerConfig(num_labels=150, **fields))
    assert model.num_parameters() == parameters
