import json
import shlex
import shutil

import pytest
from malformed_prediction import ROWS
from PIL import Image

from offseg_hf.commands.main import main


@pytest.fixture(scope="module")
def places(scenes, shared_model, tmp_path_factory):
    """The paths that rows may name."""
    folder = tmp_path_factory.mktemp("places")
    names = ("photos", "empty", "cut", "foreign", "wrong")
    places = {"model": shared_model, "data": scenes, "nothing": "", **{name: folder / name for name in names}}
    (folder / "empty").mkdir()
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 40)).save(folder / "photos" / "one.png")
    places["file"] = folder / "file.txt"
    places["file"].write_text("no JSON")
    for name in ("cut", "foreign", "wrong"):
        shutil.copytree(shared_model, folder / name)
    (folder / "cut" / "model.safetensors").write_bytes((shared_model / "model.safetensors").read_bytes()[:5000])
    (folder / "foreign" / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    settings = json.loads((shared_model / "preprocessor_config.json").read_text())
    (folder / "wrong" / "preprocessor_config.json").write_text(json.dumps({**settings, "do_reduce_labels": "false"}))
    return places


@pytest.mark.parametrize(("typed", "said"), ROWS, ids=[typed for typed, _ in ROWS])
def test_a_mistake_is_one_sentence_and_nothing_is_written(typed, said, places, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(typed.format(**places, new=tmp_path / "new"))
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
    assert len([line for line in lines if line.startswith("usage")]) <= 1
    assert len(lines[-1]) < 900
    assert not list(tmp_path.iterdir())
