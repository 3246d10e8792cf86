"""SegNeXt (MSCAN encoder, T, S, B) with offset learning."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SemanticSegmenterOutput

from .backbone_mscan import MscanBackbone, MscanPreTrainedModel
from .configuration_offseg_segnext import OffSegSegNextConfig
from .conv_group_norm import ConvGroupNorm
from .hamburger import Hamburger, NonNegativeMatrixFactorization
from .library_internals import can_return_tuple, filter_output_hidden_states
from .offset_learning import ClassBias, LogitLayerNorm, OffsetLearning
from .segmentation_loss import offset_learning_loss
from .upsampling import upsample


class OffSegSegNextSqueeze(ConvGroupNorm):
    """Maps of stages 2, 3, 4 → upsampled to the first's size, concatenated → 1×1 convolution → GroupNorm → ReLU.

    A 1×1 convolution commutes with bilinear upsampling, so each stage's columns of the weight are applied at that
    stage's own resolution and the results are upsampled and added: the concatenation is never made.
    """

    def forward(self, hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
        size = hidden_states[0].shape[2:]
        weights = self.conv.weight.split([hidden_state.shape[1] for hidden_state in hidden_states], dim=1)
        squeezed = F.conv2d(hidden_states[0], weights[0])
        for hidden_state, weight in zip(hidden_states[1:], weights[1:]):
            squeezed = squeezed + upsample(F.conv2d(hidden_state, weight), size)
        return F.relu(self.gn(squeezed))


class OffSegSegNextDecodeHead(nn.Module):
    """Stages 2, 3, 4 → fused at stride 8 → Hamburger → 1×1 convolution → offset learning: logits and features."""

    def __init__(self, config: OffSegSegNextConfig):
        super().__init__()
        channels = config.decoder_hidden_size
        self.squeeze = OffSegSegNextSqueeze(sum(config.hidden_sizes[1:]), channels, config.num_groups)
        factorization = NonNegativeMatrixFactorization(
            channels,
            config.nmf_rank,
            train_steps=config.nmf_train_steps,
            eval_steps=config.nmf_eval_steps,
            resample_in_evaluation=config.resample_bases_in_evaluation,
        )
        self.hamburger = Hamburger(channels, config.num_groups, factorization)
        self.align = ConvGroupNorm(channels, channels, config.num_groups)
        self.offset_learning = OffsetLearning(config.num_labels, channels, config.logit_normalization)

    def forward(self, encoder_hidden_states: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.align(self.hamburger(self.squeeze(encoder_hidden_states[1:])))
        return self.offset_learning(features), features


class OffSegSegNextForSemanticSegmentation(MscanPreTrainedModel):
    """SegNeXt with offset learning: image → class logits at an eighth of its resolution.

    Args:
        config ([`OffSegSegNextConfig`]): the architecture; the head reads the stages that it needs, whatever
            `out_features` says.
    """

    # The loss is a mean over the batch; it must be divided by the number of accumulation steps like any other.
    accepts_loss_kwargs = False
    _no_split_modules = ["MscanBlock", "OffSegSegNextSqueeze", "OffsetLearning"]

    def __init__(self, config: OffSegSegNextConfig):
        super().__init__(config)
        self.backbone = MscanBackbone(config)
        self.decode_head = OffSegSegNextDecodeHead(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, (OffsetLearning, ClassBias, LogitLayerNorm)):
            module.reset_parameters()
        elif isinstance(module, NonNegativeMatrixFactorization):
            module.reset_bases()
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
                any size.
            labels (`torch.Tensor` of shape `(batch_size, label_height, label_width)`, *optional*): class ids in
                [0, `config.num_labels`), or `config.semantic_loss_ignore_index`, at any resolution.
            output_hidden_states (`bool`, *optional*): whether to return the maps of the four encoder stages.
            return_dict (`bool`, *optional*): `False` for a plain tuple.

        Returns:
            [`transformers.modeling_outputs.SemanticSegmenterOutput`]: `logits` of shape
            `(batch_size, config.num_labels, ⌈height / 8⌉, ⌈width / 8⌉)`, and `loss`, a scalar, if `labels` are given.

        Raises:
            ValueError: where `labels` are not class ids.
        """
        hidden_states = self.backbone(pixel_values, return_dict=True, **kwargs).hidden_states[1:]  # without the stem's
        logits, features = self.decode_head(hidden_states)
        loss = None
        if labels is not None:
            loss = offset_learning_loss(self.decode_head.offset_learning, features, logits, labels, self.config)
        return SemanticSegmenterOutput(loss=loss, logits=logits, hidden_states=hidden_states)
