"""Fine-tuning with transformers' stock `Trainer`: the paper's recipe, exact metrics, bounded memory."""

import math
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    Mask2FormerImageProcessorPil,
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
from offseg_hf.evaluation.protocol import BatchMetrics, predicted_label_maps
from offseg_hf.model_types import auto_model_class, ignore_index, is_in_head, predicted_labels
from offseg_hf.models.configuration_fields import LOSS_FIELDS
from offseg_hf.models.configuration_offset_learning_wrapper import OffsetLearningConfig
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.models.modeling_offset_learning_wrapper import OffsetLearningForSemanticSegmentation
from offseg_hf.training.arguments import DataArguments, ModelArguments, SegmentationTrainingArguments
from offseg_hf.training.callbacks import check_reporting, watch
from offseg_hf.training.lora import add_lora
from offseg_hf.training.optimization import create_optimizer_and_scheduler
from offseg_hf.training.trainer import SegmentationTrainer, broken_file, last_whole_checkpoint
from offseg_hf.variants import variant_config


def create_model(
    variant: str | None,
    model_name_or_path: str | None,
    id2label: dict[int, str],
    trust_remote_code: bool = False,
    add_offset_learning: bool = False,
    **overrides,
) -> PreTrainedModel:
    """A model to train: of a published architecture, or of given weights, or of that architecture with those weights.

    Args:
        variant (`str`, *optional*): a key of [`~offseg_hf.variants.VARIANTS`]; weights are random unless given, and
            BatchNorm is then not frozen, whatever the variant does by default.
        model_name_or_path (`str`, *optional*): folder or Hub id of the weights to start from. A classifier for another
            number of classes is initialised anew; everything else that fits is loaded, and the rest reported.
        id2label (`dict[int, str]`): names of the classes to learn.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code that comes with the weights.
        add_offset_learning (`bool`, *optional*, defaults to `False`): whether to replace the classifier of the given
            weights' model, any of transformers', by offset learning, see
            [`OffsetLearningForSemanticSegmentation.from_base`].
        **overrides: further fields of the configuration.

    Returns:
        [`transformers.PreTrainedModel`]

    Raises:
        ValueError: where neither architecture nor weights are given, the weights' encoder does not fit, or the
            configuration does not have a field.
    """
    if variant is None and model_name_or_path is None:
        raise ValueError("`variant` or `model_name_or_path` must be given; pass `--variant offseg-b0`.")
    fields_given = list(overrides)
    overrides |= {"id2label": id2label, "label2id": {label: label_id for label_id, label in id2label.items()}}
    if add_offset_learning:
        if variant is not None:
            raise ValueError(
                "`add_offset_learning` must be left out for a `variant`, which has it or is to go without, "
                f"got {variant}; give the model to add it to as `--model_name_or_path` alone."
            )
        _check_fields(OffsetLearningConfig, fields_given)
        return OffsetLearningForSemanticSegmentation.from_base(
            model_name_or_path, trust_remote_code=trust_remote_code, ignore_mismatched_sizes=True, **overrides
        )
    if variant is not None:
        config = variant_config(variant, **overrides)
    else:
        config = AutoConfig.from_pretrained(model_name_or_path, trust_remote_code=trust_remote_code, **overrides)
    _check_fields(type(config), fields_given)
    if model_name_or_path is None:
        if getattr(config, "freeze_batch_norm", False) and "freeze_batch_norm" not in overrides:
            config.freeze_batch_norm = False  # there are no statistics yet that are worth keeping
        return auto_model_class(config).from_config(config)
    model, report = auto_model_class(config).from_pretrained(
        model_name_or_path,
        config=config,
        ignore_mismatched_sizes=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    anew = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    if not all(is_in_head(name) for name in anew):
        raise ValueError(
            f"`model_name_or_path` must hold the encoder of {variant or config.model_type}, but that of "
            f"{model_name_or_path} does not fit; choose the variant of the same kind and size."
        )
    return model


def _check_fields(config_class, names):
    for name in names:
        if name not in config_class.__dataclass_fields__:
            raise ValueError(
                f"`{name}` must be left out, since models of type {config_class.model_type} do not have it."
            )


def check_output_dir(output_dir: str, resume_from_checkpoint: str | None, overwrite: bool) -> str | None:
    """The checkpoint to resume from, after a check that nothing is overwritten unasked.

    Args:
        output_dir (`str`): folder that the training writes to.
        resume_from_checkpoint (`str`, *optional*): a checkpoint's folder, or `"last"` for the newest in `output_dir`.
        overwrite (`bool`): whether to write into a folder that is not empty.

    Returns:
        `str` or `None`: the checkpoint's folder.

    Raises:
        FileNotFoundError: where there is no such checkpoint.
        FileExistsError: where `output_dir` is not empty and neither resuming nor overwriting was asked for.
    """
    if resume_from_checkpoint is not None:
        last = resume_from_checkpoint == "last"
        checkpoint = last_whole_checkpoint(output_dir) if last else resume_from_checkpoint
        if checkpoint is None or not Path(checkpoint).is_dir():
            raise FileNotFoundError(
                f"`resume_from_checkpoint` must be a checkpoint's folder, or 'last' for the newest in {output_dir}, "
                f"but there is none for {resume_from_checkpoint!r}; leave it out to start anew."
            )
        if broken := broken_file(checkpoint):
            raise ValueError(
                f"`resume_from_checkpoint` must be a whole checkpoint, but {broken} in {checkpoint} is missing or cut "
                "off; pass 'last' for the newest whole one."
            )
        return str(checkpoint)
    if not overwrite and Path(output_dir).is_dir() and any(Path(output_dir).iterdir()):
        raise FileExistsError(
            f"`output_dir` must be a new or empty folder, got {output_dir}; name another, or pass "
            "`--resume_from_checkpoint last` to go on there, or `--overwrite` to start anew there."
        )
    return None


def native_image_processor(config, image_processor):
    """The image processor to save beside a model, which does what the one that it was trained with does.

    Args:
        config ([`transformers.PreTrainedConfig`]): the model's.
        image_processor ([`OffSegImageProcessor`]): the one that it is trained with.

    Returns:
        [`transformers.BaseImageProcessor`]: itself; for models that classify masks Mask2Former's, which makes
        instances, panoptic and semantic maps of their outputs.
    """
    if auto_model_class(config) is AutoModelForSemanticSegmentation:
        return image_processor
    names = ("size", "resample", "image_mean", "image_std", "rescale_factor", "do_reduce_labels")
    settings = {name: getattr(image_processor, name) for name in names}
    return Mask2FormerImageProcessorPil(**settings, size_divisor=0)  # by default it stretches to multiples of 32


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


def _class_weights(model_args, train_dataset, image_processor, num_labels, args):
    """The numbers that were given, or estimated from what is trained on."""
    if model_args.class_weights == ["auto"]:
        streamed = isinstance(train_dataset, EndlessStream)
        return estimate_class_weights(
            train_dataset.stream if streamed else train_dataset.data,
            num_labels,
            do_reduce_labels=image_processor.do_reduce_labels,
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
        reduce_labels=data_args.do_reduce_labels,
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
        overrides["class_weights"] = _class_weights(model_args, train_dataset, image_processor, len(id2label), args)
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
