"""The arguments of a training: transformers' own, with the paper's recipe as defaults."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from offseg_hf.data.ranges import check_ranges
from offseg_hf.training.options import BATCH_NORMS, RANGES, RecipeArguments


@dataclass
class SegmentationTrainingArguments(RecipeArguments, TrainingArguments):
    """`TrainingArguments` with the paper's recipe as defaults, and evaluation in constant memory.

    Warm-up alone is not the paper's 1500 steps, which a short training never leaves, but a share of the steps. The
    recipe's fields, with their meaning, are those of [`~offseg_hf.training.options.RecipeArguments`]. The schedule
    is transformers' polynomial one, which decays to 0 with the exponent `lr_decay_power` and whose warm-up begins at
    0 (mmsegmentation's, by which the paper trained, begins at a millionth of the learning rate).

    Args:
        dataloader_pin_memory (`bool`, *optional*): whether to copy batches to the GPU from pinned memory; by default
            where there is a GPU.

    Raises:
        ValueError: where a number is out of its range, Trainer could not do what an argument asks for, or the batch
            sizes contradict each other.
    """

    dataloader_pin_memory: bool = field(
        default=torch.cuda.is_available(), metadata={"help": "Whether to copy batches to the GPU from pinned memory."}
    )

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        by_steps = self.save_strategy == self.eval_strategy == "steps"
        if self.load_best_model_at_end and by_steps and self.save_steps == RecipeArguments.save_steps:
            self.save_steps = self.eval_steps or self.logging_steps  # the best must be saved when it is measured
        super().__post_init__()
        self.label_names: list[str] | None  # of TrainingArguments, as the next
        self.lr_scheduler_kwargs: dict[str, Any] | str | None
        if self.label_names is None:
            self.label_names = ["labels"]  # else Mask2Former's other inputs would be taken for labels too
        if self.lr_scheduler_type == "polynomial":
            settings = self.lr_scheduler_kwargs or {}
            self.lr_scheduler_kwargs = {"lr_end": 0.0, "power": self.lr_decay_power, **settings}
        if self.remove_unused_columns or not self.batch_eval_metrics:
            raise ValueError(
                "`remove_unused_columns` must be False and `batch_eval_metrics` True, since images are decoded late "
                "and predictions are counted batch by batch; leave both out."
            )
        if self.label_smoothing_factor:
            raise ValueError(
                "`label_smoothing_factor` must be 0, since Trainer's smoothing does not fit label maps, got "
                f"{self.label_smoothing_factor}; set `label_smoothing` of the model instead."
            )
        if self.batch_norm not in (None, *BATCH_NORMS):
            raise ValueError(f"`batch_norm` must be one of {', '.join(BATCH_NORMS)}, got {self.batch_norm!r}.")
        if self.freeze_backbone and self.layer_decay != 1:
            raise ValueError(
                "`layer_decay` must be left out with `freeze_backbone`, since an encoder that is frozen has no "
                f"learning rate, got {self.layer_decay}."
            )
        self._set_batch_size()

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """As `TrainingArguments`', but a share is rounded down: a training of one step has no warm-up.

        Args:
            num_training_steps (`int`): steps of the whole training.

        Returns:
            `int`: steps of the warm-up.
        """
        share = num_training_steps if self.warmup_steps < 1 else 1
        return int(self.warmup_steps * share)

    def _set_batch_size(self):
        num_batches = self.world_size * max(1, self.n_gpu) * self.gradient_accumulation_steps
        if self.per_device_train_batch_size is None:
            total = 16 * num_batches if self.total_batch_size is None else self.total_batch_size
            self.per_device_train_batch_size = total // num_batches
        found = self.per_device_train_batch_size * num_batches
        if self.total_batch_size not in (None, found):
            raise ValueError(
                "`total_batch_size` must be devices × `gradient_accumulation_steps` × `per_device_train_batch_size`, "
                f"got {self.total_batch_size} for {num_batches // self.gradient_accumulation_steps} × "
                f"{self.gradient_accumulation_steps} × {self.per_device_train_batch_size}; change one of them, such "
                f"as `--total_batch_size {max(found, num_batches)}`."
            )
