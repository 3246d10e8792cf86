import json
import runpy
from pathlib import Path

import pytest
import torch

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation, OffSegImageProcessor
from offseg_hf.data.scenes import SCENE_LABELS, write_scenes

main = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "evaluate.py"))["main"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes and a tiny model."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_scenes(folder / "scenes", num_train=4, num_validation=2, size=(64, 96))
    torch.manual_seed(0)
    config = OffSegConfig(
        id2label=dict(enumerate(SCENE_LABELS)), hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1),
        num_attention_heads=(1, 1, 2, 2), decoder_hidden_size=16,
    )  # fmt: skip
    OffSegForSemanticSegmentation(config).save_pretrained(folder / "model")
    OffSegImageProcessor(size={"height": 64, "width": 96}).save_pretrained(folder / "model")
    return folder


def measure(folder, output, *more):
    main(["--model", str(folder / "model"), "--dataset", str(folder / "scenes"), "--output", str(output), *more])
    return json.loads(output.read_text())


def test_size_of_the_photos_is_the_arguments_when_given(folder, tmp_path):
    same = measure(folder, tmp_path / "same.json", "--size", "96", "64")
    larger = measure(folder, tmp_path / "larger.json", "--size", "192", "128")
    default = measure(folder, tmp_path / "default.json")
    assert same["loss"] == pytest.approx(default["loss"])
    assert larger["loss"] != pytest.approx(default["loss"])


def test_results_are_not_overwritten_unasked(folder, tmp_path, capsys):
    output = tmp_path / "results.json"
    output.write_text("mine")
    with pytest.raises(SystemExit):
        measure(folder, output)
    assert "pass --overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert "mean_iou" in measure(folder, output, "--overwrite")


def test_error_is_one_sentence_when_the_split_is_unknown(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        measure(folder, tmp_path / "results.json", "--split", "test")
    assert "`split` must be one of the splits" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()
