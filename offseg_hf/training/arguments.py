"""The arguments of a training: transformers' own, with the paper's recipe as defaults."""

from dataclasses import dataclass, field, fields

import torch
from transformers import TrainingArguments

BATCH_NORMS = ("synchronized", "local", "frozen")


@dataclass
class SegmentationTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the paper's recipe for ADE20K as defaults, and evaluation in constant memory.

    Args:
        head_learning_rate_factor (`float`, *optional*, defaults to 10): learning rate of the decode head as a multiple
            of `learning_rate`, the encoder's.
        warmup_start_factor (`float`, *optional*, defaults to 1e-6): learning rate of the first step as a multiple of
            the full one.
        lr_decay_power (`float`, *optional*, defaults to 1): exponent of the decay to 0 after the warm-up; 1 for a
            linear one.
        total_batch_size (`int`, *optional*): images per step over all devices and accumulated batches, from which
            `per_device_train_batch_size` follows.
        batch_norm (`str`, *optional*): what BatchNorm does, see [`~offseg_hf.training.trainer.set_up_batch_norm`].
        num_prediction_examples (`int`, *optional*, defaults to 4): examples whose predictions are drawn at every
            evaluation; 0 for none.

    Raises:
        ValueError: where an argument contradicts the recipe, or the batch sizes contradict each other.
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
    lr_decay_power: float = field(
        default=1.0, metadata={"help": "Exponent of the decay to 0 after the warm-up; 1 for a linear one."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Largest norm of the gradient; 0 for any."})
    total_batch_size: int | None = field(
        default=None, metadata={"help": "Images per step, over all devices and accumulated batches."}
    )
    per_device_train_batch_size: int | None = field(
        default=None, metadata={"help": "Images per device and batch; by default 16, or as --total_batch_size has it."}
    )
    per_device_eval_batch_size: int = field(
        default=1, metadata={"help": "Images per device in evaluation; more than 1 needs images of one size."}
    )
    dataloader_pin_memory: bool = field(
        default=torch.cuda.is_available(), metadata={"help": "Whether to copy batches to the GPU from pinned memory."}
    )
    batch_norm: str | None = field(
        default=None,
        metadata={
            "help": "What BatchNorm does: 'synchronized' over all processes (by default on several GPUs), 'local' to "
            "each (by default elsewhere) or 'frozen', keeping its statistics.",
            "choices": BATCH_NORMS,
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be False: images are decoded late."})
    batch_eval_metrics: bool = field(default=True, metadata={"help": "Must be True: no prediction is kept."})
    metric_for_best_model: str | None = field(default="mean_iou", metadata={"help": "Metric of the best model."})
    logging_first_step: bool = field(default=True, metadata={"help": "Whether to log the first step."})
    logging_steps: float = field(
        default=20, metadata={"help": "Steps from log to log; a number below 1 is a share of all steps."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Whether to log the last finite loss in place of one that is not."}
    )
    num_prediction_examples: int = field(
        default=4, metadata={"help": "Examples whose predictions are drawn at every evaluation; 0 for none."}
    )
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
                raise ValueError(
                    f"`{name}` cannot be set, since the recipe is AdamW with polynomial decay; leave it out, or set "
                    "`lr_decay_power`."
                )
        if self.label_smoothing_factor:
            raise ValueError(
                "`label_smoothing_factor` must be 0, since Trainer's smoothing does not fit label maps, got "
                f"{self.label_smoothing_factor}; set `label_smoothing` of the model instead."
            )
        if self.batch_norm not in (None, *BATCH_NORMS):
            raise ValueError(f"`batch_norm` must be one of {', '.join(BATCH_NORMS)}, got {self.batch_norm!r}.")
        if self.num_prediction_examples < 0:
            raise ValueError(
                f"`num_prediction_examples` must be 0, for no sheets, or more, got {self.num_prediction_examples}; "
                "pass 4."
            )
        self._set_batch_size()

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
