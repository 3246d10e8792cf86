"""What keeps a training from being lost: checkpoints by time, Ctrl-C, a loss that is no number any more."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import SaveStrategy

from offseg_hf.model_types import tensors_not_finite
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.checkpoints import last_whole_checkpoint

if TYPE_CHECKING:
    from offseg_hf.training.trainer import SegmentationTrainer

SECONDS_BETWEEN_CHECKPOINTS = 600
NUM_LOST = 3  # losses in a row that are not finite: one alone may be a step that mixed precision leaves out


class TimedCheckpoints(TrainerCallback):
    """Saves a checkpoint every ten minutes besides, and of a share of the steps rather one too many than too few."""

    def on_train_begin(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        if args.save_steps < 1:
            state.save_steps = max(1, int(state.max_steps * args.save_steps))
        self.saved_at = time.monotonic()

    def on_step_end(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        is_due = time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS
        # The clocks of several processes differ, and all of them must save at one step.
        if is_due and args.world_size == 1 and args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH):
            control.should_save = True

    def on_save(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.saved_at = time.monotonic()


class FiniteLoss(TrainerCallback):
    """Ends a training whose loss stays NaN or infinite, before anything is saved of it.

    Args:
        trainer ([`~offseg_hf.training.trainer.SegmentationTrainer`]): which counts such losses.
    """

    def __init__(self, trainer: "SegmentationTrainer"):
        self.trainer = trainer

    def on_step_end(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        # To ask the device at every step would make it wait.
        if control.should_log or control.should_save or control.should_evaluate or state.global_step % 20 == 0:
            num_lost = int(self.trainer.num_lost)
            if num_lost >= NUM_LOST:
                raise diverged(args, state.global_step - num_lost // args.gradient_accumulation_steps + 1)


def check_before_saving(trainer: "SegmentationTrainer") -> None:
    """Checks that there is something to save.

    Args:
        trainer ([`~offseg_hf.training.trainer.SegmentationTrainer`]): about to save its model.

    Raises:
        FloatingPointError: a weight is NaN or infinite.
    """
    if trainer.state.global_step > 0 and tensors_not_finite(trainer.model):
        raise diverged(trainer.args, trainer.state.global_step)


def diverged(args: SegmentationTrainingArguments, step: int) -> FloatingPointError:
    """What to raise where a training has diverged.

    Args:
        args ([`~offseg_hf.training.arguments.SegmentationTrainingArguments`]): its arguments.
        step (`int`): since when, about.

    Returns:
        `FloatingPointError`: which says what is left, and what to do.
    """
    last = last_whole_checkpoint(args.output_dir)
    left = f"{last} holds the last finite weights" if last is not None else "nothing was saved before"
    default = SegmentationTrainingArguments.learning_rate
    remedy = f"--learning_rate {default}" if args.learning_rate > default else "--max_grad_norm 1"
    return FloatingPointError(
        f"`learning_rate` must be so low that loss and weights stay finite, which they do not since step {step}, got "
        f"{args.learning_rate}; {left}: pass `{remedy}`, and `--overwrite` to start anew."
    )


class Interruption(TrainerCallback):
    """Ctrl-C: the step is finished, a checkpoint saved, and one line says how to go on. A second one stops at once."""

    def __init__(self) -> None:
        self.is_asked = self.is_in_step = False
        self.process = os.getpid()
        self.random_state: torch.Tensor | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Takes the signal over while a training runs, where nobody else has."""
        is_ours = threading.current_thread() is threading.main_thread()
        if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._asked)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _asked(self, number, frame):
        if os.getpid() != self.process:  # a worker's, who ends when the loader does
            return
        if self.is_asked or not self.is_in_step:
            raise KeyboardInterrupt
        self.is_asked = True

    def on_train_begin(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.random_state = torch.get_rng_state()

    def on_step_begin(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.is_in_step = True

    def on_step_end(
        self, args: SegmentationTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.is_in_step = False
        self.random_state = torch.get_rng_state()  # before a loader asks for the seed of its next pass
        if self.is_asked:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False


def how_to_go_on(args: SegmentationTrainingArguments) -> str:
    """One sentence for the person who stopped a training.

    Args:
        args ([`~offseg_hf.training.arguments.SegmentationTrainingArguments`]): its arguments.

    Returns:
        `str`
    """
    last = last_whole_checkpoint(args.output_dir)
    if last is None:
        return f"stopped before the first step was done; {Path(args.output_dir)} holds nothing to go on from"
    return f"stopped, and saved in {last}: pass `--resume_from_checkpoint last` besides to go on"
