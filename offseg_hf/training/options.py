"""The options of a training: the model, the data, the recipe.

Nothing is imported here that takes long to load, so that the command's help comes at once.
"""

from dataclasses import dataclass, field

from offseg_hf.data.augmentation_settings import AugmentationSettings, check_augmentation
from offseg_hf.data.ranges import Range, check_ranges

BATCH_NORMS = ("synchronized", "local", "frozen")

_ONE_OR_MORE, _NOT_NEGATIVE, _POSITIVE = Range(1, is_whole=True), Range(0), Range(0, has_low=False)
_SEED = Range(0, 2**32 - 1, is_whole=True)  # numpy's
RANGES = {
    # of the model
    "num_labels": Range(1, 65_535, is_whole=True),
    "decoder_hidden_size": _ONE_OR_MORE,
    "attention_loss_weight": _NOT_NEGATIVE,
    "label_smoothing": Range(0, 1, has_high=False),
    "class_weights_examples": _ONE_OR_MORE,
    "ohem_threshold": Range(0, 1, has_low=False),
    "ohem_min_kept": Range(0, is_whole=True),
    "cross_entropy_loss_weight": _NOT_NEGATIVE,
    "dice_loss_weight": _NOT_NEGATIVE,
    "lora_rank": _ONE_OR_MORE,
    # of the data
    "crop_size": Range(32, 65_535, is_whole=True),  # the encoders' last maps are of a thirty-second of the size
    "eval_size": Range(1, 65_535, is_whole=True),
    "shuffle_buffer_size": _ONE_OR_MORE,
    "skip_broken_examples": Range(0, 100_000, is_whole=True),
    # of the recipe
    "learning_rate": _POSITIVE,
    "head_learning_rate_factor": _POSITIVE,
    "layer_decay": Range(0, 1, has_low=False),
    "weight_decay": _NOT_NEGATIVE,
    "lr_decay_power": _POSITIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "total_batch_size": _ONE_OR_MORE,
    "per_device_train_batch_size": _ONE_OR_MORE,
    "per_device_eval_batch_size": _ONE_OR_MORE,
    "logging_steps": _POSITIVE,
    "num_prediction_examples": Range(0, is_whole=True),
    # of transformers' Trainer
    "num_train_epochs": _POSITIVE,
    "max_steps": Range(1, is_whole=True, also=-1),
    "gradient_accumulation_steps": _ONE_OR_MORE,
    "eval_accumulation_steps": _ONE_OR_MORE,
    "eval_delay": _NOT_NEGATIVE,
    "eval_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "save_total_limit": _ONE_OR_MORE,
    "torch_empty_cache_steps": _ONE_OR_MORE,
    "adam_beta1": Range(0, 1, has_high=False),
    "adam_beta2": Range(0, 1, has_high=False),
    "adam_epsilon": _POSITIVE,
    "seed": _SEED,
    "data_seed": _SEED,
    "dataloader_num_workers": Range(0, is_whole=True),
    "dataloader_prefetch_factor": _ONE_OR_MORE,
    "ddp_timeout": _ONE_OR_MORE,
}


def _option(default, text):
    return field(default=default, metadata={"help": text})


def _options(default, text):
    return field(default_factory=lambda: list(default), metadata={"help": text})


def _words(numbers):
    """Numbers as they are typed in a command."""
    return " ".join(map(str, numbers))


@dataclass
class ModelArguments:
    """What to train: an architecture, the weights to start from, the classes, the losses."""

    variant: str | None = _option(
        None, "Architecture, such as offseg-b0; its weights are random unless --model_name_or_path is given."
    )
    model_name_or_path: str | None = _option(None, "Folder or Hub id of the weights to start from.")
    backbone: str | None = _option(
        None, "Folder or Hub id of an encoder, such as facebook/convnext-tiny-224, to put OffSeg's head on, instead."
    )
    recipe: str | None = _option(None, "Recipe of the paper to train by, such as ade20k; other options override it.")
    labels: str | None = _option(None, "Class names separated by commas, or a .txt or .json file of them.")
    num_labels: int | None = _option(None, "Number of classes, instead of --labels.")
    logit_normalization: str | None = _option(
        None,
        "Normalization of the logits: layer_norm, fitted_layer_norm or class_bias; by default what suits the classes.",
    )
    decoder_hidden_size: int | None = _option(None, "Channels of the decode head; by default the architecture's.")
    attention_loss_weight: float | None = _option(None, "Weight of an auxiliary loss on the coupled attention.")
    label_smoothing: float | None = _option(None, "Label smoothing, in [0, 1).")
    class_weights: list[str] | None = _option(
        None, "Weight of each class in the cross-entropy, or 'auto' to estimate them from the training split."
    )
    class_weights_examples: int = _option(10_000, "Number of label maps, the first ones, from which 'auto' estimates.")
    ohem_threshold: float | None = _option(
        None, "Online hard example mining: learn from the pixels whose true class has a lower probability than this."
    )
    ohem_min_kept: int | None = _option(
        None, "Number of hard pixels of a batch to learn from at least; by default 100000."
    )
    cross_entropy_loss_weight: float | None = _option(None, "Weight of the cross-entropy; by default 1.")
    dice_loss_weight: float | None = _option(None, "Weight of the Dice loss; by default 0.")
    freeze_batch_norm: bool | None = _option(
        None, "Whether the encoder's BatchNorm of OffSeg-T, B, L is frozen; by default unless weights are random."
    )
    add_offset_learning: bool = _option(
        False,
        "Whether to replace the classifier of --model_name_or_path, any of transformers' models, by offset learning.",
    )
    lora_rank: int | None = _option(
        None, "Rank of the LoRA updates to train in place of the encoder's weights; the head is trained as a whole."
    )
    trust_remote_code: bool = _option(False, "Whether to run model code that comes with the weights.")

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)


@dataclass
class DataArguments:
    """What to train and evaluate on, and how photos are augmented."""

    dataset: list[str] = field(
        metadata={
            "help": "Hub id, folder, Parquet files or URL pattern; or ade20k, cityscapes, coco_stuff, pascal_context."
        }
    )
    data_dir: str | None = _option(
        None,
        "Where a data set given by its name lies: official folder, Parquet files or Hub id; by default on the Hub.",
    )
    streaming: bool = _option(False, "Whether to stream the data while training; needs --max_steps.")
    train_split: str = _option("train", "Split to train on.")
    eval_split: str = _option("validation", "Split to evaluate on; 'none' for no evaluation.")
    image_column: str | None = _option(None, "Column of the photos, if it cannot be guessed.")
    mask_column: str | None = _option(None, "Column of the masks, if it cannot be guessed.")
    shuffle_buffer_size: int = _option(500, "Size of the shuffle buffer of a stream, in examples.")
    skip_broken_examples: int = _option(
        0, "Number of training examples that may be left out, each named, since they cannot be read."
    )
    format: str | None = _option(
        None, "Format of the labels, such as coco or labelme; by default found from what lies there."
    )
    background: str | None = _option(
        None, "Class of the pixels that are not labelled in a tool's files; by default these are ignored."
    )
    label_table: str | None = _option(
        None, "JSON file of stored id, colour or name → class, if the data's own are not the classes."
    )
    max_value: int | None = _option(
        None, "White in photos of more than 8 bits, such as 4095 for 12 bits; by default 65535. Saved with the model."
    )
    max_pixels: int | None = _option(
        None, "Pixels that a photo may have, against files that fill the memory; by default 178956970."
    )
    do_reduce_labels: bool | None = field(
        default=None,
        metadata={
            "help": "Whether stored label 0 is ignored and classes count from 1; by default as in the named data set.",
            "nargs": "?",
            "const": True,
        },
    )
    eval_size: list[int] = _options(
        (), "Longest and shortest edge of photos in evaluation; by default those of --resize."
    )
    crop_size: list[int] = _options(
        (),
        "Height and width of the training crop; by default the named data set's, else "
        f"{_words(AugmentationSettings.crop_size)}.",
    )
    resize: list[int] = _options(
        (),
        "Longest and shortest edge before the random scale; by default the named data set's, else "
        f"{_words(AugmentationSettings.resize)}.",
    )
    scale_range: list[float] = _options(AugmentationSettings.scale_range, "Range of the random scale.")
    category_max_ratio: float = _option(
        AugmentationSettings.category_max_ratio, "Largest share of a crop that one class may fill."
    )
    flip_probability: float = _option(AugmentationSettings.flip_probability, "Probability of a horizontal flip.")
    photometric_distortion: bool = _option(
        AugmentationSettings.photometric_distortion,
        "Whether to change brightness, contrast, saturation and hue at random.",
    )
    brightness: float = _option(
        AugmentationSettings.brightness, "Largest change of brightness, in grey levels of 255."
    )
    contrast: list[float] = _options(AugmentationSettings.contrast, "Range of the factor on the contrast.")
    saturation: list[float] = _options(AugmentationSettings.saturation, "Range of the factor on the saturation.")
    hue: float = _option(AugmentationSettings.hue, "Largest rotation of the hue, in degrees.")
    overwrite: bool = _option(False, "Whether to write into an --output_dir that is not empty.")

    def __post_init__(self) -> None:
        check_ranges(self, RANGES, {"crop_size": 2, "eval_size": 2})
        check_augmentation(self)


@dataclass
class RecipeArguments:
    """The training recipe, by default the paper's but for its warm-up; light part of `SegmentationTrainingArguments`.

    Args:
        learning_rate (`float`, *optional*, defaults to 6e-5): peak learning rate of the encoder.
        head_learning_rate_factor (`float`, *optional*, defaults to 10): learning rate of the decode head as a multiple
            of `learning_rate`.
        layer_decay (`float`, *optional*, defaults to 1): by which the encoder's learning rate is multiplied for each
            block from the head down, see [`~offseg_hf.training.optimization.parameter_groups`].
        freeze_backbone (`bool`, *optional*, defaults to `False`): whether the encoder stays as it is, see
            [`~offseg_hf.training.freezing.freeze_backbone`].
        weight_decay (`float`, *optional*, defaults to 0.01): of all parameters but those of norm layers.
        optim (`str`, *optional*, defaults to `"adamw_torch"`): optimizer, any of `transformers`' that takes groups of
            parameters.
        lr_scheduler_type (`str`, *optional*, defaults to `"polynomial"`): schedule of the learning rate, any of
            `transformers`'.
        lr_decay_power (`float`, *optional*, defaults to 1): exponent of the polynomial decay to 0; others have their
            settings in `lr_scheduler_kwargs`, which win over this.
        warmup_steps (`float`, *optional*, defaults to 0.05): steps of linear warm-up from 0; below 1 a share of all
            steps.
        max_grad_norm (`float`, *optional*, defaults to 0): gradient-clipping norm; 0 for no clipping.
        total_batch_size (`int`, *optional*): images per step over all devices and accumulated batches, from which
            `per_device_train_batch_size` follows.
        batch_norm (`str`, *optional*): what BatchNorm does, see [`~offseg_hf.training.batch_norm.set_up_batch_norm`].
        save_steps (`float`, *optional*, defaults to 0.1): steps between two checkpoints; below 1 a share of all steps,
            rounded down. With `load_best_model_at_end` the default is `eval_steps`.
        save_total_limit (`int`, *optional*, defaults to 10): checkpoints to keep.
        num_prediction_examples (`int`, *optional*, defaults to 4): evaluation examples whose predictions are drawn at
            every evaluation; 0 for none.
    """

    learning_rate: float = _option(6e-5, "Peak learning rate of the encoder.")
    head_learning_rate_factor: float = _option(
        10.0, "Learning rate of the decode head, as a multiple of --learning_rate."
    )
    layer_decay: float = _option(
        1.0, "Factor by which the encoder's learning rate falls with each block from the head down, such as 0.75."
    )
    freeze_backbone: bool = _option(
        False, "Whether to train the head alone: the encoder's weights and BatchNorm statistics stay as they are."
    )
    weight_decay: float = _option(0.01, "Weight decay of all parameters but those of norm layers.")
    optim: str = _option("adamw_torch", "Optimizer, such as adamw_torch, adamw_torch_fused, sgd or adafactor.")
    lr_scheduler_type: str = _option(
        "polynomial", "Learning-rate schedule, such as polynomial, linear, cosine or constant."
    )
    lr_decay_power: float = _option(1.0, "Exponent of the polynomial decay to 0; 1 decays linearly.")
    warmup_steps: float = _option(0.05, "Steps of linear warm-up from 0; a number below 1 is a share of all steps.")
    max_grad_norm: float = _option(0.0, "Gradient-clipping norm; 0 disables clipping.")
    total_batch_size: int | None = _option(None, "Images per step, over all devices and accumulated batches.")
    per_device_train_batch_size: int | None = _option(
        None, "Images per device and forward pass; by default 16, or what follows from --total_batch_size."
    )
    per_device_eval_batch_size: int = _option(
        1, "Images per device and forward pass in evaluation; more than 1 needs images of one size."
    )
    batch_norm: str | None = field(
        default=None,
        metadata={
            "help": "BatchNorm statistics: 'synchronized' over all processes (by default on several GPUs), 'local' to "
            "each process (by default elsewhere), or 'frozen', the running ones.",
            "choices": BATCH_NORMS,
        },
    )
    remove_unused_columns: bool = _option(False, "Must be False, since images are decoded when they are read.")
    batch_eval_metrics: bool = _option(True, "Must be True, since predictions are counted batch by batch.")
    metric_for_best_model: str | None = _option("mean_iou", "Metric by which the best checkpoint is chosen.")
    logging_first_step: bool = _option(True, "Whether to log the first step.")
    logging_steps: float = _option(20, "Log every so many steps; a number below 1 is a share of all steps.")
    save_steps: float = _option(
        0.1,
        "Steps between two checkpoints; below 1, as a share of all steps. Besides, there is one every ten minutes.",
    )
    save_total_limit: int | None = _option(10, "Number of checkpoints to keep, the newest and the best.")
    logging_nan_inf_filter: bool = _option(False, "Whether to leave NaN and infinite losses out of the log.")
    num_prediction_examples: int = _option(
        4, "Evaluation examples whose predictions are drawn at every evaluation; 0 for none."
    )
    # In the order of `TrainingArguments`, the only one that HfArgumentParser understands.
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "Experiment trackers to report to, such as tensorboard; or 'none'."}
    )
