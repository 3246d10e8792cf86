"""What a segmentation model is, by its configuration: its Auto class, the classes it predicts, what is its head."""

import os

import torch
from torch import nn
from transformers import (
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
    AutoConfig,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
)

import offseg_hf.registration  # noqa: F401  so that the Auto classes know this package's models

# Names under which what training puts around a model, or a part of it, holds that.
TRAINING_WRAPPERS = ("module", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module")


def auto_model_class(
    config: PreTrainedConfig,
) -> type[AutoModelForSemanticSegmentation | AutoModelForUniversalSegmentation]:
    """The Auto class of a configuration's model.

    Args:
        config (`transformers.PreTrainedConfig`): a segmentation model's.

    Returns:
        `type`: `AutoModelForUniversalSegmentation` for models that classify masks, such as Mask2Former, else
        `AutoModelForSemanticSegmentation`.
    """
    universal = "AutoModelForUniversalSegmentation"
    if type(config) in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING or universal in getattr(config, "auto_map", {}):
        return AutoModelForUniversalSegmentation
    return AutoModelForSemanticSegmentation


def predicted_labels(config: PreTrainedConfig) -> dict[int, str]:
    """The names of the ids that a model predicts.

    Args:
        config (`transformers.PreTrainedConfig`): the model's configuration.

    Returns:
        `dict[int, str]`: its `id2label`; for a single class, that class as 1 and the background as 0.
    """
    if config.num_labels == 1:
        return {0: "background", 1: config.id2label[0]}
    return dict(config.id2label)


def load_model(model_name_or_path: str | os.PathLike, trust_remote_code: bool = False) -> PreTrainedModel:
    """The segmentation model of a folder or Hub id, whether it classifies pixels or masks.

    Args:
        model_name_or_path (`str` or `os.PathLike`): the folder or Hub id.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code that comes with the weights.

    Returns:
        [`transformers.PreTrainedModel`]: in evaluation mode.

    Raises:
        OSError, ValueError: where there is none, transformers cannot load it, or its weights are not finite.
    """
    config = AutoConfig.from_pretrained(model_name_or_path, trust_remote_code=trust_remote_code)
    model = auto_model_class(config).from_pretrained(
        model_name_or_path, config=config, trust_remote_code=trust_remote_code
    )
    check_finite_weights(model, model_name_or_path)
    return model


def tensors_not_finite(model: nn.Module) -> list[str]:
    """The names of a model's parameters and statistics that hold a value that is NaN or infinite.

    Args:
        model (`torch.nn.Module`): on any device.

    Returns:
        `list[str]`: empty for a model that can predict.
    """
    tensors = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if not tensors:
        return []
    is_finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()])  # asks the device once
    return [name for name, each in zip(tensors, is_finite.tolist()) if not each]


def check_finite_weights(model: nn.Module, name: str | os.PathLike, argument: str = "model") -> None:
    """Checks that a model can predict anything.

    Args:
        model (`torch.nn.Module`): as it was loaded.
        name (`str` or `os.PathLike`): where from.
        argument (`str`, *optional*, defaults to `"model"`): what errors call it.

    Raises:
        ValueError: a weight is NaN or infinite.
    """
    if lost := tensors_not_finite(model):
        raise ValueError(
            f"`{argument}` must have finite weights, but in {name} NaN or infinite ones are in {len(lost)} tensors, "
            f"{', '.join(lost[:3])} among them; take a checkpoint from before its training diverged."
        )


def ignore_index(config: PreTrainedConfig) -> int:
    """Label of the pixels that a model's loss leaves out, under the name that its configuration has for it.

    Args:
        config ([`transformers.PreTrainedConfig`]): a segmentation model's.

    Returns:
        `int`: 255 where the configuration does not say.
    """
    names = ("semantic_loss_ignore_index", "loss_ignore_index")  # the latter is UPerNet's
    return next((getattr(config, name) for name in names if hasattr(config, name)), 255)


def is_in_head(name: str) -> bool:
    """Whether a parameter is the head's, by its name: `decode_head.…`, of wrapped models `model.decode_head.…`.

    The pyramid that the head on a plain vision transformer reads is part of it. What training puts around a model or
    its parts (DistributedDataParallel, FSDP, `torch.compile`, activation checkpointing, PEFT) and writes into the
    names is passed over.

    Args:
        name (`str`): as in `named_parameters`.

    Returns:
        `bool`
    """
    other_heads = ("pyramid", "transformer_module", "class_predictor", "decoder")  # all but the first Mask2Former's
    name = ".".join(part for part in name.split(".") if part not in TRAINING_WRAPPERS)
    parts = name.removeprefix("base_model.model.").split(".")  # PEFT's prefix
    return any("head" in part or part in other_heads for part in parts[:3])
