import json

import pytest
from PIL import Image

from offseg_hf.commands.evaluate import main
from offseg_hf.data.scenes.scenes import SCENE_LABELS


def evaluate(scenes, model, output, *more):
    return main(["--model", str(model), "--dataset", str(scenes), "--output", str(output), *more])


def measure(scenes, model, output, *more):
    assert evaluate(scenes, model, output, *more) == 0
    return json.loads(output.read_text())


def test_record_holds_the_protocol_and_every_class_and_pictures_lie_beside_it(scenes, shared_model, tmp_path, capsys):
    options = [
        "--window_size",
        "32",
        "48",
        "--stride",
        "32",
        "24",
        "--flip",
        "--scales",
        "1",
        "0.5",
        "--pictures",
        "1",
    ]
    record = measure(scenes, shared_model, tmp_path / "new" / "results.json", *options)
    protocol = {"window_size": [32, 48], "stride": [32, 24], "flip": True, "scales": [1.0, 0.5]}
    assert record == record | protocol | {"size": {"height": 64, "width": 96}, "num_examples": 2}
    assert [entry["name"] for entry in record["classes"]] == list(SCENE_LABELS)
    for name in ("results-confusion.png", "results-worst.png"):
        with Image.open(tmp_path / "new" / name) as picture:
            assert picture.width > 500
    assert "mean of the classes" in capsys.readouterr().out


def test_windows_are_those_of_the_recipe_unless_given(scenes, shared_model, tmp_path):
    record = measure(scenes, shared_model, tmp_path / "results.json", "--recipe", "ade20k", "--stride", "256", "256")
    assert record == record | {"window_size": [512, 512], "stride": [256, 256]}


def test_no_worst_pictures_are_written_when_none_are_wanted(scenes, shared_model, tmp_path):
    (tmp_path / "results-worst.png").write_text("of another measurement")
    measure(scenes, shared_model, tmp_path / "results.json", "--pictures", "0", "--streaming", "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results-confusion.png", "results.json"]


def test_size_of_the_photos_is_the_arguments_when_given(scenes, shared_model, tmp_path):
    same, larger, default = (
        measure(scenes, shared_model, tmp_path / f"{name}.json", *options)
        for name, *options in (("same", "--size", "96", "64"), ("larger", "--size", "192", "128"), ("default",))
    )
    assert same["size"] == {"longest_edge": 96, "shortest_edge": 64}
    assert same["classes"] == default["classes"] != larger["classes"]


@pytest.mark.parametrize("name", ["results.json", "results-confusion.png", "results-worst.png"])
def test_results_are_not_overwritten_unasked(scenes, shared_model, tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    assert evaluate(scenes, shared_model, tmp_path / "results.json") == 2
    assert f"{name} does: name another file, or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
    assert "mean_iou" in measure(scenes, shared_model, tmp_path / "results.json", "--overwrite")
    assert (tmp_path / name).read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stride", "32", "32"], "`--window_size` must be given where `--stride` is"),
        (["--window_size", "32", "32"], "`--stride` must be from 1 to the `--window_size`"),
        (["--recipe", "kitti"], "`--recipe` must be one of ade20k-mask2former"),
        (["--scales", "0"], "`--scales` must be one or more numbers above 0"),
        (["--pictures", "-1"], "`--pictures` must be 0 or more, got -1"),
        (["--label_table", "nowhere.json"], "`--label_table` must be a JSON file"),
        (["--dataset", "./nowhere"], "there is no file or folder ./nowhere"),
    ],
)
def test_mistakes_are_told_in_one_sentence(scenes, shared_model, tmp_path, capsys, options, message):
    assert evaluate(scenes, shared_model, tmp_path / "results.json", *options) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_label_table_wins_over_the_reduction_that_the_model_was_trained_with(scenes, model_folder, tmp_path):
    from offseg_hf import OffSegImageProcessor

    plain = measure(scenes, model_folder, tmp_path / "plain.json")
    size = {"height": 64, "width": 96}
    OffSegImageProcessor(size=size, do_reduce_labels=True).save_pretrained(model_folder)
    identity = {str(stored): stored for stored in (*range(8), 255)}
    (tmp_path / "table.json").write_text(json.dumps(identity))
    table = ["--label_table", str(tmp_path / "table.json")]
    assert measure(scenes, model_folder, tmp_path / "table-results.json", *table)["classes"] == plain["classes"]


def test_error_is_one_sentence_when_the_split_is_unknown(scenes, shared_model, tmp_path, capsys):
    assert evaluate(scenes, shared_model, tmp_path / "results.json", "--split", "test") == 2
    assert "`--split` must be one of the splits" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_figures_are_printed_when_they_cannot_be_written(scenes, shared_model, tmp_path, capsys, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("offseg_hf.commands.evaluate.write_json", full)
    assert evaluate(scenes, shared_model, tmp_path / "results.json") == 1
    printed = capsys.readouterr()
    assert "2 photos, mIoU 0." in printed.out and "mean of the classes" in printed.out
    assert "measured, but not written to" in printed.err and "No space left on device" in printed.err


def test_output_that_cannot_be_written_is_found_before_the_model_is_loaded(scenes, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    assert evaluate(scenes, "no-such-model", tmp_path / "mine" / "results.json") == 2
    assert "`--output` must lie in a folder" in capsys.readouterr().err


def test_photo_that_cannot_be_segmented_is_named(scenes, model_folder, tmp_path, capsys):
    import torch

    from offseg_hf.model_types import load_model

    model = load_model(model_folder)
    with torch.no_grad():
        for parameter in model.decode_head.parameters():
            parameter.fill_(1e30)
    model.save_pretrained(model_folder)
    assert evaluate(scenes, model_folder, tmp_path / "results.json") == 2
    message = capsys.readouterr().err
    assert "must segment every photo, and for example 0" in message and "`logits` must be finite numbers" in message
