"""The arguments of a training: transformers' own, with the paper's recipe as defaults."""

from dataclasses import dataclass, field, fields

import torch
from transformers import TrainingArguments


@dataclass
class SegmentationTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the paper's recipe for ADE20K as defaults, and evaluation in constant memory.

    Args:
        head_learning_rate_factor (`float`, *optional*, defaults to 10): learning rate of the decode head as a multiple
            of `learning_rate`, the encoder's.
        warmup_start_factor (`float`, *optional*, defaults to 1e-6): learning rate of the first step as a multiple of
            the full one.
    """

    learning_rate: float = field(default=6e-5, metadata={"help": "Learning rate of the encoder."})
    head_learning_rate_factor: float = field(
        default=10.0, metadata={"help": "Learning rate of the head, as a multiple of the encoder's."}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay, of all but the norm layers."})
    warmup_steps: float = field(
        default=1500, metadata={"help": "Steps of linear warm-up; a number below 1 is a share of all steps."}
    )
    warmup_start_factor: float = field(
        default=1e-6, metadata={"help": "Learning rate of the first step, as a multiple of the full one."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Largest norm of the gradient; 0 for any."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Images per device and step."})
    per_device_eval_batch_size: int = field(
        default=1, metadata={"help": "Images per device in evaluation; more than 1 needs images of one size."}
    )
    dataloader_pin_memory: bool = field(
        default=torch.cuda.is_available(), metadata={"help": "Whether to copy batches to the GPU from pinned memory."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be False: images are decoded late."})
    batch_eval_metrics: bool = field(default=True, metadata={"help": "Must be True: no prediction is kept."})
    metric_for_best_model: str | None = field(default="mean_iou", metadata={"help": "Metric of the best model."})
    # In the order of the base class, the only one that HfArgumentParser understands.
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "Integrations to report to."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.label_names is None:
            self.label_names = ["labels"]  # Mask2Former takes others besides, and would be evaluated without
        if self.remove_unused_columns or not self.batch_eval_metrics:
            raise ValueError(
                "`remove_unused_columns` must be False and `batch_eval_metrics` True, since images are decoded late "
                "and predictions are counted batch by batch; leave both out."
            )
        defaults = {field.name: field.default for field in fields(TrainingArguments)}
        for name in ("optim", "lr_scheduler_type"):
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"`{name}` cannot be set, since the recipe is AdamW with linear decay; leave it out.")
