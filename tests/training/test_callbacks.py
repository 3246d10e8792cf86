import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_mask2former, tiny_offseg, tiny_segnext
from transformers import TrainerControl, TrainerState
from transformers.utils.logging import is_progress_bar_enabled

from offseg_hf import OffSegImageProcessor
from offseg_hf.data import TrainTransform, evaluation_dataset, load_segmentation_dataset, training_dataset
from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes
from offseg_hf.models.image_processing_offseg import read_image, read_mask
from offseg_hf.pictures.overlays import picture_sheet
from offseg_hf.pictures.palettes import default_palette
from offseg_hf.prediction.label_maps import predict_label_map
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.callbacks import (
    CurvePicture,
    EvaluationRecord,
    PredictionSheets,
    TrainingRates,
    check_reporting,
)
from offseg_hf.training.from_arguments import trainer_from_arguments
from offseg_hf.training.options import DataArguments, ModelArguments
from offseg_hf.training.trainer import SegmentationTrainer

ID2LABEL = dict(enumerate(SCENE_LABELS))
CLASSES = {"num_labels": len(ID2LABEL), "id2label": ID2LABEL}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", num_train=12, num_validation=3, size=(64, 96))


def arguments(folder, **values):
    defaults = {"max_steps": 4, "warmup_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    quiet = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1, "num_prediction_examples": 2}
    return SegmentationTrainingArguments(output_dir=str(folder), **{**defaults, **quiet, **evaluated, **values})


def create(scenes, folder, model=None, streaming=False, recorded=True, evaluated=True, **values):
    image_processor = OffSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    source = {"image_processor": image_processor, "num_labels": len(ID2LABEL), "streaming": streaming}
    transform = TrainTransform(crop_size=(64, 64), resize=(96, 64))
    train_data = training_dataset(str(scenes), "train", transform=transform, shuffle_buffer_size=4, **source)
    eval_data = evaluation_dataset(str(scenes), "validation", **source) if evaluated else None
    values = values if evaluated else {"eval_strategy": "no", **values}
    model = model or tiny_offseg(**CLASSES)
    trainer = SegmentationTrainer(
        model,
        arguments(folder, **values),
        train_dataset=train_data,
        eval_dataset=eval_data,
        image_processor=image_processor,
    )
    if not recorded:
        for callback in (TrainingRates, PredictionSheets, EvaluationRecord, CurvePicture):
            trainer.remove_callback(callback)
    return trainer


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / "evaluations.jsonl").read_text().splitlines()]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def difference(picture, expected):
    return np.abs(np.asarray(picture, dtype=int) - np.asarray(expected, dtype=int)).mean()


@pytest.mark.parametrize("streaming", [False, True])
def test_training_is_the_same_to_the_bit_when_recorded(scenes, tmp_path, streaming):
    def train(recorded):
        # Dropped paths in training and new bases in evaluation: each draws random numbers.
        model = tiny_segnext(**CLASSES, drop_path_rate=0.3, resample_bases_in_evaluation=True)
        folder = tmp_path / str(recorded)
        trainer = create(scenes, folder, model, streaming, recorded, max_steps=3)
        torch.manual_seed(1)
        trainer.train()
        results = [entry["eval_mean_iou"] for entry in trainer.state.log_history if "eval_mean_iou" in entry]
        return model.state_dict(), results, (torch.rand(1).item(), np.random.rand(), random.random())

    np.random.seed(0)
    random.seed(0)
    recorded = train(True)
    np.random.seed(0)
    random.seed(0)
    alone = train(False)
    assert (tmp_path / "True" / "predictions" / "step-000002.jpg").is_file()
    assert files(tmp_path / "False") == []
    for name, tensor in alone[0].items():
        assert torch.equal(tensor, recorded[0][name]), name
    assert recorded[1:] == alone[1:]


# Example predictions


def test_sheet_shows_photos_truths_and_predictions(scenes, tmp_path):
    trainer = create(scenes, tmp_path)
    trainer.train()
    assert files(tmp_path / "predictions") == ["step-000002.jpg", "step-000004.jpg"]
    rows = []
    for index in (0, 1):  # ⌊3 · 0 / 2⌋ and ⌊3 · 1 / 2⌋
        example = load_segmentation_dataset(str(scenes), "validation")[index]
        image = read_image(example["image"])
        label_map = predict_label_map(trainer.model, trainer.processing_class, image)
        rows.append((image, read_mask(example["mask"]), label_map))
    expected = picture_sheet(rows, ("photo", "truth", "prediction"), ID2LABEL, default_palette(len(ID2LABEL)))
    sheet = Image.open(tmp_path / "predictions" / "step-000004.jpg")
    assert sheet.size == expected.size
    assert difference(sheet, expected) < 3


def test_every_part_of_the_model_stays_in_its_mode_when_a_sheet_is_drawn(scenes, tmp_path):
    trainer = create(scenes, tmp_path)
    model = trainer.model.train()
    model.decode_head.eval()
    modes = [module.training for module in model.modules()]
    (sheets,) = [c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PredictionSheets"]
    sheets.on_evaluate(trainer.args, trainer.state, trainer.control, metrics={"eval_runtime": 1})
    assert [module.training for module in model.modules()] == modes
    assert (tmp_path / "predictions" / "step-000000.jpg").is_file()


def test_sheet_is_drawn_of_a_model_that_classifies_masks(scenes, tmp_path):
    trainer = create(scenes, tmp_path, tiny_mask2former(**CLASSES), streaming=True, max_steps=2)
    trainer.train()
    assert Image.open(tmp_path / "predictions" / "step-000002.jpg").width == 3 * (384 + 8) + 8


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"evaluated": False}, ["curves.png"]),
        ({"num_prediction_examples": 0}, ["curves.png", "evaluations.jsonl"]),
    ],
)
def test_no_sheet_is_drawn_when_there_is_nothing_to_draw(scenes, tmp_path, values, expected):
    create(scenes, tmp_path, **values).train()
    assert files(tmp_path) == expected


def test_error_when_the_number_of_examples_is_negative(tmp_path):
    with pytest.raises(ValueError, match="`num_prediction_examples` must be a whole number, at least 0, got -1"):
        arguments(tmp_path, num_prediction_examples=-1)


# A line for each evaluation


def test_each_evaluation_has_a_line_of_what_was_measured(scenes, tmp_path):
    trainer = create(scenes, tmp_path, eval_on_start=True)
    trainer.train()
    trainer.evaluate()  # of the same weights: nothing new
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [0, 2, 4]
    entry = next(entry for entry in trainer.state.log_history if entry["step"] == 4 and "eval_loss" in entry)
    assert found[-1]["metrics"]["mean_iou"] == entry["eval_mean_iou"]
    assert found[-1]["metrics"]["loss"] == entry["eval_loss"]
    assert found[-1]["epoch"] == entry["epoch"] and found[-1]["seconds"] == entry["eval_runtime"]
    assert not {"runtime", "epoch", "samples_per_second"} & found[-1]["metrics"].keys()
    assert found[0]["time"] <= found[-1]["time"] and found[0]["time"].endswith("+00:00")


def test_line_is_json_when_a_result_is_not_a_number(tmp_path):
    args, state = arguments(tmp_path), TrainerState(global_step=3)
    metrics = {"eval_loss": math.nan, "eval_mean_iou": 0.5, "eval_runtime": 1.5}
    EvaluationRecord().on_evaluate(args, state, TrainerControl(), metrics=metrics)
    assert lines(tmp_path)[0]["metrics"] == {"loss": None, "mean_iou": 0.5}


def test_evaluation_on_another_set_is_not_recorded(tmp_path):
    EvaluationRecord().on_evaluate(
        arguments(tmp_path), TrainerState(global_step=3), TrainerControl(), metrics={"test_loss": 1, "test_runtime": 1}
    )
    assert files(tmp_path) == []


def test_nothing_is_doubled_when_a_training_resumes_from_an_earlier_checkpoint(scenes, tmp_path):
    values = {"max_steps": 3, "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    create(scenes, tmp_path, **values).train()
    before = lines(tmp_path)
    with (tmp_path / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 8, "epo')  # a machine that lost its power
    stale = tmp_path / "predictions" / "step-000005.jpg"
    shutil.copy(tmp_path / "predictions" / "step-000002.jpg", stale)

    trainer = create(scenes, tmp_path, **values)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    after = lines(tmp_path)
    assert [line["step"] for line in after] == [1, 2, 3]
    assert after[0] == before[0]
    assert after[-1]["metrics"] == before[-1]["metrics"]
    assert files(tmp_path / "predictions") == [f"step-00000{step}.jpg" for step in (1, 2, 3)]
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3]


def test_records_of_the_old_training_are_dropped_when_a_new_one_starts(scenes, tmp_path):
    create(scenes, tmp_path, max_steps=3, eval_steps=3).train()
    create(scenes, tmp_path, max_steps=2).train()
    assert [line["step"] for line in lines(tmp_path)] == [2]
    assert files(tmp_path / "predictions") == ["step-000002.jpg"]


@pytest.mark.slow
def test_only_the_main_process_writes_when_there_are_two(scenes, tmp_path):
    tiny_offseg(**CLASSES).save_pretrained(tmp_path / "tiny")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("--module", "offseg_hf", "train"),
        *("--model_name_or_path", tmp_path / "tiny", "--dataset", scenes, "--streaming", "--labels"),
        *(",".join(SCENE_LABELS), "--max_steps", 2, "--warmup_steps", 1, "--per_device_train_batch_size", 2),
        *("--crop_size", 64, 64, "--resize", 96, 64, "--eval_strategy", "steps", "--eval_steps", 1),
        *("--logging_steps", 1, "--save_strategy", "no", "--use_cpu", "--output_dir", tmp_path / "model"),
    ]
    found = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, timeout=300)
    assert [line["step"] for line in lines(tmp_path / "model")] == [1, 2]
    assert files(tmp_path / "model" / "predictions") == ["step-000001.jpg", "step-000002.jpg"]
    assert [found.stdout.count(f"step {step}: mean IoU") for step in (1, 2)] == [1, 1]


# Rates


@pytest.mark.parametrize("model", [tiny_offseg, tiny_mask2former])
def test_learning_rates_of_encoder_and_head_are_logged(scenes, tmp_path, model):
    trainer = create(scenes, tmp_path, model(**CLASSES), evaluated=False)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    # The first step's is 0, then it falls in 3 steps from the full one to 0.
    assert [entry["learning_rate"] for entry in logged] == pytest.approx([0, 1e-3, 2e-3 / 3, 1e-3 / 3])
    assert [entry["learning_rate_head"] for entry in logged] == pytest.approx([0, 1e-2, 2e-2 / 3, 1e-2 / 3])
    assert ["examples_per_second" in entry for entry in logged] == [False, True, True, True]


def test_first_and_last_step_are_logged(scenes, tmp_path):
    trainer = create(scenes, tmp_path, evaluated=False, max_steps=5, logging_steps=3)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 3, 5]


def test_examples_per_second_leave_out_evaluations_and_the_start(tmp_path):
    model = tiny_offseg()
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    args = arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=2)
    state, control, rates = TrainerState(), TrainerControl(), TrainingRates()
    rates.on_train_begin(args, state, control, model=model, optimizer=optimizer)
    for seconds in (0.3, 0.1, 0.1):
        time.sleep(seconds)  # loading
        rates.on_step_begin(args, state, control)
        rates.on_optimizer_step(args, state, control, optimizer=optimizer)
        rates.on_step_end(args, state, control)
        time.sleep(0.2)
        rates.on_evaluate(args, state, control)
    time.sleep(0.1)
    rates.on_step_begin(args, state, control)
    time.sleep(0.1)
    rates.on_step_end(args, state, control)
    logs = {"loss": 1.0}
    state.log_history.append({"loss": 1.0, "step": 4})
    rates.on_log(args, state, control, logs=logs)
    # 3 steps of 6 examples, of which only the last was longer than its evaluation and what was loaded meanwhile
    assert logs["examples_per_second"] == pytest.approx(18 / 0.1, rel=0.3)
    assert state.log_history[-1]["examples_per_second"] == logs["examples_per_second"]


# The progress bar


def test_bar_tells_loss_rates_and_evaluations(scenes, tmp_path, capsys):
    create(scenes, tmp_path, streaming=True, disable_tqdm=False, save_strategy="steps", save_steps=2).train()
    written = capsys.readouterr()
    assert "Writing model shards" not in written.err and is_progress_bar_enabled()
    assert "100%|" in written.err and "evaluating" in written.err
    for shown in ("loss=", "lr=6.7e-4/6.7e-3", "examples/s="):
        assert shown in written.err, shown
    told = [line for line in written.out.splitlines() if line.strip()]
    beginnings = ("step 2: mean IoU 0.", "step 4: mean IoU 0.", "trained to step 4 in 00:")
    assert [line.startswith(beginning) for line, beginning in zip(told, beginnings, strict=True)] == [True] * 3


def test_bar_goes_on_where_the_training_resumes(scenes, tmp_path, capsys):
    create(scenes, tmp_path, evaluated=False, save_strategy="steps", save_steps=2).train()
    capsys.readouterr()
    trainer = create(scenes, tmp_path, evaluated=False, disable_tqdm=False)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert " 50%|" in capsys.readouterr().err.split("\r")[1]


def test_no_bar_is_shown_when_it_is_disabled(scenes, tmp_path, capsys):
    create(scenes, tmp_path, evaluated=False).train()
    assert "/4 [" not in capsys.readouterr().err


# TensorBoard


def test_tensorboard_gets_rates_metrics_and_sheets(scenes, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    create(scenes, tmp_path, report_to="tensorboard").train()
    (folder,) = {path.parent for path in tmp_path.glob("runs/**/events.out.tfevents.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/learning_rate_head", "train/examples_per_second", "eval/mean_iou"} <= set(
        tags["scalars"]
    )
    assert [image.step for image in events.Images("predictions")] == [2, 4]


def test_error_comes_first_when_tensorboard_is_not_installed(tmp_path, monkeypatch):
    for name in ("tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    args = arguments(tmp_path, report_to="tensorboard")
    with pytest.raises(ValueError, match="`report_to` must name what is installed, got 'tensorboard', which is not"):
        trainer_from_arguments(ModelArguments(num_labels=2), DataArguments(dataset=["./nowhere"]), args)
    check_reporting(arguments(tmp_path))
