"""The comparison of trainings: what is trained, how it is measured, and the record that a comparison goes on from."""

import json

import numpy as np
import pytest
from compare_training import main, measure, table
from datasets import Dataset, Image
from PIL import Image as PILImage
from tiny_models import tiny_offseg

from offseg_hf import OffSegImageProcessor
from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes

ORIENTATION = 0x0112


def arguments(data, output, *models, max_steps=2):
    return [
        "--models", *models, "--dataset", str(data), "--labels", ",".join(SCENE_LABELS), "--seeds", "0",
        "--max_steps", str(max_steps), "--warmup_steps", "0", "--batch_size", "2", "--resize", "64", "64",
        "--crop_size", "64", "64", "--output", str(output),
    ]  # fmt: skip


def test_models_are_trained_measured_and_not_trained_again(tmp_path, capsys):
    data = write_scenes(tmp_path / "scenes", num_train=2, num_validation=1, size=(64, 96), num_shards=1)
    output = tmp_path / "comparison.json"
    main(arguments(data, output, "offseg-b0-1x1"))
    before = json.loads(output.read_text())["runs"]["offseg-b0-1x1"]
    assert 0 <= before["0"]["mean_iou"] <= 1 and before["0"]["parameters"] > 3e6
    main(arguments(data, output, "upernet", "offseg-b0-1x1"))
    runs = json.loads(output.read_text())["runs"]
    assert runs["offseg-b0-1x1"] == before and 0 <= runs["upernet"]["0"]["mean_iou"] <= 1
    assert "| upernet " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(arguments(data, output, "upernet", max_steps=3))
    assert "`--output` must hold runs of this schedule, and" in capsys.readouterr().err


def test_masks_are_turned_as_their_photos_are(tmp_path):
    exif = PILImage.Exif()
    exif[ORIENTATION] = 6  # to be turned by a quarter
    generator = np.random.default_rng(0)
    photo = PILImage.fromarray(generator.integers(256, size=(64, 96, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.jpg", exif=exif)
    PILImage.fromarray(generator.integers(4, size=(64, 96), dtype=np.uint8)).save(tmp_path / "mask.png")
    files = {"image": [f"{tmp_path}/photo.jpg"], "mask": [f"{tmp_path}/mask.png"]}
    data = Dataset.from_dict(files).cast_column("image", Image()).cast_column("mask", Image())
    (tmp_path / "data").mkdir()
    data.to_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet")
    metrics = measure(tiny_offseg(), OffSegImageProcessor(size=64), f"{tmp_path}/data")
    assert 0 <= metrics["mean_iou"] <= 1


def test_table_has_mean_and_standard_deviation_of_the_seeds():
    runs = {
        "offseg-b0": {
            "0": {"mean_iou": 0.2, "parameters": 3_850_000},
            "1": {"mean_iou": 0.4, "parameters": 3_850_000},
        },
        "upernet": {"0": {"mean_iou": 0.3, "parameters": 2_540_000}},
    }
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in table(runs).splitlines()[2:]] == [
        ["offseg-b0", "3.85 M", "0.300 ± 0.141", "0.200, 0.400"],
        ["upernet", "2.54 M", "0.300", "0.300"],
    ]
