"""SegFormer (MiT encoder, B0–B5) with offset learning."""

import torch
from torch import nn
from transformers import SegformerModel, SegformerPreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput

from .channels_last_segformer import keep_channels_last
from .checkpoint_entries import rename_checkpoint_entries
from .configuration_offseg import OffSegConfig
from .decode_head import OffSegDecodeHead, in_parts_of_the_batch
from .library_internals import can_return_tuple, filter_output_hidden_states, install_capturing_hooks
from .offset_learning import ClassBias, LogitLayerNorm, OffsetLearning
from .segmentation_loss import offset_learning_loss
from .small_images import LEAST_SIDE, crop_logits, pad_small_images


class OffSegForSemanticSegmentation(SegformerPreTrainedModel):
    """SegFormer with offset learning: image → class logits at an eighth of its resolution.

    The encoder is the native [`transformers.SegformerModel`], with the LayerNorm eps of the configuration and with
    maps that stay channels-last ([`~channels_last_segformer.keep_channels_last`]). Files are
    written under the names that SegFormer checkpoints have on the Hub, and read under those or the current ones.

    Args:
        config ([`OffSegConfig`]): the architecture.
    """

    config: OffSegConfig
    # Not "segformer": the library would then apply the encoder's renaming of checkpoint entries to the head too.
    base_model_prefix = "offseg"
    # The loss is a mean over the batch; it must be divided by the number of accumulation steps like any other.
    accepts_loss_kwargs = False
    _no_split_modules = ["ChannelsLastStage", "SegformerStage", "OffSegFusion", "OffsetLearning"]
    # The heads of SegFormer checkpoints (ImageNet classifier, all-MLP decoder), which OffSeg replaces.
    _keys_to_ignore_on_load_unexpected = [
        r"^classifier\.",
        r"^decode_head\.(linear_c|linear_projections|linear_fuse|batch_norm|classifier)\.",
    ]

    def __init__(self, config: OffSegConfig):
        super().__init__(config)
        self.segformer = SegformerModel(config)
        keep_channels_last(self.segformer)
        install_capturing_hooks(self.segformer)
        for module in self.segformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config.layer_norm_eps  # the native modules keep torch's default
        self.decode_head = OffSegDecodeHead(config)
        self.register_load_state_dict_pre_hook(rename_checkpoint_entries)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, (OffsetLearning, ClassBias, LogitLayerNorm)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    @in_parts_of_the_batch
    @can_return_tuple
    @filter_output_hidden_states
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> SemanticSegmenterOutput:
        """Segments a batch of images; on a CPU without gradients, a few of them at a time.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): normalised images of
                any size; with `labels` from 32×32 pixels up, while smaller ones without are padded for the encoder.
            labels (`torch.Tensor` of shape `(batch_size, label_height, label_width)`, *optional*): class ids in
                [0, `config.num_labels`), or `config.semantic_loss_ignore_index`, at any resolution.
            output_hidden_states (`bool`, *optional*): whether to return the maps of the four encoder stages.
            output_attentions (`bool`, *optional*): whether to return the encoder's attention weights; needs
                `attn_implementation="eager"`.
            return_dict (`bool`, *optional*): `False` for a plain tuple.

        Returns:
            [`transformers.modeling_outputs.SemanticSegmenterOutput`]: `logits` of shape
            `(batch_size, config.num_labels, height // 8, width // 8)` (of the height and width rounded up to a
            multiple of 4, at least 1), and `loss`, a scalar, if `labels` are given.

        Raises:
            ValueError: where the image is too small, or `labels` are not class ids.
        """
        size = tuple(pixel_values.shape[2:])
        is_small = min(size) < LEAST_SIDE
        if is_small and labels is not None:
            raise ValueError(
                f"`pixel_values` must be at least {LEAST_SIDE} pixels high and wide to train on, got {size}; resize "
                "or pad the image."
            )
        if is_small:
            pixel_values = pad_small_images(pixel_values)
        outputs = self.segformer(pixel_values, return_dict=True, **kwargs)
        logits, features = self.decode_head(outputs.hidden_states)
        if is_small:
            logits = crop_logits(logits, size, tuple(pixel_values.shape[2:]))
        loss = None
        if labels is not None:
            loss = offset_learning_loss(self.decode_head.offset_learning, features, logits, labels, self.config)
        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
