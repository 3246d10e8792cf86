"""A labelling tool's folder, as a person hands it to the commands."""

import json

import datasets
import numpy as np
import pytest
from mask_samples import write

from offseg_hf.commands.evaluate import main as evaluate
from offseg_hf.commands.prepare import main as prepare
from offseg_hf.commands.train import main as train
from offseg_hf.models.image_processing_offseg import read_mask

COLOURS = {"car": (0, 0, 142), "road": (128, 64, 128), "sky": (70, 130, 180)}  # in the tool's order


@pytest.fixture
def labelled(tmp_path):
    """Photos of sky above road, with a car on some, as Pascal VOC's folders; half of the sky is not labelled."""
    folder = tmp_path / "labelled"
    rows = [f"{name}:{','.join(map(str, colour))}::" for name, colour in COLOURS.items()]
    folder.mkdir()
    (folder / "labelmap.txt").write_text("\n".join(["background:0,0,0::", *rows]))
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        for number in numbers:
            mask = np.zeros((64, 96, 3), np.uint8)
            mask[16:32] = COLOURS["sky"]
            mask[32:] = COLOURS["road"]
            mask[40:48, 10 : 20 + number] = COLOURS["car"]
            write(folder / "SegmentationClass" / f"{number}.png", mask)
            write(folder / "JPEGImages" / f"{number}.jpg", mask // 2 + 60)
        names = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text("".join(f"{number}\n" for number in numbers))
    return folder


def training(dataset, model, output, *more):
    return [
        "--model_name_or_path", str(model), "--dataset", str(dataset), "--output_dir", str(output), "--max_steps", "1",
        "--per_device_train_batch_size", "2", "--crop_size", "64", "64", "--resize", "96", "64", "--use_cpu",
        "--disable_tqdm", "True", *more,
    ]  # fmt: skip


def names_of(model):
    id2label = json.loads((model / "config.json").read_text())["id2label"]
    return [id2label[str(label_id)] for label_id in range(len(id2label))]


def test_model_is_trained_and_measured_on_a_tools_folder_by_the_names_of_its_classes(
    labelled, shared_model, tmp_path, capsys
):
    assert train(training(labelled, shared_model, tmp_path / "model")) == 0
    assert names_of(tmp_path / "model") == ["car", "road", "sky"]
    found = capsys.readouterr().out
    assert "Pascal VOC" in found and "4 of train, 2 of val" in found and "background" in found

    assert evaluate(["--model", str(tmp_path / "model"), "--dataset", str(labelled)]) == 0
    report = json.loads((tmp_path / "model" / "evaluation-validation.json").read_text())
    trained = json.loads((tmp_path / "model" / "eval_results.json").read_text())
    assert report["num_examples"] == 2
    assert report["iou_road"] == pytest.approx(trained["eval_iou_road"])


def test_given_labels_set_the_order_of_the_ids(labelled, shared_model, tmp_path):
    assert train(training(labelled, shared_model, tmp_path / "model", "--labels", "sky,road,car")) == 0
    assert names_of(tmp_path / "model") == ["sky", "road", "car"]


def test_model_of_other_classes_is_not_measured(labelled, shared_model, capsys):
    assert evaluate(["--model", str(shared_model), "--dataset", str(labelled)]) == 2
    assert "`labels` must have the names that the files have, but only in `labels`:" in capsys.readouterr().err


def test_shards_hold_the_ids_of_the_names_that_lie_beside_them(labelled, shared_model, tmp_path):
    output = tmp_path / "shards"
    arguments = ["--dataset", str(labelled), "--output", str(output), "--labels", "sky,road,car", "--num_proc", "1"]
    assert prepare(arguments) == 0
    assert json.loads((output / "id2label.json").read_text()) == {"0": "sky", "1": "road", "2": "car"}
    assert json.loads((output / "preparation.json").read_text())["format"].startswith("Pascal VOC")
    rows = datasets.load_dataset("parquet", data_files=str(output / "train-*.parquet"), split="train")
    assert len(rows) == 4
    for row in rows:
        mask = read_mask(row["mask"])
        assert mask[0, 0] == 255 and mask[20, 0] == 0 and mask[60, 0] == 1 and mask[44, 15] == 2
    assert prepare(arguments) == 0  # nothing is left to do

    assert train(training(output, shared_model, tmp_path / "model")) == 0  # the names are taken from there
    assert names_of(tmp_path / "model") == ["sky", "road", "car"]


def test_shards_are_not_trained_or_measured_under_other_names(labelled, shared_model, tmp_path, capsys):
    output = tmp_path / "shards"
    assert prepare(["--dataset", str(labelled), "--output", str(output), "--num_proc", "1"]) == 0
    assert train(training(output, shared_model, tmp_path / "model", "--labels", "sky,road,car")) == 2
    message = capsys.readouterr().err
    assert "(car, road, sky), in this order, got sky, road, car; pass `--label_table FILE` with" in message
    table = tmp_path / "table.json"
    table.write_text('{"0": "car", "1": "road", "2": "sky", "255": null}')
    told = ["--labels", "sky,road,car", "--label_table", str(table)]
    assert train(training(output, shared_model, tmp_path / "told", *told)) == 0


def test_background_that_is_named_is_learned(labelled, shared_model, tmp_path):
    assert train(training(labelled, shared_model, tmp_path / "model", "--background", "background")) == 0
    assert names_of(tmp_path / "model") == ["background", "car", "road", "sky"]


@pytest.mark.parametrize(
    "more, message",
    [
        (["--num_labels", "4"], "num_labels` must be the number of classes"),
        (["--do_reduce_labels"], "do_reduce_labels` must be False for"),
        (["--format", "nope"], "format` must be one of"),
        (["--labels", "sky,road"], "only in the files: car"),
    ],
)
def test_error_when_an_argument_does_not_fit_the_tools_labels(labelled, shared_model, tmp_path, capsys, more, message):
    assert train(training(labelled, shared_model, tmp_path / "model", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
