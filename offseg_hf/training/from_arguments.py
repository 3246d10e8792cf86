"""The trainer that a command line asks for: classes, data, model, recipe."""

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import datasets
from transformers import PreTrainedModel

from offseg_hf.data import (
    EndlessStream,
    TrainingExamples,
    TrainTransform,
    estimate_class_weights,
    evaluation_dataset,
    open_labelled_dataset,
    read_id2label,
    training_dataset,
)
from offseg_hf.data.formats.reading import LabelledDataset
from offseg_hf.data.labels import check_class_names, read_label_table, stored_class_names
from offseg_hf.data.presets import PRESETS, find_preset
from offseg_hf.models.configuration_fields import LOSS_FIELDS
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.models.image_reading import limit_pixels
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.callbacks import check_reporting
from offseg_hf.training.lora import add_lora
from offseg_hf.training.model import backbone_normalization, check_backbone_alone, create_model
from offseg_hf.training.options import AugmentationSettings, DataArguments, ModelArguments
from offseg_hf.training.trainer import SegmentationTrainer

if TYPE_CHECKING:
    from peft import PeftModel


def trainer_from_arguments(
    model_args: ModelArguments, data_args: DataArguments, args: SegmentationTrainingArguments
) -> SegmentationTrainer:
    """The trainer of what was asked for; it has not trained yet.

    Args:
        model_args ([`~offseg_hf.training.options.ModelArguments`]): what to train.
        data_args ([`~offseg_hf.training.options.DataArguments`]): what to train and evaluate on.
        args ([`~offseg_hf.training.arguments.SegmentationTrainingArguments`]): the recipe.

    Returns:
        [`~offseg_hf.training.trainer.SegmentationTrainer`]

    Raises:
        ValueError, FileNotFoundError: where something that was asked for cannot be had.
    """
    check_reporting(args)
    if data_args.eval_split == "none" and args.eval_strategy != "no":
        raise ValueError(
            f"`eval_strategy` must be no without an evaluation split, got {args.eval_strategy.value}; leave it out or "
            "name a split with `--eval_split`."
        )
    _check_start(model_args, args)
    data_args = resolved_data_arguments(data_args)
    labelled = labelled_dataset(model_args, data_args)
    if labelled is not None and args.process_index == 0:
        print(labelled.description())
    id2label = labelled.id2label if labelled is not None else classes_to_learn(model_args, data_args)
    normalization = {}
    start = model_args.backbone or model_args.model_name_or_path
    if start is not None:
        normalization = backbone_normalization(start)
        is_said = "image_mean" in normalization or not normalization.get("do_normalize", True)
        if not is_said and args.process_index == 0:
            print(f"{start} does not say how photos are normalised: by ImageNet's mean and deviation")
    image_processor = image_processor_from_arguments(data_args, normalization)
    train_dataset, eval_dataset = datasets_from_arguments(data_args, args, id2label, image_processor, labelled)
    model = model_from_arguments(model_args, args, id2label, train_dataset)
    return SegmentationTrainer(
        model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, image_processor=image_processor
    )


def _check_start(model_args, args):
    """Raises where starts contradict each other, or an encoder that stays as it is, or is updated, has no weights."""
    if model_args.backbone is not None:
        others = ("variant", "model_name_or_path", "add_offset_learning", "trust_remote_code")
        check_backbone_alone(model_args.backbone, **{name: getattr(model_args, name) for name in others})
    if model_args.model_name_or_path is not None or model_args.backbone is not None:
        return
    for name, value in (("lora_rank", model_args.lora_rank), ("freeze_backbone", args.freeze_backbone or None)):
        if value is not None:
            raise ValueError(
                f"`{name}` must come with `model_name_or_path` or `backbone`, since an encoder with random weights "
                f"would stay random, got {value} alone; give weights to start from, or leave it out."
            )


def resolved_data_arguments(data_args: DataArguments) -> DataArguments:
    """The arguments with what they leave to the named data set filled in, as a record of the training needs them.

    Args:
        data_args ([`~offseg_hf.training.options.DataArguments`]): what to train and evaluate on.

    Returns:
        [`~offseg_hf.training.options.DataArguments`]: with `crop_size`, `resize` and `do_reduce_labels`, and with
        `eval_size` where it is not that of `resize`.
    """
    preset = find_preset(data_args.dataset)
    sizes = preset or TrainTransform()
    if data_args.max_pixels is not None:
        limit_pixels(data_args.max_pixels)
    eval_size, do_reduce_labels = data_args.eval_size, data_args.do_reduce_labels
    if preset is not None and not data_args.resize:
        eval_size = eval_size or list(preset.eval_size)
    if do_reduce_labels is None:
        do_reduce_labels = preset is not None and preset.reduce_labels and data_args.label_table is None
    return dataclasses.replace(
        data_args,
        crop_size=data_args.crop_size or list(sizes.crop_size),
        resize=data_args.resize or list(sizes.resize),
        eval_size=eval_size,
        do_reduce_labels=do_reduce_labels,
    )


def labelled_dataset(model_args: ModelArguments, data_args: DataArguments) -> LabelledDataset | None:
    """What a labelling tool wrote, where the data set is that.

    Args:
        model_args ([`~offseg_hf.training.options.ModelArguments`]): with `labels` or `num_labels` to agree with.
        data_args ([`~offseg_hf.training.options.DataArguments`]): what to train on.

    Returns:
        [`~offseg_hf.data.formats.reading.LabelledDataset`], or `None` for id masks, Parquet and the Hub.

    Raises:
        ValueError, FileNotFoundError: see [`~offseg_hf.data.open_labelled_dataset`].
    """
    if find_preset(data_args.dataset) is not None:
        return None
    labelled = open_labelled_dataset(
        data_args.dataset,
        format=data_args.format,
        names=list(read_id2label(model_args.labels).values()) if model_args.labels is not None else None,
        background=data_args.background,
        label_table=data_args.label_table,
    )
    num_labels = model_args.num_labels
    if labelled is None and data_args.background is not None:
        raise ValueError(
            "`background` must come with the labels of a tool, and masks of ids have none without a class, got "
            f"{data_args.background}; say what an id means with `--label_table FILE`."
        )
    if labelled is not None and num_labels not in (None, len(labelled.id2label)):
        raise ValueError(
            f"`num_labels` must be the number of classes of {labelled}, {', '.join(labelled.id2label.values())}, got "
            f"{num_labels}; leave it out."
        )
    return labelled


def classes_to_learn(model_args: ModelArguments, data_args: DataArguments) -> dict[int, str]:
    """Names of the classes: as given, or those of the named data set.

    Args:
        model_args ([`~offseg_hf.training.options.ModelArguments`]): with `labels`, `num_labels` or neither.
        data_args ([`~offseg_hf.training.options.DataArguments`]): what to train on.

    Returns:
        `dict[int, str]`: names by class id; by default those of a prepared data set's `id2label.json`.

    Raises:
        ValueError: where it is not clear what the classes are, or a prepared data set has others.
    """
    preset = find_preset(data_args.dataset)
    labels, num_labels = model_args.labels, model_args.num_labels
    if labels is not None and num_labels is None:
        id2label = read_id2label(labels)
        if data_args.label_table is None:
            check_class_names(data_args.dataset, id2label)
        return id2label
    stored = stored_class_names(data_args.dataset) if labels is None and preset is None else None
    if stored is not None and num_labels in (None, len(stored)):
        return stored
    if labels is None and num_labels is not None:
        if preset is not None and num_labels == len(preset.class_names):
            return preset.id2label
        return {label_id: f"LABEL_{label_id}" for label_id in range(num_labels)}
    if labels is None and preset is not None:
        return preset.id2label
    raise ValueError(
        "`labels` or `num_labels` must be given, and not both, unless `dataset` is one of "
        f"{', '.join(PRESETS)}; give the classes either as --labels sky,road,car (or a file) or as --num_labels 3."
    )


def image_processor_from_arguments(
    data_args: DataArguments, normalization: dict[str, Any] | None = None
) -> OffSegImageProcessor:
    """What makes `pixel_values` of photos, in training, in evaluation and later of the trained model.

    Args:
        data_args ([`~offseg_hf.training.options.DataArguments`]): from [`resolved_data_arguments`].
        normalization (`dict[str, Any]`, *optional*): from [`~offseg_hf.training.model.backbone_normalization`]; by
            default ImageNet's.

    Returns:
        [`OffSegImageProcessor`]
    """
    edges = data_args.eval_size or data_args.resize
    size = {"longest_edge": max(edges), "shortest_edge": min(edges)}
    settings = {"size": size, "do_reduce_labels": data_args.do_reduce_labels, "max_value": data_args.max_value}
    return OffSegImageProcessor(**settings, **(normalization or {}))


def datasets_from_arguments(
    data_args: DataArguments,
    args: SegmentationTrainingArguments,
    id2label: dict[int, str],
    image_processor: OffSegImageProcessor,
    labelled: LabelledDataset | None = None,
) -> tuple[TrainingExamples | EndlessStream, datasets.Dataset | datasets.IterableDataset | None]:
    """What to train and to evaluate on.

    Args:
        data_args ([`~offseg_hf.training.options.DataArguments`]): from [`resolved_data_arguments`].
        args ([`~offseg_hf.training.arguments.SegmentationTrainingArguments`]): with the seed.
        id2label (`dict[int, str]`): names of the classes.
        image_processor ([`OffSegImageProcessor`]): what makes `pixel_values` of photos.
        labelled ([`~offseg_hf.data.formats.reading.LabelledDataset`], *optional*): from [`labelled_dataset`].

    Returns:
        `tuple`: training data and evaluation data, the latter `None` where there shall be none.

    Raises:
        ValueError, FileNotFoundError: where there is no such data, or its label maps do not fit the classes.
    """
    source = {name: getattr(data_args, name) for name in ("dataset", "data_dir", "image_column", "mask_column")}
    if labelled is not None:
        source["dataset"] = labelled
    source |= {
        "image_processor": image_processor,
        "num_labels": len(id2label),
        "streaming": data_args.streaming,
        "label_table": read_label_table(data_args.label_table, id2label)
        if data_args.label_table and labelled is None
        else None,
    }
    augmentation = {field.name: getattr(data_args, field.name) for field in dataclasses.fields(AugmentationSettings)}
    augmentation = {name: tuple(value) if isinstance(value, list) else value for name, value in augmentation.items()}
    with _argument_named("split", "train_split"):
        train_dataset = training_dataset(
            split=data_args.train_split,
            transform=TrainTransform(**augmentation),
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle_buffer_size=data_args.shuffle_buffer_size,
            num_broken=data_args.skip_broken_examples,
            **source,
        )
    eval_dataset = None
    if data_args.eval_split != "none":
        with _argument_named("split", "eval_split"):
            eval_dataset = evaluation_dataset(
                split=data_args.eval_split, batch_size=args.per_device_eval_batch_size, **source
            )
        _check_best(args, id2label)
    return train_dataset, eval_dataset


def _check_best(args, id2label):
    """Raises where the best checkpoint is to be found by a figure that no evaluation has."""
    figures = ("mean_iou", "mean_accuracy", "overall_accuracy", "loss")
    names = (*figures, *(f"iou_{name}" for name in id2label.values()))
    if (args.metric_for_best_model or "mean_iou").removeprefix("eval_") not in names:
        raise ValueError(
            f"`metric_for_best_model` must be one of {', '.join(figures)}, or iou_ and a class, such as {names[-1]}, "
            f"got {args.metric_for_best_model}; leave it out for mean_iou."
        )


@contextlib.contextmanager
def _argument_named(name, argument):
    """Errors of the block call an argument of a function as the command calls it."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        if f"`{name}`" not in str(error):
            raise
        raise type(error)(str(error).replace(f"`{name}`", f"`{argument}`")) from error


def model_from_arguments(
    model_args: ModelArguments,
    args: SegmentationTrainingArguments,
    id2label: dict[int, str],
    train_dataset: TrainingExamples | EndlessStream,
) -> "PreTrainedModel | PeftModel":
    """The model to train, with the losses that were asked for.

    Args:
        model_args ([`~offseg_hf.training.options.ModelArguments`]): what to train.
        args ([`~offseg_hf.training.arguments.SegmentationTrainingArguments`]): whether to show progress.
        id2label (`dict[int, str]`): names of the classes.
        train_dataset ([`~offseg_hf.data.examples.TrainingExamples`] or [`~offseg_hf.data.EndlessStream`]): of which
            class weights are estimated.

    Returns:
        [`transformers.PreTrainedModel`], or `peft.PeftModel` with `lora_rank`.

    Raises:
        ValueError, OSError: where there are no such architecture or weights.
    """
    fields = ("decoder_hidden_size", "logit_normalization", "attention_loss_weight", "freeze_batch_norm", *LOSS_FIELDS)
    overrides = {name: value for name in fields if (value := getattr(model_args, name)) is not None}
    if model_args.class_weights is not None:
        overrides["class_weights"] = _class_weights(model_args, args, train_dataset, len(id2label))
    model = create_model(
        model_args.variant,
        model_args.model_name_or_path,
        id2label,
        trust_remote_code=model_args.trust_remote_code,
        add_offset_learning=model_args.add_offset_learning,
        backbone=model_args.backbone,
        **overrides,
    )
    return model if model_args.lora_rank is None else add_lora(model, model_args.lora_rank)


def _class_weights(model_args, args, train_dataset, num_labels):
    """The numbers that were given, or estimated from the training data."""
    if model_args.class_weights == ["auto"]:
        prepare = train_dataset.prepare
        return estimate_class_weights(
            train_dataset.stream if isinstance(train_dataset, EndlessStream) else train_dataset.data,
            num_labels,
            label_table=prepare.label_table,
            max_examples=model_args.class_weights_examples,
            show_progress=args.process_index == 0 and not args.disable_tqdm,
        )
    try:
        return [float(weight) for weight in model_args.class_weights]
    except ValueError:
        raise ValueError(
            f"`class_weights` must be numbers or 'auto', got {' '.join(model_args.class_weights)}; pass "
            "`--class_weights auto`."
        ) from None
