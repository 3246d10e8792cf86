import json
import runpy
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSemanticSegmentation

from offseg_hf.commands.convert import main

TESTS = Path(__file__).parents[1]
rule = types.SimpleNamespace(**runpy.run_path(str(TESTS / "golden" / "rule.py")))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The authors' B0 for 150 classes, with weights by rule."""
    golden = json.loads((TESTS / "golden" / "segformer-b0-k150.json").read_text())
    entries = {
        name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, (dtype, shape) in golden["entries"].items()
    }
    entries.update(rule.state_dict({name: golden["entries"][name][1] for name in golden["ruled"]}))
    path = tmp_path_factory.mktemp("checkpoint") / "iter_160000.safetensors"
    save_file(entries, path)
    return str(path)


def test_convert_checkpoint_writes_a_model_with_the_authors_logits(checkpoint, tmp_path, capsys):
    folder = tmp_path / "model"
    assert main(["--checkpoint", checkpoint, "--output", str(folder), "--variant", "offseg-b0"]) == 0
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    with torch.no_grad():
        logits = model(rule.image(101, 96, 96)).logits
    golden = load_file(TESTS / "golden" / "segformer-b0-k150.safetensors")
    torch.testing.assert_close(logits, golden["logits_96x96"], rtol=0, atol=1e-4)
    assert "150 classes, 3,884,940 parameters" in capsys.readouterr().out


def test_convert_checkpoint_stops_when_the_variant_contradicts_the_file(checkpoint, tmp_path, capsys):
    assert main(["--checkpoint", checkpoint, "--output", str(tmp_path / "model"), "--variant", "offseg-b1"]) == 2
    assert "`--variant` must be that of the checkpoint, which is offseg-b0" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_convert_checkpoint_stops_when_there_is_no_file(tmp_path, capsys):
    assert main(["--checkpoint", str(tmp_path / "absent.pth"), "--output", str(tmp_path / "model")]) == 2
    assert "`--checkpoint` must be a file, but there is none at" in capsys.readouterr().err


def test_convert_checkpoint_overwrites_only_when_told(checkpoint, tmp_path, capsys):
    (tmp_path / "config.json").write_text("mine")
    assert main(["--checkpoint", checkpoint, "--output", str(tmp_path)]) == 2
    assert "`--output` must be a new or empty folder" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "mine"
    assert main(["--checkpoint", checkpoint, "--output", str(tmp_path), "--overwrite"]) == 0
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "offseg"
