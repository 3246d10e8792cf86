"""Fine-tuning with transformers' stock `Trainer`: the paper's recipe, exact metrics, bounded memory."""

import math

from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from offseg_hf.data import (
    EndlessStream,
    TrainTransform,
    estimate_class_weights,
    evaluation_dataset,
    read_id2label,
    stack_examples,
    training_dataset,
)
from offseg_hf.data.labels import read_label_table
from offseg_hf.data.presets import PRESETS, find_preset
from offseg_hf.model_types import ignore_index, predicted_labels
from offseg_hf.models.configuration_fields import LOSS_FIELDS
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.callbacks import check_reporting, watch
from offseg_hf.training.lora import add_lora
from offseg_hf.training.metrics import BatchMetrics, predicted_label_maps
from offseg_hf.training.model import create_model, native_image_processor
from offseg_hf.training.optimization import create_optimizer_and_scheduler
from offseg_hf.training.options import DataArguments, ModelArguments
from offseg_hf.training.trainer import SegmentationTrainer


class PassCallback(TrainerCallback):
    """Tells a data set the number of the pass; Trainer itself does not after it resumed."""

    def __init__(self, train_dataset):
        self.train_dataset = train_dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.train_dataset.set_epoch(int(state.epoch or 0))


class StreamEpochCallback(TrainerCallback):
    """Counts a stream's training as one epoch, also after it resumed, when Trainer would begin again at 0."""

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = state.global_step / state.max_steps


def create_trainer(
    model: PreTrainedModel,
    args: SegmentationTrainingArguments,
    train_dataset=None,
    eval_dataset=None,
    image_processor=None,
) -> SegmentationTrainer:
    """A `Trainer` with the paper's optimiser and exact metrics.

    Args:
        model ([`transformers.PreTrainedModel`]): a model for semantic segmentation.
        args ([`SegmentationTrainingArguments`]): the recipe; `max_steps` must be given for a stream.
        train_dataset (`torch.utils.data.Dataset` or `IterableDataset`, *optional*): of `pixel_values` and `labels`.
        eval_dataset (likewise, *optional*): with labels at the resolution at which to measure.
        image_processor ([`OffSegImageProcessor`], *optional*): saved beside the model, see
            [`native_image_processor`].

    Returns:
        [`~offseg_hf.training.trainer.SegmentationTrainer`]
    """
    optimizers = (None, None)
    if train_dataset is not None:
        optimizers = create_optimizer_and_scheduler(model, args, num_training_steps(args, train_dataset))
    callbacks = []
    if hasattr(train_dataset, "set_epoch"):
        callbacks = [PassCallback(train_dataset)]
    elif isinstance(train_dataset, EndlessStream):
        callbacks = [StreamEpochCallback()]
    return SegmentationTrainer(
        model,
        args,
        data_collator=stack_examples,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=image_processor and native_image_processor(model.config, image_processor),
        compute_metrics=BatchMetrics(predicted_labels(model.config), ignore_index(model.config)),
        preprocess_logits_for_metrics=predicted_label_maps,
        optimizers=optimizers,
        callbacks=callbacks,
    )


def num_training_steps(args: TrainingArguments, train_dataset) -> int:
    """Optimiser steps of a training: `max_steps`, or those of `num_train_epochs` of a data set of known length.

    Args:
        args ([`transformers.TrainingArguments`]): the arguments.
        train_dataset (`Dataset` or `IterableDataset`): the training data.

    Returns:
        `int`

    Raises:
        ValueError: where the data is a stream and `max_steps` is not given.
    """
    if args.max_steps > 0:
        return args.max_steps
    if not hasattr(train_dataset, "__len__"):
        raise ValueError(
            "`max_steps` must be given for a stream, whose length is not known; pass `--max_steps 20000`."
        )
    batch_size = args.train_batch_size * args.world_size
    batches = (
        len(train_dataset) // batch_size if args.dataloader_drop_last else math.ceil(len(train_dataset) / batch_size)
    )
    return math.ceil(math.ceil(batches / args.gradient_accumulation_steps) * args.num_train_epochs)


def classes_to_learn(model_args: ModelArguments, data_args: DataArguments) -> dict[int, str]:
    """Names of the classes: as given, or those of the named data set.

    Args:
        model_args ([`ModelArguments`]): with `labels`, `num_labels` or neither.
        data_args ([`DataArguments`]): what to train on.

    Returns:
        `dict[int, str]`: names by class id.

    Raises:
        ValueError: where it is not clear what the classes are.
    """
    preset = find_preset(data_args.dataset)
    num_given = (model_args.labels is not None) + (model_args.num_labels is not None)
    if num_given > 1 or (num_given == 0 and preset is None):
        raise ValueError(
            "`labels` or `num_labels` must be given, and not both, unless `dataset` is one of "
            f"{', '.join(PRESETS)}; give the classes either as --labels sky,road,car (or a file) or as --num_labels 3."
        )
    if model_args.labels is not None:
        return read_id2label(model_args.labels)
    if preset is not None and model_args.num_labels in (None, len(preset.class_names)):
        return preset.id2label
    return {label_id: f"LABEL_{label_id}" for label_id in range(model_args.num_labels)}


def complete_data_arguments(data_args: DataArguments):
    """Fills in, in place, so that the record of the training has it, what was left to the named data set.

    Args:
        data_args ([`DataArguments`]): what to train and evaluate on.
    """
    preset = find_preset(data_args.dataset)
    if data_args.do_reduce_labels is None:
        data_args.do_reduce_labels = preset is not None and preset.reduce_labels and data_args.label_table is None
    if preset is not None and not data_args.resize:
        data_args.eval_size = data_args.eval_size or list(preset.eval_size)
    defaults = preset or TrainTransform()
    data_args.crop_size = data_args.crop_size or list(defaults.crop_size)
    data_args.resize = data_args.resize or list(defaults.resize)


def _class_weights(model_args, train_dataset, num_labels, args):
    """The numbers that were given, or estimated from what is trained on."""
    if model_args.class_weights == ["auto"]:
        streamed = isinstance(train_dataset, EndlessStream)
        return estimate_class_weights(
            train_dataset.stream if streamed else train_dataset.data,
            num_labels,
            label_table=train_dataset.prepare.label_table,
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


def trainer_from_arguments(
    model_args: ModelArguments, data_args: DataArguments, args: SegmentationTrainingArguments
) -> Trainer:
    """The Trainer of what was asked for: data, model and recipe.

    Args:
        model_args ([`ModelArguments`]): what to train.
        data_args ([`DataArguments`]): what to train and evaluate on.
        args ([`SegmentationTrainingArguments`]): the recipe.

    Returns:
        [`transformers.Trainer`]

    Raises:
        ValueError, FileNotFoundError: where something that was asked for cannot be had.
    """
    check_reporting(args)
    if model_args.lora_rank is not None and model_args.model_name_or_path is None:
        raise ValueError(
            "`lora_rank` must come with `model_name_or_path`, since an encoder with random weights would stay random, "
            f"got {model_args.lora_rank} alone; give weights to start from, or leave it out."
        )
    id2label = classes_to_learn(model_args, data_args)
    complete_data_arguments(data_args)
    edges = data_args.eval_size or data_args.resize
    image_processor = OffSegImageProcessor(
        size={"longest_edge": max(edges), "shortest_edge": min(edges)},
        do_reduce_labels=data_args.do_reduce_labels,
    )
    transform = TrainTransform(
        crop_size=tuple(data_args.crop_size),
        resize=tuple(data_args.resize),
        scale_range=tuple(data_args.scale_range),
        category_max_ratio=data_args.category_max_ratio,
        flip_probability=data_args.flip_probability,
        photometric_distortion=data_args.photometric_distortion,
        brightness=data_args.brightness,
        contrast=tuple(data_args.contrast),
        saturation=tuple(data_args.saturation),
        hue=data_args.hue,
    )
    source = {
        "dataset": data_args.dataset,
        "image_processor": image_processor,
        "num_labels": len(id2label),
        "streaming": data_args.streaming,
        "image_column": data_args.image_column,
        "mask_column": data_args.mask_column,
        "data_dir": data_args.data_dir,
        "label_table": read_label_table(data_args.label_table, id2label) if data_args.label_table else None,
    }
    train_dataset = training_dataset(
        split=data_args.train_split,
        transform=transform,
        seed=args.seed if args.data_seed is None else args.data_seed,
        shuffle_buffer_size=data_args.shuffle_buffer_size,
        **source,
    )
    eval_dataset = None
    if data_args.eval_split != "none":
        eval_dataset = evaluation_dataset(split=data_args.eval_split, **source)

    fields = ("logit_normalization", "attention_loss_weight", "freeze_batch_norm", *LOSS_FIELDS)
    overrides = {name: value for name in fields if (value := getattr(model_args, name)) is not None}
    if model_args.class_weights is not None:
        overrides["class_weights"] = _class_weights(model_args, train_dataset, len(id2label), args)
    model = create_model(
        model_args.variant,
        model_args.model_name_or_path,
        id2label,
        trust_remote_code=model_args.trust_remote_code,
        add_offset_learning=model_args.add_offset_learning,
        **overrides,
    )
    if model_args.lora_rank is not None:
        model = add_lora(model, model_args.lora_rank)
    trainer = create_trainer(model, args, train_dataset, eval_dataset, image_processor)
    watch(trainer)
    return trainer
