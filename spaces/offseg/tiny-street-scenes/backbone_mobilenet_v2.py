"""MobileNetV2 (arXiv 1801.04381) as a backbone, on transformers' native network."""

import copy

from torch import nn
from transformers import MobileNetV2Model, MobileNetV2PreTrainedModel

from .configuration_inverted_residual import MobileNetV2BackboneConfig
from .inverted_residual_backbone import InvertedResidualBackbone, init_weights


class NativeMobileNetV2(MobileNetV2Model):
    """The network of which the backbone takes its layers."""

    def _init_weights(self, module):
        init_weights(self, module)


class MobileNetV2Backbone(InvertedResidualBackbone, MobileNetV2PreTrainedModel):
    """MobileNetV2 as a backbone: image → maps of the stages that the configuration's `out_features` names.

    The last maps at each resolution are `hidden_states` 1, 4, 11 and 15 of [`transformers.MobileNetV2Model`], whose
    checkpoints it loads. With an `output_stride` of 8 or 16 no map is smaller than that.

    Args:
        config ([`MobileNetV2BackboneConfig`] or [`transformers.MobileNetV2Config`]): the architecture.

    Raises:
        ValueError: where `config` is of another model.
    """

    config: MobileNetV2BackboneConfig
    _keys_to_ignore_on_load_unexpected = [r"^(mobilenet_v2\.)?conv_1x1\.", r"^classifier\.", r"^segmentation_head\."]

    def __init__(self, config: MobileNetV2BackboneConfig):
        super().__init__(config)
        native_config = copy.deepcopy(self.config)
        native_config.tf_padding = False  # its TensorFlow padding cannot be exported for all sizes
        native = NativeMobileNetV2(native_config, add_pooling_layer=False)
        self.conv_stem = native.conv_stem
        self.layer = native.layer
        self.set_up([0, 2, 5, 12, 16], self.config.tf_padding)
        self.post_init()

    def layers(self) -> tuple[nn.Module, nn.ModuleList]:
        """All before the blocks, at half the image's resolution, and the blocks."""
        return self.conv_stem, self.layer
