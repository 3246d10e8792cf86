"""AdamW as the paper's recipe has it: parameter groups, and the learning rate of every step."""

import torch
from torch import nn

from offseg_hf.model_types import is_in_head
from offseg_hf.models.offset_learning import ClassBias
from offseg_hf.training.arguments import SegmentationTrainingArguments

_NORM_LAYERS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase, ClassBias)


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


def learning_rate_factor(
    step: int, num_warmup_steps: int, num_training_steps: int, start_factor: float, decay_power: float = 1.0
) -> float:
    """Learning rate of a step as a multiple of the full one: linear warm-up, then polynomial decay to 0.

    Args:
        step (`int`): steps taken so far.
        num_warmup_steps (`int`): steps until the full learning rate.
        num_training_steps (`int`): steps until 0.
        start_factor (`float`): the multiple of step 0.
        decay_power (`float`, *optional*, defaults to 1): exponent of the decay; 1 for a linear one.

    Returns:
        `float`: in [0, 1].
    """
    if step < num_warmup_steps:
        return start_factor + (1 - start_factor) * step / num_warmup_steps
    return max(0.0, (num_training_steps - step) / (num_training_steps - num_warmup_steps)) ** decay_power


def create_optimizer_and_scheduler(model: nn.Module, args: SegmentationTrainingArguments, num_training_steps: int):
    """AdamW and its schedule by the paper's recipe, for `Trainer(optimizers=…)`.

    Args:
        model (`torch.nn.Module`): the model.
        args ([`SegmentationTrainingArguments`]): learning rates, weight decay, AdamW's betas, warm-up and decay.
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
        lambda step: learning_rate_factor(
            step, num_warmup_steps, num_training_steps, args.warmup_start_factor, args.lr_decay_power
        ),
    )
    return optimizer, scheduler
