"""Training the head alone, on an encoder that stays as it is."""

from collections.abc import Iterator

from torch import nn

from offseg_hf.model_types import is_in_head


def freeze_backbone(model: nn.Module) -> list[nn.Module]:
    """Takes every parameter outside the head out of a training, in place.

    Statistics of BatchNorm, dropout and drop path are no parameters: what is returned must be in evaluation mode
    whenever the model computes, after each `model.train()`, as [`~offseg_hf.training.trainer.SegmentationTrainer`]
    has it.

    Args:
        model (`torch.nn.Module`): the model, not wrapped yet. What is its head, [`~offseg_hf.model_types.is_in_head`]
            says.

    Returns:
        `list[torch.nn.Module]`: the largest modules that hold nothing of the head.

    Raises:
        ValueError: where LoRA has added updates of the encoder.
    """
    if hasattr(model, "peft_config"):
        raise ValueError(
            "`freeze_backbone` must be left out with `lora_rank`, which trains updates of the encoder; choose one of "
            "the two."
        )
    for name, parameter in model.named_parameters():
        if not is_in_head(name):
            parameter.requires_grad_(False)
    return list(_outside_head(model))


def _outside_head(module: nn.Module, prefix: str = "") -> Iterator[nn.Module]:
    for name, child in module.named_children():
        name = prefix + name
        if is_in_head(name):
            continue
        if any(is_in_head(f"{name}.{inner}") for inner, _ in child.named_modules()):
            yield from _outside_head(child, f"{name}.")
        else:
            yield child
