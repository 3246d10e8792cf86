"""Configurations of MobileNetV2 and EfficientNet as backbones: the native ones, and which maps are returned."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import EfficientNetConfig, MobileNetV2Config, PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin


class InvertedResidualBackboneConfig(BackboneConfigMixin):
    """What the two configurations share: stages, where weights are from, and how a native configuration is read."""

    native_model_type: str
    num_stages = 4

    def __post_init__(self, **kwargs) -> None:
        self.stage_names = ["stem", *(f"stage{i + 1}" for i in range(self.num_stages))]
        out_features, out_indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        if out_features is None and out_indices is None:
            out_features = self.stage_names[1:]
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)
        super().__post_init__(**kwargs)
        self.num_hidden_layers = self.num_stages  # as of other backbones: what `hidden_states` has beside the stem

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads `config.json`, also that of a native model, as fields of this class."""
        fields, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return (cls.read_native(fields) if fields.get("model_type") == cls.native_model_type else fields), kwargs

    @classmethod
    def from_native(cls, config: PreTrainedConfig, **kwargs) -> "InvertedResidualBackboneConfig":
        """The configuration of the backbone of a native model.

        Args:
            config ([`transformers.PreTrainedConfig`]): of the native model.
            **kwargs: fields to set otherwise, such as `out_features`.

        Raises:
            ValueError: where `config` is of another model.
        """
        if config.model_type != cls.native_model_type:
            raise ValueError(
                f"`config` must be of model type {cls.model_type!r} or {cls.native_model_type!r}, got "
                f"{config.model_type!r}; use that model's own backbone."
            )
        return cls.from_dict(cls.read_native(config.to_dict()), **kwargs)

    @classmethod
    def read_native(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Fields of this class from those of the native configuration."""
        return {**fields, "model_type": cls.model_type}


@strict
class MobileNetV2BackboneConfig(InvertedResidualBackboneConfig, MobileNetV2Config):
    """Configuration of [`MobileNetV2Backbone`]: all fields of [`transformers.MobileNetV2Config`], and these.

    Args:
        batch_norm_momentum (`float`, *optional*, defaults to 0.1):
            Share of a new batch in the running statistics of BatchNorm. The native model fixes it at 0.997, the share
            of the old ones in TensorFlow, by which the statistics would be little more than the last batch's.
        weights_license (`str`, *optional*):
            Licence of the weights, such as `"mit"`.
        weights_source (`str`, *optional*):
            Where the weights come from.
        out_features (`list[str]`, *optional*, defaults to all four stages):
            Which of `"stem"`, `"stage1"`, …, `"stage4"` the backbone returns: the last feature maps at a half, a
            quarter, an eighth, a sixteenth and a thirty-second of the image's resolution.
        out_indices (`list[int]`, *optional*):
            The same, as positions in that list.

    Raises:
        ValueError: where `out_features` and `out_indices` disagree.
        huggingface_hub.errors.StrictDataclassError: where a field has the wrong type, or fields contradict each other.
    """

    model_type = "mobilenet_v2_backbone"
    native_model_type = "mobilenet_v2"

    batch_norm_momentum: float = 0.1
    weights_license: str | None = None
    weights_source: str | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None


@strict
class EfficientNetBackboneConfig(InvertedResidualBackboneConfig, EfficientNetConfig):
    """Configuration of [`EfficientNetBackbone`]: all fields of [`transformers.EfficientNetConfig`], and these.

    EfficientNet-Lite is this network with `use_squeeze_excite=False` and `hidden_act="relu6"`, whose stem, first and
    last groups are not scaled: with `width_coefficient=1.0` and `depth_coefficient=1.0`, and the scaled sizes written
    into `in_channels`, `out_channels` and `num_block_repeats`.

    Args:
        use_squeeze_excite (`bool`, *optional*, defaults to `True`):
            Whether blocks have squeeze-and-excitation.
        tf_padding (`bool`, *optional*, defaults to `True`):
            Whether convolutions with stride 2 are padded as TensorFlow's "same" does for the size at hand, which is
            what the native model does at the size that its `depthwise_padding` is made for; or else by half the kernel
            on all sides, as torchvision does.
        batch_norm_momentum (`float`, *optional*, defaults to 0.01):
            Share of a new batch in the running statistics of BatchNorm. The native configuration's 0.99 is
            TensorFlow's share of the old ones, and is read as 0.01.
        weights_license (`str`, *optional*):
            Licence of the weights, such as `"apache-2.0"`.
        weights_source (`str`, *optional*):
            Where the weights come from.
        out_features (`list[str]`, *optional*, defaults to all four stages):
            Which of `"stem"`, `"stage1"`, …, `"stage4"` the backbone returns: the last feature maps at a half, a
            quarter, an eighth, a sixteenth and a thirty-second of the image's resolution.
        out_indices (`list[int]`, *optional*):
            The same, as positions in that list.

    Raises:
        ValueError: where `out_features` and `out_indices` disagree.
        huggingface_hub.errors.StrictDataclassError: where a field has the wrong type, or fields contradict each other.
    """

    model_type = "efficientnet_backbone"
    native_model_type = "efficientnet"

    use_squeeze_excite: bool = True
    tf_padding: bool = True
    batch_norm_momentum: float = 0.01
    weights_license: str | None = None
    weights_source: str | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    @classmethod
    def read_native(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Fields of this class from those of the native configuration."""
        share_of_old = fields.get("batch_norm_momentum", EfficientNetConfig.batch_norm_momentum)
        return {**super().read_native(fields), "batch_norm_momentum": round(1 - share_of_old, 9)}

    def validate_architecture(self) -> None:
        """Raises a `ValueError` where fields contradict each other."""
        lists = ("in_channels", "out_channels", "kernel_sizes", "num_block_repeats", "expand_ratios")
        for name in lists:
            if len(getattr(self, name)) != len(self.strides):
                raise ValueError(
                    f"`{name}` must have an entry for each of the {len(self.strides)} groups of blocks in `strides`, "
                    f"got {getattr(self, name)}."
                )
        if not set(self.strides) <= {1, 2} or list(self.strides).count(2) != self.num_stages:
            raise ValueError(
                "`strides` must be 1 or 2 for each group of blocks, and 2 for four of them, which halve the "
                f"resolution from a half to a thirty-second, got {self.strides}."
            )

    @property
    def stage_ends(self) -> list[int]:
        """After how many blocks the stem and each stage end: before each group with stride 2, and after the last."""
        repeats = [math.ceil(self.depth_coefficient * repeats) for repeats in self.num_block_repeats]
        starts = [sum(repeats[:group]) for group, stride in enumerate(self.strides) if stride == 2]
        return [*starts, sum(repeats)]
