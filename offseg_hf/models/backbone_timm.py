"""Encoders that the library timm has saved, as transformers' TimmBackbone, which needs timm to compute them."""

import os
from typing import Any

import torch
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoBackbone, PreTrainedModel, TimmBackboneConfig
from transformers.utils import is_timm_available

# What timm writes of every network, and a backbone for photos of any size does not need.
IDLE_MODEL_ARGS = {"in_chans", "num_classes", "global_pool", "img_size"}


def is_of_timm(stored: dict[str, Any]) -> bool:
    """Whether a model was saved by timm.

    Args:
        stored (`dict[str, Any]`): content of its `config.json`, as [`transformers.PreTrainedConfig`] reads it.
    """
    return stored.get("model_type") == "timm_wrapper"


def timm_backbone_config(backbone: str | os.PathLike, stored: dict[str, Any]) -> TimmBackboneConfig:
    """The configuration of an encoder that timm has saved, which is built by its architecture's name alone.

    Args:
        backbone (`str` or `os.PathLike`): folder or Hub id of the weights.
        stored (`dict[str, Any]`): content of their `config.json`.

    Returns:
        [`transformers.TimmBackboneConfig`]: with the names of all maps as `stage_names`, and as `weights_license` the
        licence that timm states, if any.

    Raises:
        ValueError: where timm is not installed, does not have the architecture, or builds it with arguments besides.
    """
    if not is_timm_available():
        raise ValueError(
            f"`backbone` must not be of timm where timm is not installed, got {backbone}; `pip install timm`, or "
            "choose one of transformers, such as microsoft/resnet-50 or facebook/convnext-tiny-224."
        )
    others = set(stored.get("model_args") or {}) - IDLE_MODEL_ARGS
    if others:
        raise ValueError(
            "`backbone` must be a network that timm builds by its name alone, got "
            f"{backbone} with the `model_args` {', '.join(sorted(others))}; choose another."
        )
    try:
        with torch.device("meta"):  # only the network knows the names of its maps
            config = AutoBackbone.from_config(TimmBackboneConfig(backbone=stored["architecture"])).config
    except RuntimeError as error:
        raise ValueError(
            f"`backbone` must be a network that the installed timm has as a backbone, got {backbone} of architecture "
            f"{stored['architecture']!r} ({error}); update timm, or choose another."
        ) from error
    config.weights_license = stored.get("pretrained_cfg", {}).get("license")
    return config


def load_timm_backbone(
    backbone: str | os.PathLike, config: TimmBackboneConfig, **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Loads an encoder as [`transformers.PreTrainedModel.from_pretrained`] does.

    `TimmBackbone.from_pretrained` of transformers 5.24 sets the statistics of BatchNorm to 0 and 1.

    Args:
        backbone (`str` or `os.PathLike`): folder or Hub id of the weights.
        config ([`transformers.TimmBackboneConfig`]): see [`timm_backbone_config`].
        **kwargs: of `from_pretrained`.

    Returns:
        `tuple[PreTrainedModel, dict[str, Any]]`: what `from_pretrained` returns for these `kwargs`.
    """
    with torch.device("meta"):
        network = AutoBackbone.from_config(config)._backbone
    names = [name for name, _ in network.named_children()]
    if names == ["model"]:  # the whole network, in a frame
        renamed = {"^": "_backbone.model."}
    else:  # stages that lie inside another module in the file are called stages_0, … here
        renamed = {rf"^{name.replace('_', '[._]')}\.": f"_backbone.{name}." for name in names}
    backbone_class = MODEL_FOR_BACKBONE_MAPPING[TimmBackboneConfig]
    return super(backbone_class, backbone_class).from_pretrained(
        backbone, config=config, key_mapping=renamed, **kwargs
    )
