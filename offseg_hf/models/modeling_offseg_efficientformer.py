"""The paper's own network (T, B, L): EfficientFormerV2, FreqFusion and offset learning."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SemanticSegmenterOutput

from .backbone_efficientformer_v2 import EfficientFormerV2Backbone, EfficientFormerV2PreTrainedModel
from .configuration_offseg_efficientformer import OffSegEfficientFormerConfig
from .conv_group_norm import ConvGroupNorm
from .library_internals import can_return_tuple, filter_output_hidden_states
from .neck_freqfusion import FreqFusion, FreqFusionConv
from .offset_learning import ClassBias, LogitLayerNorm, OffsetLearning
from .segmentation_loss import offset_learning_loss

NUM_INTERLEAVED_GROUPS = 4


def interleave(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Concatenates two maps: channel group 1 of the first, of the second, group 2 of the first, …"""
    groups = [hidden_states.unflatten(1, (NUM_INTERLEAVED_GROUPS, -1)) for hidden_states in (first, second)]
    return torch.cat(groups, dim=2).flatten(1, 2)  # (B, C₁ + C₂, H, W)


class OffSegEfficientFormerDecodeHead(nn.Module):
    """Four stages → 1×1 each → fused from the coarsest up → 1×1 at stride 4 → offset learning: logits and features."""

    def __init__(self, config: OffSegEfficientFormerConfig):
        super().__init__()
        sizes, groups = config.neck_hidden_sizes, config.num_groups
        self.pre = nn.ModuleList(
            [ConvGroupNorm(width, size, groups) for width, size in zip(config.hidden_sizes, sizes)]
        )
        # Stage 3 first; the coarse map has the channels of all stages above.
        self.freqfusions = nn.ModuleList([FreqFusion(sum(sizes[i + 1 :]), sizes[i]) for i in (2, 1, 0)])
        self.align = ConvGroupNorm(sum(sizes), config.decoder_hidden_size, groups)
        self.offset_learning = OffsetLearning(
            config.num_labels, config.decoder_hidden_size, config.logit_normalization
        )

    def forward(self, encoder_hidden_states: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        *highs, low = [pre(hidden_state) for pre, hidden_state in zip(self.pre, encoder_hidden_states)]
        for freqfusion, high in zip(self.freqfusions, reversed(highs)):
            low = interleave(*freqfusion(high, low))
        features = self.align(low)
        return self.offset_learning(features), features


class OffSegEfficientFormerForSemanticSegmentation(EfficientFormerV2PreTrainedModel):
    """The paper's own network (OffSeg-T, -B, -L): image → class logits at a quarter of its resolution.

    Args:
        config ([`OffSegEfficientFormerConfig`]): the architecture; the head reads all four stages, whatever
            `out_features` says.
    """

    # The loss is a mean over the batch; it must be divided by the number of accumulation steps like any other.
    accepts_loss_kwargs = False
    _no_split_modules = [*EfficientFormerV2PreTrainedModel._no_split_modules, "FreqFusion", "OffsetLearning"]

    def __init__(self, config: OffSegEfficientFormerConfig):
        super().__init__(config)
        self.backbone = EfficientFormerV2Backbone(config)
        self.decode_head = OffSegEfficientFormerDecodeHead(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, (OffsetLearning, ClassBias, LogitLayerNorm, FreqFusionConv)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    @can_return_tuple
    @filter_output_hidden_states
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> SemanticSegmenterOutput:
        """Segments a batch of images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): normalised images of
                any size; inside, zeros at the bottom and right make it a multiple of 32.
            labels (`torch.Tensor` of shape `(batch_size, label_height, label_width)`, *optional*): class ids in
                [0, `config.num_labels`), or `config.semantic_loss_ignore_index`, at any resolution.
            output_hidden_states (`bool`, *optional*): whether to return the maps of the four encoder stages, of the
                padded image.
            output_attentions (`bool`, *optional*): whether to return the encoder's attention weights, of the padded
                image.
            return_dict (`bool`, *optional*): `False` for a plain tuple.

        Returns:
            [`transformers.modeling_outputs.SemanticSegmenterOutput`]: `logits` of shape
            `(batch_size, config.num_labels, ⌈height / 4⌉, ⌈width / 4⌉)`, and `loss`, a scalar, if `labels` are given.

        Raises:
            ValueError: where `labels` are not class ids.
        """
        height, width = pixel_values.shape[2:]
        # Sizes as multiples of 32 and a crop as negative padding are what torch.export can follow for any size.
        padded = (height + 31) // 32 * 32, (width + 31) // 32 * 32
        pixel_values = F.pad(pixel_values, (0, padded[1] - width, 0, padded[0] - height))
        outputs = self.backbone(pixel_values, return_dict=True, **kwargs)
        hidden_states = outputs.hidden_states[1:]  # without the stem's
        logits, features = self.decode_head(hidden_states)
        margin = (0, (width + 3) // 4 - logits.shape[3], 0, (height + 3) // 4 - logits.shape[2])
        logits = F.pad(logits, margin)
        loss = None
        if labels is not None:
            layer, features = self.decode_head.offset_learning, F.pad(features, margin)
            loss = offset_learning_loss(layer, features, logits, labels, self.config)
        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=hidden_states, attentions=outputs.attentions
        )
