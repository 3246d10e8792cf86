"""Fine-tuning with transformers' stock `Trainer`: the paper's recipe, exact metrics, bounded memory."""

import math
import tempfile
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    Mask2FormerImageProcessorPil,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from offseg_hf.data import (
    EndlessStream,
    PrepareExample,
    TrainingExamples,
    audit_labels,
    evaluation_examples,
    load_segmentation_dataset,
    stack_examples,
)
from offseg_hf.inference import auto_model_class, predicted_labels
from offseg_hf.metrics import SemanticSegmentationMetric
from offseg_hf.models.configuration_offset_learning_wrapper import OffsetLearningConfig
from offseg_hf.models.image_processing_offseg import read_mask, upsampled_label_map
from offseg_hf.models.modeling_offseg_mask2former import semantic_scores
from offseg_hf.models.modeling_offset_learning_wrapper import OffsetLearningForSemanticSegmentation
from offseg_hf.models.offset_learning import ClassBias
from offseg_hf.variants import variant_config

_NORM_LAYERS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase, ClassBias)


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
    if not all(_is_in_head(name) for name in anew):
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
        checkpoint = get_last_checkpoint(output_dir) if last and Path(output_dir).is_dir() else resume_from_checkpoint
        if checkpoint is None or not Path(checkpoint).is_dir():
            raise FileNotFoundError(
                f"`resume_from_checkpoint` must be a checkpoint's folder, or 'last' for the newest in {output_dir}, "
                f"but there is none for {resume_from_checkpoint!r}; leave it out to start anew."
            )
        return checkpoint
    if not overwrite and Path(output_dir).is_dir() and any(Path(output_dir).iterdir()):
        raise FileExistsError(
            f"`output_dir` must be a new or empty folder, got {output_dir}; name another, or pass "
            "`--resume_from_checkpoint last` to go on there, or `--overwrite` to start anew there."
        )
    return None


def training_dataset(
    dataset,
    split,
    *,
    image_processor,
    transform,
    num_labels,
    streaming=False,
    image_column=None,
    mask_column=None,
    seed=0,
    shuffle_buffer_size=500,
):
    """A split to train on: augmented crops, of audited labels, streamed ones endless and shuffled anew in every pass.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`], as `split`, `streaming`,
            `image_column` and `mask_column`.
        image_processor ([`OffSegImageProcessor`]): the model's.
        transform ([`~offseg_hf.data.TrainTransform`]): the augmentation.
        num_labels (`int`): number of classes, against which the first label maps are checked.
        seed (`int`, *optional*, defaults to 0): of the augmentation and of a stream's order.
        shuffle_buffer_size (`int`, *optional*, defaults to 500): undecoded examples among which a stream is shuffled.

    Returns:
        [`~offseg_hf.data.TrainingExamples`] or [`~offseg_hf.data.EndlessStream`]: of `pixel_values` and `labels`.

    Raises:
        ValueError, FileNotFoundError: where the data cannot be found, or its labels are no class ids.
    """
    data = load_segmentation_dataset(
        dataset, split, streaming=streaming, image_column=image_column, mask_column=mask_column
    )
    audit_first_labels(data, num_labels, image_processor.do_reduce_labels)
    prepare = PrepareExample(image_processor, transform)
    if streaming:
        return EndlessStream(data, prepare, seed=seed, buffer_size=shuffle_buffer_size)
    return TrainingExamples(data, prepare, seed=seed)


def evaluation_dataset(
    dataset, split, *, image_processor, num_labels, streaming=False, image_column=None, mask_column=None
):
    """A split to evaluate on: whole photos, with labels at their own resolution.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`], as `split`, `streaming`,
            `image_column` and `mask_column`.
        image_processor ([`OffSegImageProcessor`]): the model's.
        num_labels (`int`): number of classes, against which the first label maps are checked.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: of `pixel_values` and `labels`.

    Raises:
        ValueError, FileNotFoundError: where the data cannot be found, or its labels are no class ids.
    """
    data = load_segmentation_dataset(
        dataset, split, streaming=streaming, image_column=image_column, mask_column=mask_column
    )
    audit_first_labels(data, num_labels, image_processor.do_reduce_labels)
    return evaluation_examples(data, PrepareExample(image_processor))


def audit_first_labels(data, num_labels: int, reduce_labels: bool, num_examples: int = 16):
    """Checks that the first label maps of a data set hold class ids, see [`~offseg_hf.data.audit_labels`].

    Args:
        data (`datasets.Dataset` or `datasets.IterableDataset`): with the columns `image` and `mask`.
        num_labels (`int`): number of classes.
        reduce_labels (`bool`): whether label 0 means "ignore" and classes count from 1.
        num_examples (`int`, *optional*, defaults to 16): how many to check.

    Raises:
        ValueError: where they do not, with the remedy.
    """
    masks = [read_mask(example["mask"], name="mask") for example in islice(data, num_examples)]
    audit_labels(masks, num_labels, reduce_labels=reduce_labels)


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, head_learning_rate_factor: float
) -> list[dict]:
    """Groups of the trainable parameters: encoder and head, each with and without weight decay.

    The head is every module whose name contains "head", as in transformers' segmentation models (`decode_head`,
    `auxiliary_head`), and of Mask2Former all but the backbone.

    Args:
        model (`torch.nn.Module`): the model.
        learning_rate (`float`): of the encoder.
        weight_decay (`float`): of all parameters but those of norm layers.
        head_learning_rate_factor (`float`): learning rate of the head, as a multiple of the encoder's.

    Returns:
        `list[dict]`: for a torch optimiser; groups without parameters are left out.
    """
    norm_parameters = {
        p for module in model.modules() if isinstance(module, _NORM_LAYERS) for p in module.parameters()
    }
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (_is_in_head(name), parameter in norm_parameters)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * (head_learning_rate_factor if in_head else 1),
            "weight_decay": 0.0 if is_norm else weight_decay,
        }
        for (in_head, is_norm), parameters in groups.items()
    ]


def _is_in_head(name):
    """Whether a parameter is the head's, by its name: `decode_head.…`, of wrapped models `model.decode_head.…`."""
    heads_of_mask2former = ("transformer_module", "class_predictor", "decoder")  # the pixel decoder
    return any("head" in part or part in heads_of_mask2former for part in name.split(".")[:3])


def learning_rate_factor(step: int, num_warmup_steps: int, num_training_steps: int, start_factor: float) -> float:
    """Learning rate of a step as a multiple of the full one: linear warm-up, then linear decay to 0.

    Args:
        step (`int`): steps taken so far.
        num_warmup_steps (`int`): steps until the full learning rate.
        num_training_steps (`int`): steps until 0.
        start_factor (`float`): the multiple of step 0.

    Returns:
        `float`: in [0, 1].
    """
    if step < num_warmup_steps:
        return start_factor + (1 - start_factor) * step / num_warmup_steps
    return max(0.0, (num_training_steps - step) / (num_training_steps - num_warmup_steps))


def create_optimizer_and_scheduler(model: nn.Module, args: SegmentationTrainingArguments, num_training_steps: int):
    """AdamW and its schedule by the paper's recipe, for `Trainer(optimizers=…)`.

    Args:
        model (`torch.nn.Module`): the model.
        args ([`SegmentationTrainingArguments`]): learning rates, weight decay, AdamW's betas and the warm-up.
        num_training_steps (`int`): optimiser steps of the whole training.

    Returns:
        `tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]`

    Raises:
        ValueError: where the warm-up is not shorter than the training.
    """
    num_warmup_steps = args.get_warmup_steps(num_training_steps)
    if num_warmup_steps >= num_training_steps:
        raise ValueError(
            f"`warmup_steps` must be less than the {num_training_steps} steps of the training, got "
            f"{num_warmup_steps}; pass `--warmup_steps 0.05` for a twentieth of them."
        )
    groups = parameter_groups(model, args.learning_rate, args.weight_decay, args.head_learning_rate_factor)
    betas = (args.adam_beta1, args.adam_beta2)
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(step, num_warmup_steps, num_training_steps, args.warmup_start_factor),
    )
    return optimizer, scheduler


def predicted_label_maps(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits → label maps of the labels' resolution, for `Trainer(preprocess_logits_for_metrics=…)`.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_labels, height', width')`): or a tuple that begins with them,
            or, of models that classify masks, with the logits of the queries' classes and masks.
        labels (`torch.Tensor` of shape `(batch_size, height, width)`): only the size is read.

    Returns:
        `torch.Tensor` of shape `(batch_size, height, width)`: class ids.
    """
    if isinstance(logits, (tuple, list)):
        classifies_masks = logits[0].ndim == 3  # (B, Q, K + 1), and then the masks
        logits = semantic_scores(*logits[:2]) if classifies_masks else logits[0]
    return upsampled_label_map(logits, labels.shape[-2:])


class BatchMetrics:
    """Accumulates a confusion matrix batch by batch, for `Trainer(compute_metrics=…)` with `batch_eval_metrics=True`.

    Args:
        id2label (`dict[int, str]`): names of the ids that are predicted, at least two.
        ignore_index (`int`, *optional*, defaults to 255): label of the pixels to leave out.
    """

    def __init__(self, id2label: dict[int, str], ignore_index: int = 255):
        self.id2label = id2label
        self.metric = SemanticSegmentationMetric(num_labels=len(id2label), ignore_index=ignore_index)

    def __call__(self, eval_prediction, compute_result: bool) -> dict[str, float]:
        self.metric.add_batch(predictions=eval_prediction.predictions, references=eval_prediction.label_ids)
        if not compute_result:
            return {}
        return named_results(self.metric.compute(), self.id2label)


def named_results(results: dict, id2label: dict[int, str]) -> dict[str, float]:
    """Results of the metric as one flat dictionary that can be logged and written as JSON.

    Args:
        results (`dict`): of [`SemanticSegmentationMetric.compute`].
        id2label (`dict[int, str]`): class names.

    Returns:
        `dict[str, float]`: `mean_iou`, `mean_accuracy`, `overall_accuracy`, and `iou_<name>` of each class that
        occurs, all in [0, 1].
    """
    named = {name: float(results[name]) for name in ("mean_iou", "mean_accuracy", "overall_accuracy")}
    for label_id, iou in enumerate(results["per_category_iou"]):
        if not math.isnan(iou):
            named[f"iou_{id2label[label_id]}"] = float(iou)
    return named


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


def create_trainer(
    model: PreTrainedModel,
    args: SegmentationTrainingArguments,
    train_dataset=None,
    eval_dataset=None,
    image_processor=None,
) -> Trainer:
    """A stock `Trainer` with the paper's optimiser and exact metrics.

    Args:
        model ([`transformers.PreTrainedModel`]): a model for semantic segmentation.
        args ([`SegmentationTrainingArguments`]): the recipe; `max_steps` must be given for a stream.
        train_dataset (`torch.utils.data.Dataset` or `IterableDataset`, *optional*): of `pixel_values` and `labels`.
        eval_dataset (likewise, *optional*): with labels at the resolution at which to measure.
        image_processor ([`OffSegImageProcessor`], *optional*): saved beside the model, see
            [`native_image_processor`].

    Returns:
        [`transformers.Trainer`]
    """
    optimizers = (None, None)
    if train_dataset is not None:
        optimizers = create_optimizer_and_scheduler(model, args, num_training_steps(args, train_dataset))
    return Trainer(
        model=model,
        args=args,
        data_collator=stack_examples,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=image_processor and native_image_processor(model.config, image_processor),
        compute_metrics=BatchMetrics(predicted_labels(model.config), model.config.semantic_loss_ignore_index),
        preprocess_logits_for_metrics=predicted_label_maps,
        optimizers=optimizers,
        callbacks=[PassCallback(train_dataset)] if hasattr(train_dataset, "set_epoch") else None,
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


def evaluate_model(model: PreTrainedModel, image_processor, eval_dataset, batch_size: int = 1) -> dict[str, float]:
    """Measures a model on a data set, at the labels' own resolution.

    Args:
        model ([`transformers.PreTrainedModel`]): a model for semantic segmentation.
        image_processor ([`OffSegImageProcessor`]): the model's.
        eval_dataset (`datasets.Dataset` or `datasets.IterableDataset`): see [`evaluation_dataset`].
        batch_size (`int`, *optional*, defaults to 1): images per batch and device; more than 1 needs one size.

    Returns:
        `dict[str, float]`: see [`named_results`], and the mean `loss`.
    """
    with tempfile.TemporaryDirectory() as folder:  # Trainer wants one, and writes nothing here
        args = SegmentationTrainingArguments(output_dir=folder, per_device_eval_batch_size=batch_size)
        metrics = create_trainer(model, args, eval_dataset=eval_dataset, image_processor=image_processor).evaluate()
    results = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    timings = {"runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch"}
    return {name: value for name, value in results.items() if name not in timings}
