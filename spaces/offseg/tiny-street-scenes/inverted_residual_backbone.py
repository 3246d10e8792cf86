"""What MobileNetV2 and EfficientNet share as backbones on transformers' native networks: padding, stages, loading."""

import math
import os

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from .decode_head import is_hooked
from .library_internals import can_return_tuple, filter_output_hidden_states


@torch.no_grad()
def init_weights(model: PreTrainedModel, module: nn.Module) -> None:
    """Starts a layer, of the backbone or of the native model that it is made of.

    EfficientNet's native start draws the scales of BatchNorm near 0, which leaves nothing of the image.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    else:
        PreTrainedModel._init_weights(model, module)


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that leaves alone what the convolution before it has normalised already."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        is_done = getattr(hidden_states, "normalised_by", None) is self
        return hidden_states if is_done else super().forward(hidden_states)


class FoldingConv2d(nn.Conv2d):
    """Convolution that in inference on a CPU does the [`FoldedBatchNorm2d`] behind it too, which saves a pass.

    It decides alone, and marks its output, so that whatever is put around or in the place of one of the two finds a
    plain convolution and a plain norm.
    """

    place: tuple[nn.Module, str, str] | None = None  # the layer that has both, and their names in it

    def folded_norm(self, hidden_states: torch.Tensor) -> FoldedBatchNorm2d | None:
        """The norm to do as well for an input, if any."""
        if self.place is None or torch.is_grad_enabled() or not hidden_states.is_cpu:
            return None
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return None
        layer, own_name, norm_name = self.place
        norm = getattr(layer, norm_name)
        if getattr(layer, own_name) is not self or type(norm) is not FoldedBatchNorm2d or norm.training:
            return None
        return None if is_hooked(self) or is_hooked(norm) else norm

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        norm = self.folded_norm(hidden_states)
        if norm is None:
            return self.padded_conv(hidden_states, self.weight, self.bias)
        at_least_float32 = torch.promote_types(self.weight.dtype, torch.float32)
        scale = norm.weight * torch.rsqrt(norm.running_var.to(at_least_float32) + norm.eps)
        bias = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            bias = bias + self.bias * scale
        dtype = self.weight.dtype
        weight = (self.weight * scale[:, None, None, None]).to(dtype)
        hidden_states = self.padded_conv(hidden_states, weight, bias.to(dtype))
        hidden_states.normalised_by = norm
        return hidden_states

    def padded_conv(
        self, hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """The convolution with this layer's padding and stride."""
        return F.conv2d(hidden_states, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class SamePaddedConv2d(FoldingConv2d):
    """Convolution with stride 2 and an odd kernel, padded as TensorFlow's "same": even sizes with one less before."""

    def padded_conv(
        self, hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """The convolution with padding by the size at hand."""
        height, width = hidden_states.shape[2:]
        even_y, even_x = 1 - height % 2, 1 - width % 2
        pad_y, pad_x = self.kernel_size[0] // 2, self.kernel_size[1] // 2
        if torch.compiler.is_compiling():  # exports included, whose convolutions have fixed padding
            hidden_states = F.pad(hidden_states, (pad_x - even_x, pad_x, pad_y - even_y, pad_y))
            return F.conv2d(hidden_states, weight, bias, self.stride, 0, self.dilation, self.groups)
        # With two more before, the stride's phase is that of one less, and the first row and column are to be dropped:
        # on a CPU this takes less than a padded copy.
        padding = (pad_y + even_y, pad_x + even_x)
        hidden_states = F.conv2d(hidden_states, weight, bias, self.stride, padding, self.dilation, self.groups)
        return hidden_states[:, :, even_y:, even_x:]


class InvertedResidualBackbone(BackboneMixin):
    """The mixin of both backbones: image → maps of the stages that the configuration's `out_features` names.

    Args:
        config ([`transformers.PreTrainedConfig`]): the architecture; a native configuration is read as the backbone's.

    Raises:
        ValueError: where `config` is of another model.
    """

    has_attentions = False

    def __init__(self, config: PreTrainedConfig):
        # Not by class: a repository's code may be loaded twice, as two modules.
        if config.model_type != self.config_class.model_type:
            config = self.config_class.from_native(config)
        super().__init__(config)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args,
        config: PreTrainedConfig | str | os.PathLike | None = None,
        **kwargs,
    ) -> PreTrainedModel:
        """Loads a backbone, or that of a native model, whose last layers and classifier are left out."""
        if isinstance(config, PreTrainedConfig) and config.model_type != cls.config_class.model_type:
            # What AutoBackbone made of a native model's file, before it knew of fields that only the backbone has.
            fields = {name: kwargs.pop(name) for name in ("out_features", "out_indices") if name in kwargs}
            config = cls.config_class.from_native(config, **fields)
        return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)

    def layers(self) -> tuple[nn.Module, nn.ModuleList]:
        """All before the blocks, at half the image's resolution, and the blocks."""
        raise NotImplementedError

    def set_up(self, stage_ends: list[int], tf_padding: bool) -> None:
        """Fits the native layers to any image size, and notes the stages' channels.

        Args:
            stage_ends (`list[int]`): after how many blocks the stem and each stage end.
            tf_padding (`bool`): how convolutions with stride 2 are padded.
        """
        first, blocks = self.layers()
        self.stage_ends = stage_ends
        ends = [blocks[end - 1] if end else first for end in stage_ends]
        self.num_features = [_children(nn.BatchNorm2d, end)[-1].num_features for end in ends]
        for norm in _children(nn.BatchNorm2d, self):
            norm.momentum = self.config.batch_norm_momentum
            norm.__class__ = FoldedBatchNorm2d
        for activation in _children((nn.ReLU6, nn.SiLU), self):
            activation.inplace = True  # of a BatchNorm's or a convolution's output, which nothing else reads
        for layer in list(self.modules()):
            conv, conv_name = None, ""
            for name, child in list(layer.named_children()):
                if isinstance(child, nn.ZeroPad2d):  # for even sizes alone
                    setattr(layer, name, nn.Identity())
                elif isinstance(child, nn.Conv2d):
                    conv, conv_name = _padded(child, tf_padding), name
                elif isinstance(child, nn.BatchNorm2d):
                    conv.place = (layer, conv_name, name)

    def _init_weights(self, module):
        init_weights(self, module)

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BackboneOutput:
        """Encodes a batch of images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): normalised images of
                any size.
            output_hidden_states (`bool`, *optional*): whether to return the maps of the stem and of all four stages.
            return_dict (`bool`, *optional*): `False` for a plain tuple.

        Returns:
            [`transformers.modeling_outputs.BackboneOutput`]: `feature_maps`, one per entry of `out_features`, at half
            the image's resolution ("stem"), a quarter ("stage1"), an eighth, a sixteenth and a thirty-second, each
            halving rounded up.
        """
        first, blocks = self.layers()
        # On a CPU this layout is the faster one in depth-wise convolutions.
        hidden_state = first(pixel_values.contiguous(memory_format=torch.channels_last))
        hidden_states, start = [], 0
        for end in self.stage_ends:
            for block in blocks[start:end]:
                hidden_state = block(hidden_state)
            hidden_states.append(hidden_state)
            start = end
        feature_maps = tuple(
            hidden_state for name, hidden_state in zip(self.stage_names, hidden_states) if name in self.out_features
        )
        return BackboneOutput(feature_maps=feature_maps, hidden_states=tuple(hidden_states))


def _children(kind, module):
    return [child for child in module.modules() if isinstance(child, kind)]


def _padded(conv, tf_padding):
    """The convolution with its padding in numbers, which exports want, or one that pads by the size at hand."""
    if conv.stride == (1, 1) or not tf_padding:
        conv.padding = tuple(dilation * (size // 2) for dilation, size in zip(conv.dilation, conv.kernel_size))
        conv.__class__ = FoldingConv2d
    else:
        conv.padding = (0, 0)
        conv.__class__ = SamePaddedConv2d
    return conv
