"""The script that makes the Space's model, of which the training itself is tested elsewhere."""

import importlib.util
from pathlib import Path

import pytest

import offseg_hf

SCRIPT = Path(offseg_hf.__file__).parents[1] / "scripts" / "build_space_model.py"


@pytest.mark.slow
def test_space_model_is_trained_measured_and_written(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("build_space_model", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(["--output", str(tmp_path / "space"), "--max_steps", "2", "--num_train", "8"])
    printed = capsys.readouterr().out
    assert "$ offseg train --model_name_or_path " in printed and "$ offseg evaluate --model " in printed
    assert len(list((tmp_path / "space" / "examples").glob("street-*.jpg"))) == len(script.EXAMPLE_SEEDS)
    names = {path.name for path in (tmp_path / "space" / "tiny-street-scenes").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= names and "README.md" not in names
