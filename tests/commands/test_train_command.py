"""Fine-tuning, evaluation and prediction as a person runs them, on drawn scenes and a tiny model."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_offseg

from offseg_hf import OffSegForSemanticSegmentation
from offseg_hf.commands.evaluate import main as evaluate
from offseg_hf.commands.train import build_parser, full_parser, main, own_sentence
from offseg_hf.data.scenes.scenes import SCENE_LABELS
from offseg_hf.prediction.windows import check_windows
from offseg_hf.training.trainer import SegmentationTrainer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model of 3 classes to start from."""
    folder = tmp_path_factory.mktemp("train") / "base"
    tiny_offseg(num_labels=3).save_pretrained(folder)
    return folder


def arguments(scenes, base, output, *more):
    return [
        "--model_name_or_path", str(base), "--dataset", str(scenes), "--labels",
        ",".join(SCENE_LABELS), "--output_dir", str(output), "--max_steps", "4", "--warmup_steps", "0.25",
        "--per_device_train_batch_size", "2", "--crop_size", "64", "64", "--resize", "96", "64", "--use_cpu",
        "--disable_tqdm", "True", *more,
    ]  # fmt: skip


def test_trained_model_is_measured_and_shown(scenes, base, tmp_path, capsys):
    model = tmp_path / "model"
    assert main(arguments(scenes, base, model, "--streaming")) == 0
    trained = json.loads((model / "eval_results.json").read_text())
    assert evaluate(["--model", str(model), "--dataset", str(scenes), "--streaming"]) == 0
    measured = json.loads((model / "evaluation-validation.json").read_text())
    assert measured["mean_iou"] == pytest.approx(trained["eval_mean_iou"])
    assert measured["iou_road"] == pytest.approx(trained["eval_iou_road"])
    assert f"{measured['mean_iou']:.4f}" in capsys.readouterr().out


def test_training_equals_the_uninterrupted_one_when_resumed(scenes, base, tmp_path):
    common = "--save_strategy", "steps", "--save_steps", "2", "--eval_split", "none", "--streaming"
    assert main(arguments(scenes, base, tmp_path / "whole", *common)) == 0
    (tmp_path / "part").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "part" / "checkpoint-2")
    assert main(arguments(scenes, base, tmp_path / "part", *common, "--resume_from_checkpoint", "last")) == 0
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert whole.keys() == part.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, part[name]), name


def test_lora_is_resumed_exactly_and_saved_as_a_plain_model_that_differs_only_where_it_was_updated(
    scenes, base, tmp_path
):
    pytest.importorskip("peft", reason="needs the extra `peft`")
    common = "--lora_rank", "2", "--save_strategy", "steps", "--save_steps", "2", "--eval_split", "none", "--streaming"
    assert main(arguments(scenes, base, tmp_path / "whole", *common)) == 0
    assert (tmp_path / "whole" / "checkpoint-2" / "adapter_model.safetensors").exists()
    (tmp_path / "part").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "part" / "checkpoint-2")
    assert main(arguments(scenes, base, tmp_path / "part", *common, "--resume_from_checkpoint", "last")) == 0
    assert json.loads((tmp_path / "part" / "training.json").read_text())["lora_rank"] == 2
    whole, part, base = (
        OffSegForSemanticSegmentation.from_pretrained(path).state_dict()
        for path in (tmp_path / "whole", tmp_path / "part", base)
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
def test_last_weights_are_evaluated_once(scenes, base, tmp_path, monkeypatch, more, num_evaluations):
    steps = []
    evaluate = SegmentationTrainer.evaluate

    def counted(trainer, *args, **kwargs):
        steps.append(trainer.state.global_step)
        return evaluate(trainer, *args, **kwargs)

    monkeypatch.setattr(SegmentationTrainer, "evaluate", counted)
    assert main(arguments(scenes, base, tmp_path, *more)) == 0
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
        (["--lora_rank", "0"], "`--lora_rank` must be a whole number, at least 1, got 0"),
        (["--recipe", "kitti"], "`--recipe` must be one of ade20k-mask2former, ade20k-segformer"),
        (["--recipe", "ade20k", "--total_batch_size", "5"], "`--total_batch_size` must be devices"),
        (["--variant", "offseg-b9", "--overwrite"], "`--variant` must be one of offseg-b0, offseg-b1"),
        (["--eval_split", "train2", "--overwrite"], "split` must be one of the splits"),
        (["--do_reduce_labels", "--labels", "a,b,c", "--overwrite"], "masks` must hold ids up to 3"),
        (["--dataset", "./nowhere", "--overwrite"], "there is no file or folder ./nowhere"),
    ],
)
def test_mistakes_are_told_in_one_sentence_before_any_work(scenes, base, tmp_path, capsys, more, message):
    assert main(arguments(scenes, base, tmp_path / "model", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model" / "model.safetensors").exists()


def test_output_folder_is_not_overwritten_unasked(scenes, base, tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert main(arguments(scenes, base, tmp_path)) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_short_help_names_only_what_the_full_parser_takes_with_the_same_defaults():
    short, full = build_parser(), full_parser()
    short_actions = {
        name: action for action in short._actions for name in action.option_strings if name != "--help_all"
    }
    for name, action in short_actions.items():
        taken = full._option_string_actions[name]
        for attribute in ("default", "required", "nargs", "const", "choices"):
            assert getattr(action, attribute) == getattr(taken, attribute), (name, attribute)
    assert {"--variant", "--dataset", "--crop_size", "--output_dir", "--max_steps"} <= short_actions.keys()


def test_full_help_has_transformers_own_arguments(capsys):
    assert main(["--help_all"]) == 0
    printed = capsys.readouterr().out
    assert "--variant" in printed and "--ddp_timeout" in printed and "--head_learning_rate_factor" in printed


def test_a_fault_in_the_midst_of_training_is_a_sentence_only_where_this_package_raised_it():
    with pytest.raises(ValueError) as own:
        check_windows((0, 1), (1, 1))
    with pytest.raises(ValueError) as foreign:
        int("x")
    assert own_sentence(own.value) == str(own.value) and own_sentence(foreign.value) is None
