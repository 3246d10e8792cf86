"""What a segmentation model is, by its configuration: its Auto class, the classes it predicts, what is its head."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
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
from offseg_hf.hub import check_on_hub

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


@contextlib.contextmanager
def loading_errors(model_name_or_path: str | os.PathLike, argument: str = "model") -> Iterator[None]:
    """Whatever goes wrong while a model or its image processor is loaded becomes one sentence that names it.

    It is first seen whether there is a model at all.

    Args:
        model_name_or_path (`str` or `os.PathLike`): the folder or Hub id.
        argument (`str`, *optional*, defaults to `"model"`): what errors call it.

    Raises:
        FileNotFoundError, ConnectionError: there is no such folder and no such model on the Hub.
        ValueError: what the block raised, shortened; files that are cut off and other kinds of models among it.
    """
    if not Path(model_name_or_path).is_dir():
        check_on_hub(str(model_name_or_path), argument, file="config.json")
    elif not Path(model_name_or_path, "config.json").is_file():
        raise FileNotFoundError(
            f"`{argument}` must be a model's folder, and there is no config.json in {model_name_or_path}; name the "
            "folder that training or `save_pretrained` wrote."
        )
    try:
        yield
    except Exception as error:  # of transformers, safetensors, torch and json, and of code that comes with a model
        reason = " ".join(str(innermost(error)).split()) or type(error).__name__
        reason = f"{reason[:300]} …" if len(reason) > 300 else reason
        raise ValueError(
            f"`{argument}` must be a folder or Hub id of a segmentation model that transformers can load, and for "
            f"{model_name_or_path}: {reason}"
        ) from error


def innermost(error: BaseException) -> BaseException:
    """What a configuration's own check raised, without what the library for configurations wraps around it.

    Args:
        error (`BaseException`): any exception.

    Returns:
        `BaseException`: its cause, where it is a `StrictDataclassError` that has one; else itself.
    """
    while isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        error = error.__cause__
    return error


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
