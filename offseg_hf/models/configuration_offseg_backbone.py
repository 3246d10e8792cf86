"""Configuration of offset learning on any backbone."""

import copy

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, ResNetConfig

from .configuration_fields import OffsetLearningFields
from .configuration_inverted_residual import EfficientNetBackboneConfig, MobileNetV2BackboneConfig
from .configuration_offseg_efficientformer import OffSegEfficientFormerConfig
from .configuration_offseg_segnext import OffSegSegNextConfig

# Of backbones that a published model brings along, since transformers does not have them.
OWN_CONFIGS = {
    config_class.model_type: config_class
    for config_class in (
        EfficientNetBackboneConfig,
        MobileNetV2BackboneConfig,
        OffSegEfficientFormerConfig,
        OffSegSegNextConfig,
    )
}


@strict
class OffSegBackboneConfig(OffsetLearningFields, PreTrainedConfig):
    """Configuration of [`OffSegBackboneForSemanticSegmentation`]: that of a backbone, and of the head on it.

    The fields of [`OffsetLearningFields`] say how classes are learned.

    Args:
        backbone_config ([`transformers.PreTrainedConfig`] or `dict`, *optional*, defaults to that of a ResNet-50):
            Configuration of the backbone, of any type that [`transformers.AutoBackbone`] knows. Its `out_features` are
            the feature maps that the head reads. It is copied.
        decoder_hidden_size (`int`, *optional*, defaults to 256):
            Channels of the decode head.

    Raises:
        ValueError: where `backbone_config` is of an unknown type, or `num_labels` and `id2label` disagree.
        huggingface_hub.errors.StrictDataclassError: where a field has the wrong type or is out of its range.

    Example:

    ```python
    >>> from transformers import ConvNextV2Config
    >>> from offseg_hf import OffSegBackboneConfig, OffSegBackboneForSemanticSegmentation

    >>> backbone_config = ConvNextV2Config(out_features=["stage1", "stage2", "stage3", "stage4"])
    >>> config = OffSegBackboneConfig(backbone_config=backbone_config, num_labels=11)
    >>> model = OffSegBackboneForSemanticSegmentation(config)  # random weights
    ```"""

    model_type = "offseg_backbone"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    decoder_hidden_size: int = 256

    def __post_init__(self, **kwargs) -> None:
        if self.backbone_config is None:
            self.backbone_config = ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
        elif isinstance(self.backbone_config, dict):
            model_type = self.backbone_config.get("model_type")
            if model_type not in OWN_CONFIGS and model_type not in CONFIG_MAPPING:
                raise ValueError(
                    f"`backbone_config` must be of a `model_type` that is registered, got {model_type!r}; import the "
                    "package that defines it, or register its classes with `AutoConfig.register` and "
                    "`AutoBackbone.register`."
                )
            config_class = OWN_CONFIGS.get(model_type) or CONFIG_MAPPING[model_type]
            self.backbone_config = config_class.from_dict(self.backbone_config)
        else:
            self.backbone_config = copy.deepcopy(self.backbone_config)
        super().__post_init__(**kwargs)

    def to_diff_dict(self) -> dict:
        """As `PreTrainedConfig.to_diff_dict`, the backbone's fields as in a file of its own."""
        backbone_config = self.backbone_config.to_diff_dict()
        backbone_config.pop("dtype", None)  # loading writes the whole model's there
        return super().to_diff_dict() | {"backbone_config": backbone_config}
