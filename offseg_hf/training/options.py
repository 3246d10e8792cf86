"""What can be said of a training besides transformers' own arguments: the model, the data.

Nothing is imported here that takes long to load, so that the command's help comes at once.
"""

from dataclasses import dataclass, field

from offseg_hf.data.augmentation_settings import AugmentationSettings


def _option(default, text):
    return field(default=default, metadata={"help": text})


def _options(default, text):
    return field(default_factory=lambda: list(default), metadata={"help": text})


def _words(numbers):
    """Numbers as they are typed in a command."""
    return " ".join(map(str, numbers))


@dataclass
class ModelArguments:
    """What to train: an architecture, weights to start from, the classes."""

    variant: str | None = _option(None, "Architecture, such as offseg-b0; random weights unless --model_name_or_path.")
    model_name_or_path: str | None = _option(None, "Folder or Hub id of the weights to start from.")
    recipe: str | None = _option(
        None, "Data set of the paper whose recipe to train by, such as ade20k; what else is given wins over it."
    )
    labels: str | None = _option(None, "Class names separated by commas, or a .txt or .json file of them.")
    num_labels: int | None = _option(None, "Number of classes, where they need no names.")
    logit_normalization: str | None = _option(
        None, "layer_norm, fitted_layer_norm or class_bias; by default what fits."
    )
    attention_loss_weight: float | None = _option(None, "Weight of a second loss on the coupled attention.")
    label_smoothing: float | None = _option(None, "Share of the target that is spread over all classes, such as 0.1.")
    class_weights: list[str] | None = _option(
        None, "Weight of each class in the cross-entropy, or 'auto' for those of the training split's label maps."
    )
    class_weights_examples: int = _option(
        10_000, "Label maps, the first ones, that 'auto' reads at most, in every process."
    )
    ohem_threshold: float | None = _option(
        None, "Learn from hard pixels: those whose true class has a lower probability than this, such as 0.7."
    )
    ohem_min_kept: int | None = _option(None, "Pixels of a batch to learn from at least; by default 100000.")
    cross_entropy_loss_weight: float | None = _option(None, "Weight of the cross-entropy; by default 1.")
    dice_loss_weight: float | None = _option(None, "Weight of the Dice loss; by default 0.")
    freeze_batch_norm: bool | None = _option(
        None, "Whether OffSeg-T, B, L keep the encoder's BatchNorm as it is; by default not where weights are random."
    )
    add_offset_learning: bool = _option(
        False,
        "Whether to replace the classifier of --model_name_or_path, any of transformers' models, by offset learning.",
    )
    lora_rank: int | None = _option(
        None, "Rank of updates (LoRA) to train in the encoder instead of its weights; the head is trained as ever."
    )
    trust_remote_code: bool = _option(False, "Whether to run model code that comes with the weights.")


@dataclass
class DataArguments:
    """What to train and evaluate on, and how photos are augmented."""

    dataset: list[str] = field(
        metadata={
            "help": "Hub id, folder, Parquet files or URL pattern; or ade20k, cityscapes, coco_stuff, pascal_context."
        }
    )
    data_dir: str | None = _option(
        None, "Where a data set that is given by its name is: official folder, Parquet files, Hub id; or the Hub."
    )
    streaming: bool = _option(False, "Whether to read while training instead of before; needs --max_steps.")
    train_split: str = _option("train", "Split to train on.")
    eval_split: str = _option("validation", "Split to evaluate on; 'none' for no evaluation.")
    image_column: str | None = _option(None, "Column of the photos, where it cannot be guessed.")
    mask_column: str | None = _option(None, "Column of the label maps, where it cannot be guessed.")
    shuffle_buffer_size: int = _option(500, "Examples among which a stream is shuffled.")
    label_table: str | None = _option(None, "JSON file of stored id → class, where label maps do not store class ids.")
    do_reduce_labels: bool | None = field(
        default=None,
        metadata={
            "help": "Whether label 0 means 'ignore' and classes count from 1; by default as the named data has it.",
            "nargs": "?",
            "const": True,
        },
    )
    eval_size: list[int] = _options((), "Longest and shortest edge in evaluation; by default those of --resize.")
    crop_size: list[int] = _options(
        (),
        "Height and width of the training crop; by default those of the named data set, else "
        f"{_words(AugmentationSettings.crop_size)}.",
    )
    resize: list[int] = _options(
        (),
        "Longest and shortest edge before the random scale; by default those of the named data set, else "
        f"{_words(AugmentationSettings.resize)}.",
    )
    scale_range: list[float] = _options(AugmentationSettings.scale_range, "Range of the random scale.")
    category_max_ratio: float = _option(
        AugmentationSettings.category_max_ratio, "Largest share of a crop that one class may fill."
    )
    flip_probability: float = _option(AugmentationSettings.flip_probability, "Probability of a horizontal flip.")
    photometric_distortion: bool = _option(
        AugmentationSettings.photometric_distortion, "Whether to change colours at random."
    )
    brightness: float = _option(AugmentationSettings.brightness, "Largest shift of brightness, of 255.")
    contrast: list[float] = _options(AugmentationSettings.contrast, "Range of the contrast.")
    saturation: list[float] = _options(AugmentationSettings.saturation, "Range of the saturation.")
    hue: float = _option(AugmentationSettings.hue, "Largest turn of the hue, in degrees.")
    overwrite: bool = _option(False, "Whether to write into an --output_dir that is not empty.")
