"""Malformed arguments of `offseg train`, one row each."""

import math
import shlex

import pytest
import torch
from malformed_training import ROWS, TRAIN
from PIL import Image
from tiny_models import tiny_offseg

from offseg_hf.commands.main import main
from offseg_hf.data.scenes.scenes import draw_scene


@pytest.fixture(scope="module")
def places(scenes, shared_model, tmp_path_factory):
    """The paths that rows may name."""
    folder = tmp_path_factory.mktemp("places")
    names = ("photos", "one", "lost")
    places = {"model": shared_model, "data": scenes, "file": folder / "file.txt"}
    places |= {name: folder / name for name in names}
    places["file"].write_text("no photos")
    write_photos(places["photos"], {"train": [(64, 96)] * 4, "validation": [(40, 64), (64, 40)]})
    write_photos(places["one"], {"train": [(64, 96)], "validation": [(64, 96)]})
    lost = tiny_offseg(num_labels=8)
    torch.nn.init.constant_(lost.decode_head.offset_learning.cls_repr, math.nan)
    lost.save_pretrained(places["lost"])
    return places


def write_photos(folder, sizes):
    """Photos and masks of a height and width each, by split."""
    for split, of_split in sizes.items():
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for number, size in enumerate(of_split):
            photo, mask = draw_scene(number, size)
            photo.save(folder / "images" / split / f"{number}.png")
            Image.fromarray(mask).save(folder / "masks" / split / f"{number}.png")


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
