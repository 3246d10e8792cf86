"""What the optimizer gets, in groups that learn at rates of their own, and how many steps it takes."""

import math

from torch import nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from offseg_hf.model_types import is_in_head
from offseg_hf.models.offset_learning import ClassBias
from offseg_hf.training.batch_norm import BATCH_NORM_LAYERS

_INSTANCE_NORM_LAYERS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_NORM_LAYERS = (
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, ClassBias),
    *BATCH_NORM_LAYERS,
    *_INSTANCE_NORM_LAYERS,
)


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, head_learning_rate_factor: float
) -> list[dict]:
    """Groups of the trainable parameters: encoder and head, each with and without weight decay.

    The head is every module whose name contains "head", as in transformers' segmentation models (`decode_head`,
    `auxiliary_head`), and of Mask2Former all but the backbone.

    Args:
        model (`torch.nn.Module`): the model, wrapped by FSDP, `torch.compile` or PEFT or not.
        learning_rate (`float`): of the encoder.
        weight_decay (`float`): of all parameters but those of norm layers.
        head_learning_rate_factor (`float`): learning rate of the head, as a multiple of the encoder's.

    Returns:
        `list[dict]`: for a torch optimizer; groups without parameters are left out.
    """
    norm_parameters = {
        p for module in model.modules() if isinstance(module, _NORM_LAYERS) for p in module.parameters()
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (is_in_head(name), parameter in norm_parameters)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * (head_learning_rate_factor if in_head else 1),
            "weight_decay": 0.0 if is_norm else weight_decay,
        }
        for (in_head, is_norm), parameters in groups.items()
    ]


def num_training_steps(args: TrainingArguments, train_dataset: Dataset) -> int:
    """Optimizer steps of a training: `max_steps`, or those of `num_train_epochs` of a data set of known length.

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


def check_schedule(args: TrainingArguments, train_dataset: Dataset) -> None:
    """Raises where the learning rate cannot follow its schedule, before anything is computed.

    Args:
        args ([`transformers.TrainingArguments`]): the arguments.
        train_dataset (`Dataset` or `IterableDataset`): the training data.

    Raises:
        ValueError: where the warm-up is not shorter than the training, or the length of the training is not known.
    """
    num_steps = num_training_steps(args, train_dataset)
    num_warmup_steps = args.get_warmup_steps(num_steps)
    without_warmup = ("constant", "reduce_lr_on_plateau", "greedy")
    if num_warmup_steps >= num_steps and args.lr_scheduler_type not in without_warmup:
        raise ValueError(
            f"`warmup_steps` must be less than the {num_steps} steps of the training, got "
            f"{num_warmup_steps}; pass `--warmup_steps 0.05` for a twentieth of them."
        )
