"""Publishing as a person does it: by the command, and at the end of a training."""

import json
import re
import socket

import pytest
from huggingface_hub import ModelCard

from offseg_hf.commands.evaluate import main as evaluate
from offseg_hf.commands.publish import main
from offseg_hf.commands.train import main as train
from offseg_hf.data.scenes.scenes import SCENE_LABELS


def training(scenes, base, output, *more):
    return [
        "--model_name_or_path", str(base), "--dataset", str(scenes), "--labels", ",".join(SCENE_LABELS),
        "--output_dir", str(output), "--max_steps", "2", "--warmup_steps", "0.5", "--crop_size", "64", "64",
        "--per_device_train_batch_size", "2", "--resize", "96", "64", "--use_cpu", "--disable_tqdm", "True", *more,
    ]  # fmt: skip


def test_dry_run_shows_files_and_card_without_any_connection(model_folder, capsys, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a dry run connects to nothing")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = sorted(file.name for file in model_folder.iterdir())
    assert main(["--model", str(model_folder), "--repo", "org/model", "--license", "mit", "--dry_run"]) == 0
    output = capsys.readouterr().out
    size = (model_folder / "model.safetensors").stat().st_size
    assert f"{size:>14,}  model.safetensors\n" in output and "  modeling_offseg.py\n" in output
    assert "license: mit" in output and 'model="org/model", trust_remote_code=True' in output
    assert sorted(file.name for file in model_folder.iterdir()) == before


def test_model_is_published_and_a_repetition_says_that_nothing_has_changed(model_folder, hub, capsys):
    assert main(["--model", str(model_folder), "--repo", "org/model", "--private"]) == 0
    commit = f"{hub.url}/org/model/commit/{hub.repository('org/model').commits[-1].oid}"
    assert f"published: {commit}" in capsys.readouterr().out
    assert hub.repository("org/model").private
    assert main(["--model", str(model_folder), "--repo", "org/model", "--private"]) == 0
    assert f"nothing has changed since {commit}" in capsys.readouterr().out


def test_error_is_one_sentence(model_folder, hub, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert main(["--model", str(model_folder), "--repo", "org/model"]) == 2
    assert "error: `HF_TOKEN` must hold a token with write access" in capsys.readouterr().err
    assert hub.repository("org/model") is None


def test_training_ends_with_a_publication_that_tells_of_it(scenes, model_folder, hub, tmp_path, capsys):
    options = "--push_to_hub", "--hub_model_id", "org/scenes", "--hub_private_repo", "True", "--save_strategy", "steps"
    assert train(training(scenes, model_folder, tmp_path / "output", *options, "--save_steps", "1")) == 0
    assert "published: " in capsys.readouterr().out
    repository = hub.repository("org/scenes")
    assert repository.private and len(repository.commits) == 2  # the first is the Hub's own
    files = hub.files("org/scenes")
    assert files["model.safetensors"] == (tmp_path / "output" / "model.safetensors").read_bytes()
    assert {"modeling_offseg.py", "README.md"} <= files.keys()
    assert not [name for name in files if "/" in name or name.endswith((".bin", ".pt"))]
    published = ModelCard(files["README.md"].decode())
    trained = json.loads((tmp_path / "output" / "eval_results.json").read_text())
    (result,) = [each for each in published.data.eval_results if each.metric_type == "mean_iou"]
    assert (result.dataset_name, result.dataset_split) == ("scenes", "validation")
    assert result.metric_value == round(trained["eval_mean_iou"], 4)
    assert re.search(r"\| Steps +\| 2, of 2 images each +\|", published.text)
    assert re.search(r"\| Schedule +\| linear warm-up over 1 steps, then decay to 0 with power 1 +\|", published.text)


def test_publication_tells_of_a_later_evaluation(scenes, model_folder, hub, capsys):
    assert evaluate(["--model", str(model_folder), "--dataset", str(scenes), "--split", "validation"]) == 0
    measured = json.loads((model_folder / "evaluation-validation.json").read_text())
    assert main(["--model", str(model_folder), "--repo", "org/model", "--dataset_name", "Drawn scenes"]) == 0
    results = ModelCard(hub.files("org/model")["README.md"].decode()).data.eval_results
    assert {each.dataset_name for each in results} == {"Drawn scenes"}
    assert results[0].metric_value == round(measured["mean_iou"], 4)


def test_origin_of_the_weights_is_handed_down(scenes, model_folder, tmp_path):
    (model_folder / "training.json").write_text('{"origin": "nvidia/mit-b0"}')
    assert train(training(scenes, model_folder, tmp_path / "output", "--eval_split", "none")) == 0
    record = json.loads((tmp_path / "output" / "training.json").read_text())
    assert record["origin"] == "nvidia/mit-b0" and record["evaluation"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--push_to_hub needs --hub_model_id NAMESPACE/NAME"),
        (["--hub_model_id", "scenes"], "repo` must be NAMESPACE/NAME"),
        (["--hub_model_id", "other/scenes"], "repo` must begin with a name under which someone may publish"),
        (
            ["--hub_model_id", "org/scenes", "--hub_token", "hf_reader"],
            "`HF_TOKEN` must hold a token with write access",
        ),
        (["--hub_model_id", "org/scenes", "--hub_strategy", "checkpoint"], "--push_to_hub publishes at the end"),
    ],
)
def test_what_would_hinder_the_publication_is_told_before_the_training(
    options, message, scenes, model_folder, hub, tmp_path, capsys
):
    assert train(training(scenes, model_folder, tmp_path / "output", "--push_to_hub", *options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "output" / "model.safetensors").exists()
    assert not hub.repositories


def test_trained_model_stays_when_its_publication_fails(scenes, model_folder, hub, tmp_path, capsys):
    hub.fail["commit"] = 500
    options = "--push_to_hub", "--hub_model_id", "org/scenes", "--eval_split", "none"
    assert train(training(scenes, model_folder, tmp_path / "output", *options)) == 1
    assert f"trained, and saved in {tmp_path / 'output'}, but not published: " in capsys.readouterr().err
    hub.fail.clear()
    assert main(["--model", str(tmp_path / "output"), "--repo", "org/scenes"]) == 0
    assert hub.files("org/scenes")["config.json"]
