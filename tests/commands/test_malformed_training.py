"""Malformed arguments of `offseg train`, one row each."""

import shlex

import pytest
from malformed_training import ROWS, TRAIN

from offseg_hf.commands.main import main


@pytest.fixture(scope="module")
def places(scenes, shared_model, tmp_path_factory):
    """The paths that rows may name."""
    folder = tmp_path_factory.mktemp("places")
    places = {"model": shared_model, "data": scenes, "file": folder / "file.txt"}
    places["file"].write_text("no photos")
    return places


@pytest.mark.parametrize(("typed", "said"), ROWS, ids=[typed for typed, _ in ROWS])
def test_a_mistake_is_one_sentence_and_nothing_is_written(typed, said, places, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {**places, "new": tmp_path / "new"}
    words = shlex.split(typed.format(**places, train=TRAIN.format(**places)))
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1].replace("`--", "`")
    assert len([line for line in lines if line.startswith("usage")]) <= 1
    assert len(lines[-1]) < 900
    assert not list(tmp_path.iterdir())
