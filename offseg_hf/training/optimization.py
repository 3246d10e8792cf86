"""What the optimizer gets, in groups that learn at rates of their own, and how many steps it takes."""

import math

from torch import nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from offseg_hf.model_types import TRAINING_WRAPPERS, is_in_head
from offseg_hf.models.offset_learning import ClassBias
from offseg_hf.training.batch_norm import BATCH_NORM_LAYERS

_INSTANCE_NORM_LAYERS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_NORM_LAYERS = (
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, ClassBias),
    *BATCH_NORM_LAYERS,
    *_INSTANCE_NORM_LAYERS,
)


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    head_learning_rate_factor: float,
    layer_decay: float = 1.0,
) -> list[dict]:
    """Groups of the trainable parameters: encoder and head, each with and without weight decay.

    The head is every module whose name contains "head", as in transformers' segmentation models (`decode_head`,
    `auxiliary_head`), and of Mask2Former all but the backbone. With `layer_decay` the encoder is divided further, see
    [`numbers_of_blocks`].

    Args:
        model (`torch.nn.Module`): the model, wrapped by FSDP, `torch.compile` or PEFT or not.
        learning_rate (`float`): of the encoder.
        weight_decay (`float`): of all parameters but those of norm layers.
        head_learning_rate_factor (`float`): learning rate of the head, as a multiple of `learning_rate`.
        layer_decay (`float`, *optional*, defaults to 1): by which the encoder's rate is multiplied for each block
            from the head down: once for the last block, and once more for what comes before the first one than for
            that (BEiT, arXiv 2106.08254, appendix; timm's option of this name).

    Returns:
        `list[dict]`: for a torch optimizer; groups without parameters are left out.

    Raises:
        ValueError: where there is `layer_decay`, and no blocks are found.
    """
    numbers = numbers_of_blocks(model) if layer_decay != 1 else {}
    num_blocks = max(numbers.values(), default=0)
    if layer_decay != 1 and num_blocks == 0:
        raise ValueError(
            f"`layer_decay` must be 1 for an encoder in which no sequence of blocks is found, got {layer_decay}; "
            "leave it out."
        )
    norm_parameters = {
        p for module in model.modules() if isinstance(module, _NORM_LAYERS) for p in module.parameters()
    }
    groups: dict[tuple[bool, bool, int], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            distance = num_blocks + 1 - numbers[name] if name in numbers else 0
            key = (is_in_head(name), parameter in norm_parameters, distance)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * (head_learning_rate_factor if in_head else layer_decay**distance),
            "weight_decay": 0.0 if is_norm else weight_decay,
        }
        for (in_head, is_norm, distance), parameters in groups.items()
    ]


def numbers_of_blocks(model: nn.Module) -> dict[str, int]:
    """Where in the encoder a parameter is: the number of the block that it belongs to, or that comes before it.

    Blocks are the items of a list (`ModuleList`, `Sequential`) that are all of one class and hold two layers or more.
    Where these hold such lists themselves, as stages do, the items of the inner lists are the blocks, and what a
    stage has besides counts to the block before it. Lists inside of those do not count.

    Args:
        model (`torch.nn.Module`): the model, wrapped by DDP, FSDP, `torch.compile` or PEFT or not.

    Returns:
        `dict[str, int]`: name of each parameter of the encoder → number of its block, from 1; 0 for the stem.
    """
    lists = [
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and not is_in_head(name) and _holds_blocks(module)
    ]
    lists = [name for name in lists if sum(name.startswith(outer) for outer in lists) <= 2]  # itself and one around
    lists = [name for name in lists if not any(inner.startswith(name) for inner in lists if inner != name)]
    numbers: dict[str, int] = {}
    last_block, number = None, 0
    for name, _ in model.named_parameters():
        if is_in_head(name):
            continue
        found = next((outer for outer in lists if name.startswith(outer)), None)
        block = None if found is None else (found, name.removeprefix(found).split(".")[0])
        if block not in (None, last_block):
            last_block, number = block, number + 1
        numbers[name] = number
    return numbers


def _holds_blocks(items):
    """Whether items are of one class, each with the weights of two layers at least, LoRA's updates not counted."""
    for item in items:
        weights = [name for name, weight in item.named_parameters() if weight.ndim > 1 and "lora_" not in name]
        if len(weights) < 2:
            return False
    return len({type(_unwrapped(item)) for item in items}) == 1


def _unwrapped(module):
    """What a module is without that which training puts around it."""
    for name, inner in module.named_children():
        if name in TRAINING_WRAPPERS:
            return _unwrapped(inner)
    return module


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
    batches = _num_batches(args, train_dataset)
    return math.ceil(math.ceil(batches / args.gradient_accumulation_steps) * args.num_train_epochs)


def _num_batches(args, train_dataset):
    """Batches of a pass, of each process."""
    num_batches = len(train_dataset) / (args.train_batch_size * args.world_size)
    return math.floor(num_batches) if args.dataloader_drop_last else math.ceil(num_batches)


def check_schedule(args: TrainingArguments, train_dataset: Dataset) -> None:
    """Raises where the learning rate cannot follow its schedule, before anything is computed.

    Args:
        args ([`transformers.TrainingArguments`]): the arguments.
        train_dataset (`Dataset` or `IterableDataset`): the training data.

    Raises:
        ValueError: where there would be no step, the warm-up is not shorter than the training, or the length of the
            training is not known.
    """
    num_steps = num_training_steps(args, train_dataset)
    if hasattr(train_dataset, "__len__") and _num_batches(args, train_dataset) == 0:
        raise ValueError(
            f"`dataloader_drop_last` must be left out for {len(train_dataset)} images, since it drops a batch of "
            f"fewer than {args.train_batch_size * args.world_size}, and no step would be left; leave it out, or pass "
            f"`--per_device_train_batch_size {max(1, len(train_dataset))}`."
        )
    num_warmup_steps = args.get_warmup_steps(num_steps)
    without_warmup = ("constant", "reduce_lr_on_plateau", "greedy")
    if num_warmup_steps >= num_steps and args.lr_scheduler_type not in without_warmup:
        raise ValueError(
            f"`warmup_steps` must be less than the {num_steps} steps of the training, got "
            f"{num_warmup_steps}; pass `--warmup_steps 0.05` for a twentieth of them."
        )
