"""What keeps a training from being lost: Ctrl-C, broken files, a loss that is no number, what is finished already."""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_models import tiny_offseg
from transformers import TrainerCallback

from offseg_hf import OffSegImageProcessor
from offseg_hf.data import TrainTransform, training_dataset
from offseg_hf.data.scenes.scenes import SCENE_LABELS, draw_scene, write_scenes
from offseg_hf.model_types import load_model
from offseg_hf.training import safeguards
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.checkpoints import full_disk_said
from offseg_hf.training.trainer import SegmentationTrainer

ID2LABEL = dict(enumerate(SCENE_LABELS))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", num_train=12, num_validation=2, size=(64, 96))


def train_data(scenes, streaming=False, **options):
    return training_dataset(
        str(scenes), "train", image_processor=OffSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}),
        transform=TrainTransform(crop_size=(64, 64), resize=(96, 64)), num_labels=len(SCENE_LABELS),
        streaming=streaming, shuffle_buffer_size=4, **options,
    )  # fmt: skip


def trainer_of(folder, data, callbacks=None, id2label=ID2LABEL, **values):
    defaults = {"max_steps": 6, "warmup_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    quiet = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    args = SegmentationTrainingArguments(output_dir=str(folder), **{**defaults, **quiet, **values})
    model = tiny_offseg(num_labels=len(id2label), id2label=dict(id2label), drop_path_rate=0.1)
    return SegmentationTrainer(model, args, train_dataset=data, callbacks=callbacks)


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def checkpoints(folder):
    return sorted(path.name for path in Path(folder).glob("checkpoint-*"))


class AtStep(TrainerCallback):
    """Does something in the midst of a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            self.action()


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


# Ctrl-C


@pytest.mark.parametrize("streaming", [False, True])
def test_ctrl_c_finishes_the_step_and_what_resumes_equals_the_uninterrupted(scenes, tmp_path, streaming):
    trainer_of(
        tmp_path / "whole", train_data(scenes, streaming), save_strategy="steps", save_steps=8, max_steps=8
    ).train()
    stopped = trainer_of(tmp_path / "part", train_data(scenes, streaming), [AtStep(5, interrupt)], max_steps=8)
    with pytest.raises(
        KeyboardInterrupt, match=r"stopped, and saved in .*checkpoint-5: pass `--resume_from_checkpoint"
    ):
        stopped.train()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert checkpoints(tmp_path / "part") == ["checkpoint-5"]
    values = {"save_strategy": "steps", "save_steps": 8, "max_steps": 8}
    trainer_of(tmp_path / "part", train_data(scenes, streaming), **values).train(resume_from_checkpoint=True)
    assert equal(*(weights(tmp_path / name / "checkpoint-8") for name in ("whole", "part")))


def test_a_second_ctrl_c_stops_at_once(scenes, tmp_path):
    stopped = trainer_of(tmp_path, train_data(scenes), [AtStep(1, lambda: (interrupt(), interrupt()))])
    with pytest.raises(KeyboardInterrupt, match="stopped before the first step was done"):
        stopped.train()
    assert not checkpoints(tmp_path)


# Broken examples


class FailsOnce:
    """A preparation that cannot read its `call`-th example."""

    def __init__(self, prepare, call):
        self.prepare, self.call = prepare, call

    def __call__(self, example, name):
        self.call -= 1
        if self.call == 0:
            raise ValueError(f"`image of {name}` must be whole, but is cut off; mend it.")
        return self.prepare(example, name)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("call", [14, 16, 17])  # in the midst of a step, and at the beginning of a pass or its end
def test_an_error_in_the_data_loses_no_step(scenes, tmp_path, streaming, call):
    values = {"max_steps": 6, "gradient_accumulation_steps": 2}
    saved = {"save_strategy": "steps", "save_steps": 6, **values}
    trainer_of(tmp_path / "whole", train_data(scenes, streaming), **saved).train()
    data = train_data(scenes, streaming)
    data.prepare = FailsOnce(data.prepare, call)
    with pytest.raises(ValueError, match="must be whole, but is cut off"):
        trainer_of(tmp_path / "part", data, **values).train()
    assert len(checkpoints(tmp_path / "part")) == 1
    trainer_of(tmp_path / "part", train_data(scenes, streaming), **saved).train(resume_from_checkpoint=True)
    assert equal(*(weights(tmp_path / name / "checkpoint-6") for name in ("whole", "part")))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_broken_examples_are_left_out_named_once_and_bounded(tmp_path, capfd, streaming, workers):
    scenes = tmp_path / "scenes"
    for folder in ("images", "masks"):
        (scenes / folder / "train").mkdir(parents=True)
    for number in range(6):
        photo, mask = draw_scene(number, (64, 96))
        photo.save(scenes / "images" / "train" / f"{number}.png")
        Image.fromarray(mask).save(scenes / "masks" / "train" / f"{number}.png")
    first, second = (scenes / "images" / "train" / f"{number}.png" for number in (2, 3))
    for file in (first, second):
        file.write_bytes(file.read_bytes()[:200])
    options = {"dataloader_num_workers": workers, "dataloader_multiprocessing_context": "fork" if workers else None}
    data = train_data(scenes, streaming, num_broken=2)
    trainer_of(tmp_path / "model", data, max_steps=9, **options).train()
    printed = capfd.readouterr().err
    assert len(data.broken) == 2 and [printed.count(file.name) for file in (first, second)] == [1, 1]
    data = train_data(scenes, streaming, num_broken=1)
    with pytest.raises(
        ValueError, match=r"`skip_broken_examples` must be at least the number .*, got 1, and one more is"
    ):
        trainer_of(tmp_path / "model", data, max_steps=9, **options).train()


def test_the_share_of_pixels_without_a_label_is_counted(tmp_path):
    labels = torch.zeros(4, 64, 64, dtype=torch.int64)
    labels[0] = 255
    data = [{"pixel_values": torch.randn(3, 64, 64), "labels": each} for each in labels]
    output = trainer_of(tmp_path, data, max_steps=2).train()
    assert output.metrics["train_unlabelled_share"] == 0.25


# Weights that are not finite


def test_training_stops_where_the_loss_stays_infinite_and_keeps_the_last_finite_weights(scenes, tmp_path):
    values = {"max_steps": 40, "save_strategy": "steps", "save_steps": 3}
    trainer = trainer_of(tmp_path, train_data(scenes), **values)
    name = next(name for name, _ in trainer.model.named_parameters())

    def spoil():
        with torch.no_grad():
            trainer.model.get_parameter(name).fill_(math.nan)

    trainer.add_callback(AtStep(5, spoil))
    message = (
        r"`learning_rate` must be so low .*since step 6, got 0.001; .*checkpoint-3 holds the last finite weights: "
    )
    with pytest.raises(FloatingPointError, match=message + "pass `--learning_rate 6e-05`, and `--overwrite`"):
        trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-3"]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "checkpoint-3").values())
    with pytest.raises(FloatingPointError, match="`learning_rate` must be so low"):
        trainer.save_model()
    assert not (tmp_path / "model.safetensors").exists()


def test_a_model_with_weights_that_are_no_numbers_is_refused_wherever_it_is_loaded(tmp_path):
    from offseg_hf.publishing.repository import write_repository
    from offseg_hf.training.model import create_model

    model = tiny_offseg()
    with torch.no_grad():
        model.decode_head.offset_learning.cls_repr[0, 0, 0] = math.inf
    model.save_pretrained(tmp_path / "lost")
    OffSegImageProcessor().save_pretrained(tmp_path / "lost")
    message = (
        "must have finite weights, but in .*lost NaN or infinite ones are in 1 tensors, decode_head.offset_learning"
    )
    for load in (
        load_model,
        lambda folder: create_model(None, folder, {0: "a", 1: "b", 2: "c", 3: "d"}),
        lambda folder: write_repository(folder, tmp_path / "repository", "me/lost"),
    ):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "lost")


# Ends and checkpoints


@pytest.mark.parametrize("max_steps", [6, 4])
def test_nothing_is_trained_where_the_last_step_was_done_before(scenes, tmp_path, max_steps):
    values = {"save_strategy": "steps", "save_steps": 3}
    trainer_of(tmp_path, train_data(scenes), **values).train()
    again = trainer_of(tmp_path, train_data(scenes), max_steps=max_steps, **values)
    assert again.train(resume_from_checkpoint=True).global_step == 6
    again.save_model(tmp_path / "again")
    assert equal(weights(tmp_path / "again"), weights(tmp_path / "checkpoint-6"))
    assert checkpoints(tmp_path) == ["checkpoint-3", "checkpoint-6"]


@pytest.mark.parametrize(("max_steps", "least"), [(12, 12), (25, 10)])
def test_ten_checkpoints_are_written_at_least_by_default(tmp_path, max_steps, least):
    class Saves(TrainerCallback):
        count = 0

        def on_save(self, *args, **kwargs):
            self.count += 1

    data = [{"pixel_values": torch.randn(3, 32, 32), "labels": torch.zeros(32, 32, dtype=torch.int64)}] * 2
    saves = Saves()
    trainer_of(tmp_path, data, [saves], max_steps=max_steps, save_strategy="steps", save_only_model=True).train()
    assert saves.count >= least and len(checkpoints(tmp_path)) == 10


def test_a_checkpoint_is_written_when_it_is_time(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(safeguards, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    trainer_of(tmp_path, train_data(scenes), max_steps=3, save_strategy="steps", save_steps=3).train()
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_the_best_is_saved_when_it_is_measured_by_default(tmp_path):
    values = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 7, "save_strategy": "steps"}
    assert SegmentationTrainingArguments(output_dir=str(tmp_path), **values).save_steps == 7


def test_a_figure_that_is_missing_is_no_new_best(tmp_path):
    trainer = trainer_of(tmp_path, [None] * 2, metric_for_best_model="iou_sky")
    assert not trainer._determine_best_metric({"eval_mean_iou": 0.5}, None)
    assert trainer._determine_best_metric({"eval_iou_sky": 0.5}, None)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_is_called_so(tmp_path, error):
    message = f"`output_dir` must have room for a checkpoint, and the disk of {tmp_path} is full; free some"
    with pytest.raises(OSError, match=message), full_disk_said(tmp_path):
        raise error
    with pytest.raises(RuntimeError, match="CUDA"), full_disk_said(tmp_path):
        raise RuntimeError("CUDA out of memory")


def test_a_single_batch_is_not_dropped(tmp_path):
    with pytest.raises(ValueError, match=r"`dataloader_drop_last` must be left out for 3 images.*_batch_size 3"):
        trainer_of(tmp_path, [None] * 3, per_device_train_batch_size=4, dataloader_drop_last=True)
    with pytest.raises(ValueError, match=r"last batch of one image .* got 4 for 1 images; pass `--batch_norm frozen`"):
        trainer_of(tmp_path, [None], per_device_train_batch_size=4)
    trainer_of(tmp_path, [None], per_device_train_batch_size=4, batch_norm="frozen")
    trainer_of(tmp_path, [None] * 3, per_device_train_batch_size=3, dataloader_drop_last=True)
