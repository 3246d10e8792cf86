import json
import shlex

import pytest

from offseg_hf.commands.main import COMMANDS
from offseg_hf.commands.quickstart import main


def test_a_few_steps_give_a_model_its_figures_and_pictures(tmp_path, capfd):
    output = tmp_path / "quickstart"
    assert main(["--output", str(output), "--max_steps", "2", "--num_train", "8"]) == 0
    assert "mean_iou" in json.loads((output / "results.json").read_text())
    assert (output / "pictures.png").is_file() and (output / "model" / "model.safetensors").is_file()
    shown = [shlex.split(line[2:]) for line in capfd.readouterr().out.splitlines() if line.startswith("$ ")]
    assert [words[:2] for words in shown] == [["offseg", "train"], ["offseg", "evaluate"]]
    assert all(words[1] in COMMANDS for words in shown)


def test_it_ends_where_a_command_fails(tmp_path, capfd):
    assert main(["--output", str(tmp_path / "new"), "--num_train", "4", "--variant", "offseg-b9"]) == 2
    printed = capfd.readouterr()
    assert "`name` must be one of offseg-b0" in printed.err
    assert "$ offseg evaluate" not in printed.out


@pytest.mark.parametrize("name", ["file", "full/file"])
def test_output_must_be_new_or_empty(tmp_path, capsys, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert main(["--output", str(tmp_path / name.split("/")[0])]) == 2
    assert "`--output` must be a new or empty folder" in capsys.readouterr().err


@pytest.mark.slow
def test_quickstart_learns_scenes(tmp_path):
    assert main(["--output", str(tmp_path / "quickstart")]) == 0
    assert json.loads((tmp_path / "quickstart" / "results.json").read_text())["mean_iou"] >= 0.6
    assert (tmp_path / "quickstart" / "pictures.png").is_file()
