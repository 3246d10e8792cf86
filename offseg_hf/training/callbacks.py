"""What a training shows and records: progress bar, speed, example predictions, curves, a line of JSON per evaluation.

None of it changes the training, and only the main process writes.
"""

import contextlib
import importlib.util
import itertools
import json
import math
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import has_length

from offseg_hf.data.presets import class_palette
from offseg_hf.files import write_text
from offseg_hf.model_types import ignore_index, is_in_head, predicted_labels
from offseg_hf.pictures.overlays import IGNORE_INDEX, picture_sheet
from offseg_hf.pictures.plots import draw_curves
from offseg_hf.pictures.saving import save_picture
from offseg_hf.prediction.evaluation_mode import evaluation_mode
from offseg_hf.training.arguments import SegmentationTrainingArguments

if TYPE_CHECKING:
    from offseg_hf.training.trainer import SegmentationTrainer

EVALUATIONS, PREDICTIONS, CURVES = "evaluations.jsonl", "predictions", "curves.png"


def check_reporting(args: SegmentationTrainingArguments) -> None:
    """Raises where a tracker is asked for that is not installed or not known, before anything is read or loaded.

    Args:
        args ([`SegmentationTrainingArguments`]): the arguments of the training.

    Raises:
        ValueError: where one is not installed, or not known to transformers.
    """
    modules = {"tensorboard": ("tensorboard", "tensorboardX"), "azure_ml": ("azureml",), "flyte": ("flytekit",)}
    packages = {"tensorboard": "'tensorboard>=2.21'", "azure_ml": "azureml-core", "flyte": "flytekit"}
    for name in args.report_to or ():
        if isinstance(name, str) and name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"`report_to` must be none or one of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}, got {name!r}; "
                "leave it out."
            )
        if not any(importlib.util.find_spec(module) for module in modules.get(name, (name,))):
            raise ValueError(
                f"`report_to` must name what is installed, got {name!r}, which is not; run "
                f"`pip install {packages.get(name, name)}`, or leave it out."
            )


class PassCallback(TrainerCallback):
    """Tells a data set the number of the pass, by which photos are augmented; after resuming, Trainer does not.

    Args:
        train_dataset (`torch.utils.data.Dataset`): with a method `set_epoch`.
    """

    def __init__(self, train_dataset: Dataset):
        self.train_dataset = train_dataset

    def on_epoch_begin(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.train_dataset.set_epoch(int(state.epoch or 0))


class StreamEpochCallback(TrainerCallback):
    """Counts the whole training on a stream as one epoch; after resuming, Trainer would begin again at 0."""

    def on_step_end(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        state.epoch = state.global_step / state.max_steps


class TrainingRates(TrainerCallback):
    """Logs `learning_rate_head` and `examples_per_second` besides what Trainer logs, and always the last step.

    `learning_rate` is the encoder's, with `layer_decay` that of its last block; of a frozen one there is none.

    The speed leaves out evaluations and checkpoints, and everything until the end of the first step, in which workers
    start and a training that resumes skips what it has seen. Every batch counts as a full one.
    """

    def on_train_begin(
        self,
        args: SegmentationTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        **kwargs,
    ) -> None:
        head = {parameter for name, parameter in model.named_parameters() if is_in_head(name)}
        in_head = [any(parameter in head for parameter in group["params"]) for group in optimizer.param_groups]
        self.names = ["learning_rate_head" if is_heads else "learning_rate" for is_heads in in_head]
        self.learning_rates: dict[str, float] = {}
        self.since: float | None = None
        self.num_steps, self.was_interrupted = 0, False

    def on_step_begin(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        if self.was_interrupted and self.since is not None:
            self.since += time.perf_counter() - self.step_end
        self.was_interrupted = False

    def on_optimizer_step(
        self,
        args: SegmentationTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer,
        **kwargs,
    ) -> None:
        rates = sorted(zip(self.names, (group["lr"] for group in optimizer.param_groups)))
        self.learning_rates = dict(rates)  # of several groups of one name the highest

    def on_step_end(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.step_end = time.perf_counter()
        if self.since is None:
            self.since = self.step_end
        else:
            self.num_steps += 1
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(
        self,
        args: SegmentationTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs,
    ) -> None:
        if "loss" not in logs:
            return
        added = dict(self.learning_rates)
        if self.num_steps and self.since is not None:
            num_examples = self.num_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            added["examples_per_second"] = round(num_examples / (self.step_end - self.since), 2)
            self.since, self.num_steps = self.step_end, 0
        for entry in (logs, state.log_history[-1]):  # where Trainer has put a copy of `logs`
            entry.update(added)
            if self.learning_rates and "learning_rate" not in self.learning_rates:
                entry.pop("learning_rate", None)  # Trainer's is that of the first group, here the head's

    def on_evaluate(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.was_interrupted = True

    def on_save(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.was_interrupted = True


class TrainingProgress(ProgressCallback):
    """Trainer's progress bars, but with loss, speed and learning rates beside the bar instead of lines above it."""

    prediction_bar: tqdm | None  # set by ProgressCallback

    def on_train_begin(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.current_step = state.global_step
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                dynamic_ncols=True,
                # tqdm's own without the steps per second, so that a line fits into 80 columns.
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            )

    def on_prediction_step(
        self,
        args: SegmentationTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: DataLoader | None = None,
        **kwargs,
    ) -> None:
        if not state.is_world_process_zero:
            return
        if self.prediction_bar is None:
            total = None  # of streams
            if eval_dataloader is not None and has_length(eval_dataloader):
                total = len(eval_dataloader)
            leave = self.training_bar is None
            self.prediction_bar = tqdm(total=total, desc="evaluating", leave=leave, dynamic_ncols=True)
        self.prediction_bar.update()

    def on_log(
        self,
        args: SegmentationTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs,
    ) -> None:
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
            self.on_evaluate(args, state, control)  # closes the evaluation's bar, which a line would break
            values = f"mean IoU {logs['eval_mean_iou']:.4f}, pixel accuracy {logs['eval_overall_accuracy']:.4f}"
            self.training_bar.write(f"step {state.global_step}: {values}, loss {logs['eval_loss']:.4g}")
        elif "train_runtime" in logs:
            duration = tqdm.format_interval(logs["train_runtime"])
            self.training_bar.write(f"trained to step {state.global_step} in {duration}")
        else:
            super().on_log(args, state, control, logs=logs, **kwargs)


class EvaluationRecord(TrainerCallback):
    """Writes a line of JSON per evaluation: `step`, `epoch`, `time` (UTC), the `seconds` it took, and `metrics`.

    A step has one line, of the first time that it was evaluated.
    """

    def on_train_begin(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        path = Path(args.output_dir) / EVALUATIONS
        if state.is_world_process_zero and path.exists():
            kept = [line for step, line in _recorded(path) if _is_past(step, state)]
            write_text(path, "".join(kept))

    def on_evaluate(
        self,
        args: SegmentationTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs,
    ) -> None:
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
        with path.open("ab", buffering=0) as file:  # in one call, so that a killed process leaves no half line
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


class CurvePicture(TrainerCallback):
    """Draws the curves of the whole training, with what was logged before it resumed."""

    def on_evaluate(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        if state.is_world_process_zero and (picture := draw_curves(state.log_history)):
            path = Path(args.output_dir) / CURVES
            save_picture(picture, path)

    on_save = on_train_end = on_evaluate


class PredictionSheets(TrainerCallback):
    """Draws photo, truth and prediction of a few fixed evaluation examples, at every evaluation.

    Args:
        trainer ([`~offseg_hf.training.trainer.SegmentationTrainer`]): with an `eval_dataset` and an image processor.
    """

    def __init__(self, trainer: "SegmentationTrainer"):
        self.trainer = trainer
        self.examples: list[dict[str, torch.Tensor]] | None = None
        self.last_step: int | None = None

    def on_train_begin(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        if state.is_world_process_zero:
            for sheet in Path(args.output_dir, PREDICTIONS).glob("step-*.jpg"):
                step = sheet.stem.removeprefix("step-")
                if step.isdecimal() and not _is_past(int(step), state):
                    sheet.unlink()

    def on_evaluate(
        self,
        args: SegmentationTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs,
    ) -> None:
        if not _is_of_own_set(metrics) or state.global_step == self.last_step:
            return
        self.last_step = state.global_step
        # Every process predicts, since each may hold a part of the model.
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
        """The label map, made in the same way as for the metrics."""
        inputs = {"pixel_values": example["pixel_values"][None]}
        _, logits, _ = self.trainer.prediction_step(self.trainer.model, inputs, prediction_loss_only=False)
        return self.trainer.preprocess_logits_for_metrics(logits, example["labels"][None])[0].cpu().numpy()

    def _photo(self, example):
        """The photo at the size at which the model sees it, its normalization undone."""
        processor = self.trainer.processing_class
        pixels = example["pixel_values"].float().numpy().transpose(1, 2, 0)  # (height, width, 3)
        if processor.do_normalize:
            pixels = pixels * np.array(processor.image_std) + np.array(processor.image_mean)
        if processor.do_rescale:
            pixels = pixels / processor.rescale_factor
        return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))

    def _truth(self, example):
        labels = example["labels"].numpy()
        return np.where(labels == ignore_index(self.trainer.model.config), IGNORE_INDEX, labels)


def _is_of_own_set(metrics):
    """Whether an evaluation was on the trainer's `eval_dataset` and no other, by the prefix of its results."""
    return "eval_runtime" in metrics


def _is_past(step, state):
    """Whether a recorded step lies before the step that the training resumes from; if it starts anew, none does."""
    return state.global_step > 0 and step <= state.global_step


def _recorded(path):
    """(step, line) of each evaluation that was recorded."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [(json.loads(line)["step"], line) for line in lines if line.endswith("\n")]  # else it was cut off


@contextlib.contextmanager
def _random_state_kept(device):
    """Restores the state of all random generators (Python's, numpy's, torch's of CPU and GPU) afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
