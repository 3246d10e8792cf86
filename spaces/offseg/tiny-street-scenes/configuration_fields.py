"""Configuration fields that this package's models share."""

import math
from dataclasses import dataclass

from transformers import PreTrainedConfig

from .offset_learning import LOGIT_NORMALIZATIONS

MANY_CLASSES = 20  # from here on the paper's results, all with a LayerNorm over the classes, are the better guide
# Of whichever fields a configuration has: the smallest number, and what all numbers are below.
NUMBERS = {
    "num_channels": (1, math.inf),
    "decoder_hidden_size": (1, math.inf),
    "attention_loss_weight": (0, math.inf),
    "drop_path_rate": (0, 1),
    "hidden_dropout_prob": (0, 1),
    "attention_probs_dropout_prob": (0, 1),
    "classifier_dropout_prob": (0, 1),
    "initializer_range": (0, math.inf),
    "layer_norm_eps": (0, math.inf),
    "layer_scale_init_value": (0, math.inf),
}
LOSS_FIELDS = (
    "label_smoothing",
    "class_weights",
    "ohem_threshold",
    "ohem_min_kept",
    "cross_entropy_loss_weight",
    "dice_loss_weight",
)


class LabelledClasses:
    """Classes that are named and numbered from 0, and replaced as a whole where the caller has others than a file.

    To be named before a [`transformers.PreTrainedConfig`] among the bases of a configuration, which must have a field
    or an alias `semantic_loss_ignore_index`.

    Raises:
        ValueError: where `num_labels` and `id2label` disagree.
    """

    def __post_init__(self, **kwargs) -> None:
        num_labels = kwargs.get("num_labels")
        if num_labels is not None and self.id2label is not None and len(self.id2label) != num_labels:
            raise ValueError(
                f"`num_labels` must equal the number of entries of `id2label`, got {num_labels} and "
                f"{len(self.id2label)}; leave out `num_labels`."
            )
        super().__post_init__(**kwargs)
        if self.label2id is None:
            self.label2id = {label: label_id for label_id, label in self.id2label.items()}

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> PreTrainedConfig:
        """As `PreTrainedConfig.from_dict`, but the caller's classes replace those of a file."""
        given = {name: kwargs.pop(name) for name in ("id2label", "label2id") if name in kwargs}
        if "id2label" in given or _has_other_classes(config_dict, kwargs.get("num_labels")):
            config_dict = {name: value for name, value in config_dict.items() if name not in ("id2label", "label2id")}
        return super().from_dict({**config_dict, **given}, **kwargs)

    def validate_classes(self) -> None:
        """Raises a `ValueError` where the classes are not numbered from 0, or one of them is to be ignored."""
        if self.num_labels < 1:
            raise ValueError(f"`num_labels` must be at least 1, got {self.num_labels}.")
        if sorted(self.id2label) != list(range(self.num_labels)):
            raise ValueError(
                f"`id2label` must name the ids 0 to {self.num_labels - 1} without a gap, got the ids "
                f"{sorted(self.id2label)}."
            )
        if 0 <= self.semantic_loss_ignore_index < self.num_labels:
            raise ValueError(
                f"`semantic_loss_ignore_index` must not be one of the {self.num_labels} class ids, got "
                f"{self.semantic_loss_ignore_index}; pass -1."
            )


@dataclass(kw_only=True, repr=False)
class OffsetLearningFields(LabelledClasses):
    """What every model has that classifies pixels by offset learning.

    To be named before a [`transformers.PreTrainedConfig`] among the bases of a configuration.

    Args:
        logit_normalization (`str`, *optional*, defaults to `"class_bias"` for fewer than 20 classes, else to
            `"fitted_layer_norm"`):
            What offset learning does to the logits of each pixel. `"layer_norm"` is the published form (a LayerNorm
            over the classes whose gain starts at 1); `"fitted_layer_norm"` the same function with a start of the gain
            that fits the number of classes; `"class_bias"` a learned bias per class instead, the only one that can be
            trained for one or two classes.
        attention_loss_weight (`float`, *optional*, defaults to 0.4 for fewer than 20 classes, else to 0):
            Weight, in training alone, of a second loss that asks the coupled attention, from which both offsets are
            read, to be a segmentation by itself. 0 as published, and by default with the published `"layer_norm"`.
        semantic_loss_ignore_index (`int`, *optional*, defaults to 255):
            Label of the pixels that the loss leaves out.
        label_smoothing (`float`, *optional*, defaults to 0):
            Share of the target that the cross-entropy spreads evenly over all classes, in [0, 1).
        class_weights (`list[float]`, *optional*):
            Weight of each class in the cross-entropy, of background and the class for a single one.
        ohem_threshold (`float`, *optional*):
            Online hard example mining: the cross-entropy is the mean over the pixels whose true class has a
            probability below this, in (0, 1]; by default over all.
        ohem_min_kept (`int`, *optional*, defaults to 100,000):
            Pixels of a batch (of one process and step) that mining keeps at least, the hardest ones.
        cross_entropy_loss_weight (`float`, *optional*, defaults to 1):
            Weight of the cross-entropy in the loss.
        dice_loss_weight (`float`, *optional*, defaults to 0):
            Weight of the Dice loss in the loss.

    Raises:
        ValueError: where `num_labels` and `id2label` disagree.
    """

    logit_normalization: str | None = None
    attention_loss_weight: float | int | None = None
    semantic_loss_ignore_index: int = 255
    label_smoothing: float | int = 0.0
    class_weights: list[float | int] | tuple[float | int, ...] | None = None
    ohem_threshold: float | int | None = None
    ohem_min_kept: int = 100_000
    cross_entropy_loss_weight: float | int = 1.0
    dice_loss_weight: float | int = 0.0

    def __post_init__(self, **kwargs) -> None:
        super().__post_init__(**kwargs)
        if self.logit_normalization is None:
            # A LayerNorm over few values costs more than it gives (results/camvid.md); over two it cannot be learned.
            self.logit_normalization = "class_bias" if self.num_labels < MANY_CLASSES else "fitted_layer_norm"
        if self.attention_loss_weight is None:
            is_published = self.num_labels >= MANY_CLASSES or self.logit_normalization == "layer_norm"
            self.attention_loss_weight = 0.0 if is_published else 0.4

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> PreTrainedConfig:
        """As `PreTrainedConfig.from_dict`, but the caller's classes replace those of a file, and what fits them."""
        own = ("logit_normalization", "attention_loss_weight", "semantic_loss_ignore_index", *LOSS_FIELDS)
        given = {name: kwargs.pop(name) for name in own if name in kwargs}
        num_labels = len(kwargs["id2label"]) if "id2label" in kwargs else kwargs.get("num_labels")
        if _has_other_classes(config_dict, num_labels):  # learned anew, so as fits them
            left_out = {"class_weights", "logit_normalization", "attention_loss_weight"}
            config_dict = {name: value for name, value in config_dict.items() if name not in left_out}
        return super().from_dict({**config_dict, **given}, **kwargs)

    def validate_offset_learning(self) -> None:
        """Raises a `ValueError` where fields contradict each other."""
        if self.logit_normalization not in LOGIT_NORMALIZATIONS:
            raise ValueError(
                f"`logit_normalization` must be one of {', '.join(LOGIT_NORMALIZATIONS)}, got "
                f"{self.logit_normalization!r}."
            )
        if self.num_labels < 3 and self.logit_normalization == "fitted_layer_norm":
            raise ValueError(
                "`logit_normalization` must be 'class_bias' for fewer than 3 classes, since no gain fits a LayerNorm "
                f"over so few values, got {self.logit_normalization!r} with {self.num_labels}."
            )

    def validate_numbers(self) -> None:
        """Raises a `ValueError` where a number is out of its range, NaN among them."""
        for name, (low, end) in NUMBERS.items():
            value = getattr(self, name, low)
            if not low <= value < end:
                limit = "finite" if end == math.inf else f"below {end}"
                raise ValueError(f"`{name}` must be at least {low} and {limit}, got {value}; leave it out.")

    def validate_losses(self) -> None:
        """Raises a `ValueError` where a field of the loss is out of its range."""
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be in [0, 1), got {self.label_smoothing}; pass 0.1.")
        if self.ohem_threshold is not None and not 0 < self.ohem_threshold <= 1:
            raise ValueError(
                f"`ohem_threshold` must be a probability in (0, 1], got {self.ohem_threshold}; pass 0.7, or None to "
                "learn from every pixel."
            )
        if self.ohem_min_kept < 0:
            raise ValueError(f"`ohem_min_kept` must not be negative, got {self.ohem_min_kept}; pass 100000.")
        weights = (self.cross_entropy_loss_weight, self.dice_loss_weight)
        if not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
            raise ValueError(
                "`cross_entropy_loss_weight` and `dice_loss_weight` must be finite, not negative and not both 0, got "
                f"{weights[0]} and {weights[1]}; pass 1 and 0 for the cross-entropy alone."
            )
        num_weights = max(self.num_labels, 2)
        if self.class_weights is not None and not (
            len(self.class_weights) == num_weights
            and all(0 <= weight < math.inf for weight in self.class_weights)
            and any(self.class_weights)
        ):
            whose = "background and the class" if self.num_labels == 1 else f"each of the {num_weights} classes"
            raise ValueError(
                f"`class_weights` must be {num_weights} finite numbers, not negative and not all 0, one for {whose}, "
                f"got {self.class_weights}; pass None to weigh all classes alike."
            )

    @property
    def loss_settings(self) -> dict:
        """What [`segmentation_loss`] is asked for, by its arguments."""
        return {name: getattr(self, name) for name in LOSS_FIELDS}


def _has_other_classes(config_dict, num_labels):
    return num_labels is not None and num_labels != len(config_dict.get("id2label", (0, 1)))
