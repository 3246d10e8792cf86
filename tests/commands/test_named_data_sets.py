"""A benchmark by its name: training, evaluation and prediction take from it what is not given."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation, OffSegImageProcessor
from offseg_hf.commands.evaluate import main as evaluate
from offseg_hf.commands.predict import main as predict
from offseg_hf.commands.train import main as train


@pytest.fixture
def folder(tmp_path):
    """Pascal Context in miniature, as it is published, and a tiny model of 3 classes to start from."""
    rng = np.random.default_rng(0)
    (tmp_path / "VOC2010" / "ImageSets" / "SegmentationContext").mkdir(parents=True)
    for split, names in (("train", ("1", "2")), ("val", ("3",))):
        (tmp_path / "VOC2010" / "ImageSets" / "SegmentationContext" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            for part, ending, pixels in (
                ("JPEGImages", "jpg", rng.integers(0, 256, (8, 12, 3), np.uint8)),
                ("SegmentationClassContext", "png", rng.integers(0, 60, (8, 12), np.uint8)),
            ):
                (tmp_path / "VOC2010" / part).mkdir(exist_ok=True)
                Image.fromarray(pixels).resize((96, 64), Image.Resampling.NEAREST).save(
                    tmp_path / "VOC2010" / part / f"{name}.{ending}"
                )
    torch.manual_seed(0)
    config = OffSegConfig(
        num_labels=3, hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_attention_heads=(1, 1, 2, 2),
        decoder_hidden_size=16,
    )  # fmt: skip
    OffSegForSemanticSegmentation(config).save_pretrained(tmp_path / "base")
    return tmp_path


def arguments(folder, *more):
    return [
        "--model_name_or_path", str(folder / "base"), "--dataset", "pascal_context", "--data_dir", str(folder),
        "--output_dir", str(folder / "model"), "--max_steps", "2", "--warmup_steps", "0.5",
        "--per_device_train_batch_size", "2", "--use_cpu", "--disable_tqdm", "True", *more,
    ]  # fmt: skip


def test_everything_that_is_not_given_is_the_data_sets(folder):
    assert train(arguments(folder)) == 0
    config = json.loads((folder / "model" / "config.json").read_text())
    assert len(config["id2label"]) == 59 and config["id2label"]["46"] == "sky"
    processor = OffSegImageProcessor.from_pretrained(folder / "model")
    assert processor.do_reduce_labels
    assert dict(processor.size) == {"longest_edge": 520, "shortest_edge": 520}
    record = json.loads((folder / "model" / "training.json").read_text())
    assert (record["crop_size"], record["resize"], record["dataset_id"]) == ([480, 480], [520, 520], None)
    trained = json.loads((folder / "model" / "eval_results.json").read_text())

    assert evaluate(["--model", str(folder / "model"), "--dataset", "pascal_context", "--data_dir", str(folder)]) == 0
    measured = json.loads((folder / "model" / "evaluation-validation.json").read_text())
    assert measured["overall_accuracy"] == pytest.approx(trained["eval_overall_accuracy"], abs=1e-3)
    assert measured["dataset"] == ["pascal_context"]
    photo = folder / "VOC2010" / "JPEGImages" / "3.jpg"
    assert not predict(["--model", str(folder / "model"), "--input", str(photo), "--output", str(folder / "out")])


def test_what_is_given_wins_over_the_data_set(folder):
    (folder / "table.json").write_text(json.dumps({stored: "thing" if stored % 2 else None for stored in range(60)}))
    more = "--labels", "thing,other", "--label_table", str(folder / "table.json"), "--crop_size", "32", "64"
    assert train(arguments(folder, *more, "--resize", "96", "64", "--streaming")) == 0
    processor = OffSegImageProcessor.from_pretrained(folder / "model")
    assert not processor.do_reduce_labels
    assert dict(processor.size) == {"longest_edge": 96, "shortest_edge": 64}
    record = json.loads((folder / "model" / "training.json").read_text())
    assert (record["crop_size"], record["resize"]) == ([32, 64], [96, 64])
    options = "--label_table", str(folder / "table.json"), "--size", "96", "64"
    assert (
        evaluate(
            ["--model", str(folder / "model"), "--dataset", "pascal_context", "--data_dir", str(folder), *options]
        )
        == 0
    )
    assert (folder / "model" / "evaluation-validation.json").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num_labels", "60"], "`--num_labels` must be 59 for Pascal Context, got 60"),
        (
            ["--data_dir", "./nowhere"],
            "`--data_dir` must be the folder of Pascal Context, its Parquet files or a Hub id",
        ),
        (["--do_reduce_labels", "False"], "`--do_reduce_labels` must be True for Pascal Context, got False"),
        (["--label_table", "nowhere.json"], "`--label_table` must be a JSON file"),
        (["--dataset", "pascal"], "`--labels` or `--num_labels` must be given"),
    ],
)
def test_mistakes_are_told_in_one_sentence(folder, capsys, more, message):
    assert train(arguments(folder, *more)) == 2
    assert message in capsys.readouterr().err
