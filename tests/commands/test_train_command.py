"""Fine-tuning, evaluation and prediction as a person runs them, on drawn scenes and a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation
from offseg_hf.commands.train import main
from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes
from offseg_hf.training.trainer import SegmentationTrainer

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes and a tiny model of 3 classes to start from."""
    folder = tmp_path_factory.mktemp("train")
    write_scenes(folder / "scenes", num_train=8, num_validation=2, size=(64, 96))
    config = OffSegConfig(
        num_labels=3, hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_attention_heads=(1, 1, 2, 2),
        decoder_hidden_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    OffSegForSemanticSegmentation(config).save_pretrained(folder / "base")
    return folder


def arguments(folder, output, *more):
    return [
        "--model_name_or_path", str(folder / "base"), "--dataset", str(folder / "scenes"), "--labels",
        ",".join(SCENE_LABELS), "--output_dir", str(output), "--max_steps", "4", "--warmup_steps", "0.25",
        "--per_device_train_batch_size", "2", "--crop_size", "64", "64", "--resize", "96", "64", "--use_cpu",
        "--disable_tqdm", "True", *more,
    ]  # fmt: skip


def test_trained_model_is_measured_and_shown_when_run_from_the_shell(folder):
    def run(script, *words):
        command = [sys.executable, str(SCRIPTS / script), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    model = folder / "model"
    run("train.py", *arguments(folder, model, "--streaming"))
    trained = json.loads((model / "eval_results.json").read_text())
    output = run("evaluate.py", "--model", model, "--dataset", folder / "scenes", "--streaming")
    measured = json.loads((model / "evaluation-validation.json").read_text())
    assert measured["mean_iou"] == pytest.approx(trained["eval_mean_iou"])
    assert measured["iou_road"] == pytest.approx(trained["eval_iou_road"])
    assert f"{measured['mean_iou']:.4f}" in output


def test_training_equals_the_uninterrupted_one_when_resumed(folder, tmp_path):
    common = "--save_strategy", "steps", "--save_steps", "2", "--eval_split", "none", "--streaming"
    main(arguments(folder, tmp_path / "whole", *common))
    (tmp_path / "part").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "part" / "checkpoint-2")
    main(arguments(folder, tmp_path / "part", *common, "--resume_from_checkpoint", "last"))
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert whole.keys() == part.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, part[name]), name


def test_lora_is_resumed_exactly_and_saved_as_a_plain_model_that_differs_only_where_it_was_updated(folder, tmp_path):
    pytest.importorskip("peft", reason="needs the extra `peft`")
    common = "--lora_rank", "2", "--save_strategy", "steps", "--save_steps", "2", "--eval_split", "none", "--streaming"
    main(arguments(folder, tmp_path / "whole", *common))
    assert (tmp_path / "whole" / "checkpoint-2" / "adapter_model.safetensors").exists()
    (tmp_path / "part").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "part" / "checkpoint-2")
    main(arguments(folder, tmp_path / "part", *common, "--resume_from_checkpoint", "last"))
    assert json.loads((tmp_path / "part" / "training.json").read_text())["lora_rank"] == 2
    whole, part, base = (
        OffSegForSemanticSegmentation.from_pretrained(path).state_dict()
        for path in (tmp_path / "whole", tmp_path / "part", folder / "base")
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, part[name]), name
        if name.startswith("segformer."):
            assert torch.equal(tensor, base[name]) != name.endswith(("q_proj.weight", "v_proj.weight")), name


@pytest.mark.parametrize(
    ("more", "num_evaluations"),
    [
        ([], 1),
        (["--eval_strategy", "steps", "--eval_steps", "2", "--optim", "sgd", "--lr_scheduler_type", "cosine"], 2),
    ],
)
def test_last_weights_are_evaluated_once(folder, tmp_path, monkeypatch, more, num_evaluations):
    steps = []
    evaluate = SegmentationTrainer.evaluate

    def counted(trainer, *args, **kwargs):
        steps.append(trainer.state.global_step)
        return evaluate(trainer, *args, **kwargs)

    monkeypatch.setattr(SegmentationTrainer, "evaluate", counted)
    main(arguments(folder, tmp_path, *more))
    assert len(steps) == num_evaluations and steps[-1] == 4
    (*_, line) = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    metrics = json.loads((tmp_path / "eval_results.json").read_text())
    assert metrics["eval_mean_iou"] == json.loads(line)["metrics"]["mean_iou"] and "step" not in metrics
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["evaluation"]["mean_iou"] == metrics["eval_mean_iou"]
    found = [record[name] for name in ("adam_beta1", "other_optimizer", "lr_decay_power", "other_schedule")]
    assert found == ([None, "sgd", None, "cosine"] if "sgd" in more else [0.9, None, 1.0, None])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num_labels", "8"], "give the classes either as --labels"),
        (["--lora_rank", "0"], "`rank` must be at least 1, got 0"),
        (["--recipe", "kitti"], "`recipe` must be one of ade20k-mask2former, ade20k-segformer"),
        (["--recipe", "ade20k", "--total_batch_size", "5"], "`total_batch_size` must be devices"),
        (["--variant", "offseg-b9", "--overwrite"], "`name` must be one of offseg-b0, offseg-b1"),
        (["--eval_split", "train2", "--overwrite"], "`split` must be one of the splits"),
        (["--do_reduce_labels", "--labels", "a,b,c", "--overwrite"], "`masks` must hold ids up to 3"),
        (["--dataset", "./nowhere", "--overwrite"], "there is no file or folder ./nowhere"),
    ],
)
def test_mistakes_are_told_in_one_sentence_before_any_work(folder, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as error:
        main(arguments(folder, tmp_path / "model", *more))
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model" / "model.safetensors").exists()


def test_output_folder_is_not_overwritten_unasked(folder, tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SystemExit):
        main(arguments(folder, tmp_path))
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_quickstart_learns_scenes(tmp_path):
    command = [sys.executable, str(SCRIPTS / "quickstart.py"), "--output", str(tmp_path / "quickstart")]
    subprocess.run(command, check=True)
    assert json.loads((tmp_path / "quickstart" / "results.json").read_text())["mean_iou"] >= 0.6
    assert (tmp_path / "quickstart" / "pictures.png").is_file()
