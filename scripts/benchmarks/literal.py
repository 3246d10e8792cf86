"""SegFormer with offset learning, computed step by step as the paper writes it: a slow reference to check and time by.

Nothing here is rearranged to be cheaper, so that what the package's models save can be measured, and what they compute
be checked, against the same weights.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F
from transformers import SegformerModel
from transformers.modeling_outputs import SemanticSegmenterOutput

from offseg_hf.models.modeling_offseg import OffSegForSemanticSegmentation
from offseg_hf.models.offset_learning import OffsetLearning

PLAIN_LOSS = {
    "label_smoothing": 0,
    "class_weights": None,
    "ohem_threshold": None,
    "cross_entropy_loss_weight": 1,
    "dice_loss_weight": 0,
}


def literal_offset_learning(layer: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """The logits of offset learning, with every product of the paper's section 3.2 made as it is written.

    Args:
        layer ([`OffsetLearning`]): the layer whose weights are used, and nothing else of it.
        features (`torch.Tensor` of shape `(batch_size, channels, height, width)`): the features E to classify.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_classes, height, width)`: the logits.
    """
    pixels = features.flatten(2).mT  # E, (B, N, C)
    classes = layer.cls_repr  # W, (1, K, C)
    attention = pixels @ classes.mT  # A, (B, N, K)
    class_offset = F.linear(attention.softmax(dim=1).mT @ pixels, layer.cls_offset_proj.weight)  # ΔW, (B, K, C)
    feature_offset = F.linear(attention.softmax(dim=2) @ classes, layer.feat_offset_proj.weight)  # ΔE, (B, N, C)
    logits = (pixels + feature_offset) @ (classes + class_offset).mT  # (B, N, K)
    norm = layer.mask_norm
    if hasattr(norm, "weight"):
        logits = F.layer_norm(logits, norm.weight.shape, norm.weight, norm.bias, norm.eps)
    else:
        logits = logits + norm.bias
    return logits.mT.contiguous().unflatten(2, features.shape[2:])  # (B, K, H, W)


class LiteralConvModule(nn.Module):
    """1×1 convolution without bias → BatchNorm → ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states):
        return F.relu(self.bn(self.conv(hidden_states)))


class LiteralDecodeHead(nn.Module):
    """Four stages → 1×1 each → upsampled, concatenated → 1×1 → 2×2 max-pooling → offset learning: logits, features."""

    def __init__(self, config):
        super().__init__()
        channels = config.decoder_hidden_size
        self.convs = nn.ModuleList([LiteralConvModule(width, channels) for width in config.hidden_sizes])
        self.fusion_conv = LiteralConvModule(channels * len(config.hidden_sizes), channels)
        self.offset_learning = OffsetLearning(config.num_labels, channels, config.logit_normalization)

    def forward(self, encoder_hidden_states):
        size = encoder_hidden_states[0].shape[2:]
        upsampled = [
            F.interpolate(conv(hidden_state), size=size, mode="bilinear", align_corners=False)
            for conv, hidden_state in zip(self.convs, encoder_hidden_states)
        ]
        features = F.max_pool2d(self.fusion_conv(torch.cat(upsampled, dim=1)), kernel_size=2)
        return literal_offset_learning(self.offset_learning, features), features


class LiteralOffSeg(nn.Module):
    """[`OffSegForSemanticSegmentation`] as the paper writes it: native encoder, head step by step, plain loss.

    Args:
        config ([`OffSegConfig`]): the architecture, with the plain cross-entropy as its loss.

    Raises:
        ValueError: where the configuration asks for another loss.
    """

    def __init__(self, config):
        super().__init__()
        for name, plain in PLAIN_LOSS.items():
            if getattr(config, name) != plain:
                raise ValueError(
                    f"`{name}` must be {plain} for the literal form, whose loss is the plain cross-entropy, got "
                    f"{getattr(config, name)}; set it so in the configuration."
                )
        self.config = config
        self.segformer = SegformerModel(config)
        for module in self.segformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config.layer_norm_eps
        self.decode_head = LiteralDecodeHead(config)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> SemanticSegmenterOutput:
        """Segments a batch of images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): normalised images.
            labels (`torch.Tensor` of shape `(batch_size, label_height, label_width)`, *optional*): class ids, or
                `config.semantic_loss_ignore_index`.

        Returns:
            [`transformers.modeling_outputs.SemanticSegmenterOutput`]: `logits` of shape
            `(batch_size, config.num_labels, height // 8, width // 8)` (of the height
            and width rounded up to a multiple of 4), and `loss` if `labels` are given.
        """
        hidden_states = self.segformer(pixel_values, output_hidden_states=True).hidden_states
        logits, features = self.decode_head(hidden_states)
        loss = None
        if labels is not None:
            loss = self.cross_entropy(logits, labels)
            if self.training and self.config.attention_loss_weight > 0:
                classes = self.decode_head.offset_learning.cls_repr
                attention = (features.flatten(2).mT @ classes.mT).mT.unflatten(2, features.shape[2:])  # (B, K, h, w)
                loss = loss + self.config.attention_loss_weight * self.cross_entropy(attention, labels)
        return SemanticSegmenterOutput(loss=loss, logits=logits)

    def cross_entropy(self, logits, labels):
        logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)  # (B, K, H, W)
        if self.config.num_labels == 1:  # against background
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return F.cross_entropy(logits, labels, ignore_index=self.config.semantic_loss_ignore_index)


def literal_form(model: OffSegForSemanticSegmentation) -> LiteralOffSeg:
    """A model in its literal form, which computes the same from copies of its weights as the paper writes it.

    Args:
        model ([`OffSegForSemanticSegmentation`]): the model, whose loss is the plain cross-entropy.

    Returns:
        [`LiteralOffSeg`]: on the model's device, in its dtype and mode; parameters have the model's names.

    Raises:
        ValueError: where the model's configuration asks for another loss.
    """
    with torch.device(model.device):
        literal = LiteralOffSeg(copy.deepcopy(model.config)).to(model.dtype)
    # Part by part: what a whole model writes may have the names that its files have.
    literal.segformer.load_state_dict(model.segformer.state_dict())
    literal.decode_head.load_state_dict(model.decode_head.state_dict())
    return literal.train(model.training)
