"""EfficientNet (arXiv 1905.11946) and EfficientNet-Lite as a backbone, on transformers' native network."""

from torch import nn
from transformers import EfficientNetModel, EfficientNetPreTrainedModel

from .configuration_inverted_residual import EfficientNetBackboneConfig
from .inverted_residual_backbone import InvertedResidualBackbone, init_weights


class NativeEfficientNet(EfficientNetModel):
    """The network of which the backbone takes its layers."""

    def _init_weights(self, module):
        init_weights(self, module)


class EfficientNetBackbone(InvertedResidualBackbone, EfficientNetPreTrainedModel):
    """EfficientNet as a backbone: image → maps of the stages that the configuration's `out_features` names.

    With the groups of EfficientNet-B0, the last maps at each resolution are `hidden_states` 3, 5, 11 and 16 of
    [`transformers.EfficientNetModel`], whose checkpoints it loads.

    Args:
        config ([`EfficientNetBackboneConfig`] or [`transformers.EfficientNetConfig`]): the architecture.

    Raises:
        ValueError: where `config` is of another model.
    """

    config: EfficientNetBackboneConfig
    _keys_to_ignore_on_load_unexpected = [r"^(efficientnet\.)?encoder\.top_", r"^classifier\."]

    def __init__(self, config: EfficientNetBackboneConfig):
        super().__init__(config)
        native = NativeEfficientNet(self.config)
        self.embeddings = native.embeddings
        self.encoder = nn.ModuleDict({"blocks": native.encoder.blocks})
        if not self.config.use_squeeze_excite:
            for block in self.encoder["blocks"]:
                del block.squeeze_excite  # an error where the library has renamed it
                block.squeeze_excite = nn.Identity()
        self.set_up(self.config.stage_ends, self.config.tf_padding)
        self.post_init()

    def layers(self) -> tuple[nn.Module, nn.ModuleList]:
        """All before the blocks, at half the image's resolution, and the blocks."""
        return self.embeddings, self.encoder["blocks"]
