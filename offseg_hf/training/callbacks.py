"""Watching a training: progress bar, speed, example predictions, curves, a line of JSON for each evaluation."""

import contextlib
import importlib.util
import itertools
import json
import math
import os
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import has_length
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from offseg_hf.data.presets import class_palette
from offseg_hf.model_types import ignore_index, is_in_head, predicted_labels
from offseg_hf.pictures.overlays import IGNORE_INDEX, picture_sheet
from offseg_hf.pictures.plots import draw_curves
from offseg_hf.pictures.saving import save_picture
from offseg_hf.prediction.evaluation_mode import evaluation_mode
from offseg_hf.training.arguments import SegmentationTrainingArguments

EVALUATIONS, PREDICTIONS, CURVES = "evaluations.jsonl", "predictions", "curves.png"


def check_reporting(args: SegmentationTrainingArguments):
    """Tells that TensorBoard is missing before anything is read or loaded.

    Args:
        args ([`SegmentationTrainingArguments`]): the arguments of the training.

    Raises:
        ValueError: where TensorBoard is asked for and not installed.
    """
    is_installed = any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX"))
    if "tensorboard" in args.report_to and not is_installed:
        raise ValueError(
            "`report_to` must name what is installed, got 'tensorboard', which is not; run "
            "`pip install 'tensorboard>=2.21'`, or leave it out."
        )


def watch(trainer: Trainer):
    """Makes a training show and record how it goes; its result stays the same to the bit.

    The progress bar tells loss, learning rates of encoder and head, and examples per second, which are logged as
    `learning_rate_head` and `examples_per_second` too. Into `output_dir` go, at every evaluation on the evaluation
    set: a line of `evaluations.jsonl`, the picture `curves.png` (at every checkpoint and at the end too), and
    `predictions/step-000500.jpg`, a sheet of `args.num_prediction_examples` fixed examples, which TensorBoard shows
    too. A step is recorded once, the first time it is evaluated; a training that resumes drops what was recorded of
    later steps than it resumes from, and one that starts anew drops all. Only the main process writes.

    Args:
        trainer ([`transformers.Trainer`]): before it trains; of [`~offseg_hf.training.from_arguments.create_trainer`].
    """
    # The first of all, so that those who report the logs get what it adds to them.
    trainer.callback_handler.callbacks.insert(0, TrainingRates())
    if trainer.pop_callback(ProgressCallback) is not None:  # there is none with `disable_tqdm`, nor in notebooks
        trainer.add_callback(TrainingProgress())
    if trainer.eval_dataset is not None and trainer.args.num_prediction_examples > 0:
        trainer.add_callback(PredictionSheets(trainer))
    trainer.add_callback(EvaluationRecord())
    trainer.add_callback(CurvePicture())


class TrainingRates(TrainerCallback):
    """Adds the learning rate of the head and the examples per second to what is logged of the training.

    The speed leaves out the time of evaluations and checkpoints, and that until the end of the first step, in which
    workers start and a training that resumes skips what it has seen; every batch is taken for a full one. The last
    step is always logged.
    """

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        head = {parameter for name, parameter in model.named_parameters() if is_in_head(name)}
        groups = [group["params"][0] in head for group in optimizer.param_groups]
        self.names = ["learning_rate_head" if in_head else "learning_rate" for in_head in groups]
        self.learning_rates = {}
        self.since, self.num_steps, self.was_interrupted = None, 0, False

    def on_step_begin(self, args, state, control, **kwargs):
        if self.was_interrupted and self.since is not None:
            self.since += time.perf_counter() - self.step_end
        self.was_interrupted = False

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.learning_rates = {name: group["lr"] for name, group in zip(self.names, optimizer.param_groups)}

    def on_step_end(self, args, state, control, **kwargs):
        self.step_end = time.perf_counter()
        if self.since is None:
            self.since = self.step_end
        else:
            self.num_steps += 1
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:
            return
        added = dict(self.learning_rates)
        if self.num_steps:
            num_examples = self.num_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            added["examples_per_second"] = round(num_examples / (self.step_end - self.since), 2)
            self.since, self.num_steps = self.step_end, 0
        logs.update(added)
        state.log_history[-1].update(added)  # a copy, made before

    def on_evaluate(self, args, state, control, **kwargs):
        self.was_interrupted = True

    def on_save(self, args, state, control, **kwargs):
        self.was_interrupted = True


class TrainingProgress(ProgressCallback):
    """Trainer's progress bars, with loss, speed, learning rates of encoder and head beside the bar, not above it."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.current_step = state.global_step
        self.others_show_bars = is_progress_bar_enabled()
        disable_progress_bar()  # or else each checkpoint leaves one, of the shards that it writes
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                dynamic_ncols=True,
                # Without the steps per second, so that 80 columns are enough.
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            )

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if not state.is_world_process_zero:
            return
        if self.prediction_bar is None:
            total = len(eval_dataloader) if has_length(eval_dataloader) else None  # None for streams
            leave = self.training_bar is None
            self.prediction_bar = tqdm(total=total, desc="evaluating", leave=leave, dynamic_ncols=True)
        self.prediction_bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None:
            return
        if "loss" in logs:
            shown = {"loss": f"{logs['loss']:.3g}"}
            if "examples_per_second" in logs:
                shown["examples/s"] = f"{logs['examples_per_second']:.3g}"
            rates = [logs[name] for name in ("learning_rate", "learning_rate_head") if name in logs]
            shown["lr"] = "/".join(f"{rate:.1e}".replace("e-0", "e-") for rate in rates)
            self.training_bar.set_postfix(shown)
        elif "eval_mean_iou" in logs:
            self.on_evaluate(args, state, control)  # closes the bar that a line would break
            values = f"mean IoU {logs['eval_mean_iou']:.4f}, pixel accuracy {logs['eval_overall_accuracy']:.4f}"
            self.training_bar.write(f"step {state.global_step}: {values}, loss {logs['eval_loss']:.4g}")
        elif "train_runtime" in logs:
            duration = tqdm.format_interval(logs["train_runtime"])
            self.training_bar.write(f"trained to step {state.global_step} in {duration}")
        else:
            super().on_log(args, state, control, logs=logs, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        super().on_train_end(args, state, control, **kwargs)
        if self.others_show_bars:
            enable_progress_bar()


class EvaluationRecord(TrainerCallback):
    """Writes a line of JSON for each evaluation: `step`, `epoch`, `time` (UTC), `seconds` it took, and `metrics`."""

    def on_train_begin(self, args, state, control, **kwargs):
        path = Path(args.output_dir) / EVALUATIONS
        if state.is_world_process_zero and path.exists():
            kept = [line for step, line in _recorded(path) if _is_past(step, state)]
            unfinished = path.with_name(f".unfinished-{path.name}")
            unfinished.write_text("".join(kept), encoding="utf-8")
            os.replace(unfinished, path)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        path = Path(args.output_dir) / EVALUATIONS
        if not state.is_world_process_zero or not _is_of_own_set(metrics):
            return
        if state.global_step in dict(_recorded(path)):
            return
        timings = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time")
        values = {
            name.removeprefix("eval_"): value if math.isfinite(value) else None  # JSON has no NaN
            for name, value in metrics.items()
            if name not in timings and name != "epoch"
        }
        line = {
            "step": state.global_step,
            "epoch": state.epoch,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": metrics["eval_runtime"],
            "metrics": values,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:  # one call: what is killed leaves the line or none
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


class CurvePicture(TrainerCallback):
    """Draws the curves of the whole training, of what was logged before it resumed too."""

    def on_evaluate(self, args, state, control, **kwargs):
        if state.is_world_process_zero and (picture := draw_curves(state.log_history)):
            path = Path(args.output_dir) / CURVES
            path.parent.mkdir(parents=True, exist_ok=True)
            save_picture(picture, path)

    on_save = on_train_end = on_evaluate


class PredictionSheets(TrainerCallback):
    """Draws photo, truth and prediction of a few fixed evaluation examples, at every evaluation.

    Args:
        trainer ([`transformers.Trainer`]): with an `eval_dataset` and an image processor.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.examples = None
        self.last_step = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            for sheet in Path(args.output_dir, PREDICTIONS).glob("step-*.jpg"):
                step = sheet.stem.removeprefix("step-")
                if step.isdecimal() and not _is_past(int(step), state):
                    sheet.unlink()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if not _is_of_own_set(metrics) or state.global_step == self.last_step:
            return
        self.last_step = state.global_step
        # Every process predicts, since parts of the model may lie with each.
        with _random_state_kept(args.device), evaluation_mode(self.trainer.model):
            if self.examples is None:
                self.examples = self._read(args.num_prediction_examples)
            predictions = [self._predict(example) for example in self.examples]
        path = Path(args.output_dir, PREDICTIONS, f"step-{state.global_step:06}.jpg")
        if not state.is_world_process_zero or path.exists():
            return
        id2label = predicted_labels(self.trainer.model.config)
        rows = [
            (self._photo(example), self._truth(example), prediction)
            for example, prediction in zip(self.examples, predictions)
        ]
        palette = class_palette(id2label)
        sheet = picture_sheet(rows, ("photo", "truth", "prediction"), id2label, palette)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_picture(sheet, path, quality=90)
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_image("predictions", np.asarray(sheet), state.global_step, dataformats="HWC")
                callback.tb_writer.flush()

    def _read(self, num_examples):
        """Examples from all over the set, as neighbours are often alike; of a stream the first."""
        dataset = self.trainer.eval_dataset
        if not has_length(dataset):
            return list(itertools.islice(dataset, num_examples))
        num_examples = min(num_examples, len(dataset))
        return [dataset[index * len(dataset) // num_examples] for index in range(num_examples)]

    def _predict(self, example):
        """The label map, made as those that are measured are."""
        inputs = {"pixel_values": example["pixel_values"][None]}
        _, logits, _ = self.trainer.prediction_step(self.trainer.model, inputs, prediction_loss_only=False)
        return self.trainer.preprocess_logits_for_metrics(logits, example["labels"][None])[0].cpu().numpy()

    def _photo(self, example):
        """The photo as the model sees it."""
        processor = self.trainer.processing_class
        pixels = example["pixel_values"].float().numpy().transpose(1, 2, 0)  # (height, width, 3)
        pixels = pixels * np.array(processor.image_std) + np.array(processor.image_mean)
        return Image.fromarray((pixels / processor.rescale_factor).round().clip(0, 255).astype(np.uint8))

    def _truth(self, example):
        labels = example["labels"].numpy()
        return np.where(labels == ignore_index(self.trainer.model.config), IGNORE_INDEX, labels)


def _is_of_own_set(metrics):
    """Whether an evaluation was one on the trainer's `eval_dataset`, by the usual names of its results."""
    return "eval_runtime" in metrics


def _is_past(step, state):
    """Whether a step of an earlier training belongs to the one that goes on from it; none does to a new one."""
    return state.global_step > 0 and step <= state.global_step


def _recorded(path):
    """(step, line) of each evaluation that was recorded."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [(json.loads(line)["step"], line) for line in lines if line.endswith("\n")]  # else it was cut off


@contextlib.contextmanager
def _random_state_kept(device):
    """Leaves the generators of random numbers as they are: Python's, numpy's, torch's of CPU and GPU."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
