import json

import pytest
import torch
from compare_speed import main
from PIL import Image
from tiny_models import tiny_offseg
from transformers.utils.logging import enable_progress_bar


@pytest.fixture(autouse=True)
def bars_come_back():
    yield
    enable_progress_bar()  # the script, alone in its process, hides transformers' own


@pytest.fixture
def model(tmp_path):
    """A folder with a tiny model of 4 classes, which the processes that measure memory can load too."""
    tiny_offseg(ohem_threshold=0.7).save_pretrained(tmp_path / "model")
    return f"{tmp_path}/model"


def run(model, output, *arguments):
    threads = torch.get_num_threads()
    try:
        main(["--checkpoint", model, "--output", str(output), "--num_threads", "1", "--num_repeats", "2", *arguments])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_benchmark_measures_every_case_and_leaves_tables_record_and_picture(model, tmp_path, capsys):
    measures = ("forward", "photo", "post_processing", "training", "counts")
    run(model, tmp_path / "new", "--measure", *measures, "--sizes", "32x64", "64", "--training_batch_size", "2")
    record = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    cases = [(case["measure"], case["height"], case["width"], case["batch_size"]) for case in record["cases"]]
    batches = {"training": 2}
    assert cases == [(name, *size, batches.get(name, 1)) for name in measures for size in ((32, 64), (64, 64))]
    for case in record["cases"][:-2]:
        assert all(len(values["values"]) == 2 and values["median"] > 0 for values in case["models"].values())
        assert case["num_labels"] == 4 and case["variant"] == "checkpoint"
    assert record["settings"]["num_threads"] == 1 and record["settings"]["versions"]["torch"] == torch.__version__
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["benchmark.json", "benchmark.png"]
    assert Image.open(tmp_path / "new" / "benchmark.png").size == (1280, 840)  # three plots, two in a row
    printed = capsys.readouterr()
    assert printed.out.count("### ") == 5 and "| OffSeg ÷ SegFormer |" in printed.out
    assert "Weights are random" not in printed.out
    assert printed.err == ""


def test_benchmark_goes_on_from_what_was_measured(model, tmp_path):
    run(model, tmp_path, "--measure", "forward", "--sizes", "32")
    before = json.loads((tmp_path / "benchmark.json").read_text())["cases"]
    run(model, tmp_path, "--measure", "forward", "--sizes", "32", "64", "--resume")
    after = json.loads((tmp_path / "benchmark.json").read_text())["cases"]
    assert after[:1] == before and [case["height"] for case in after] == [32, 64]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measure", "speed"], "`measures` must be of forward, photo,"),
        (["--variants", "offseg-t"], "`variants` must be of offseg-b0, offseg-b1,"),
        (["--sizes", "16x64"], "`sizes` must be at least 32 pixels high and wide, got 16x64"),
        (["--sizes", "64by64"], "argument --sizes: invalid size value: '64by64'"),
        (["--num_labels", "0"], "`num_labels`, `batch_sizes` and `training_batch_size` must be at least 1"),
        (["--num_repeats", "0"], "`num_repeats` must be at least 1, got 0"),
        (["--dtype", "float16"], "`dtype` must be one of float32, bfloat16, got 'float16'"),
        (["--device", "tpu"], "`device` must be cpu or cuda, got 'tpu'"),
        (["--checkpoint", "no/such/folder/here"], "no/such/folder/here"),
        (["--resume"], "`--output` must name the folder to resume from"),
    ],
)
def test_benchmark_stops_when_an_argument_is_wrong(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    usage, error = capsys.readouterr().err.strip().splitlines()
    assert usage.startswith("usage: ") and message in error


def test_benchmark_keeps_a_record_that_is_there(tmp_path, capsys):
    (tmp_path / "benchmark.json").write_text('{"settings": {}, "cases": []}')
    for arguments, message in (([], "`output` must not hold a benchmark"), (["--resume"], "but compile, device,")):
        with pytest.raises(SystemExit):
            main(["--measure", "counts", "--output", str(tmp_path), *arguments])
        assert message in capsys.readouterr().err
    assert (tmp_path / "benchmark.json").read_text() == '{"settings": {}, "cases": []}'


def test_benchmark_replaces_a_record_when_told(model, tmp_path):
    (tmp_path / "benchmark.json").write_text("mine")
    run(model, tmp_path, "--measure", "forward", "--sizes", "32", "--overwrite")
    assert len(json.loads((tmp_path / "benchmark.json").read_text())["cases"]) == 1
