"""The decode head of OffSeg-B0: feature maps of several strides → logits, by offset learning."""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .offset_learning import OffsetLearning
from .upsampling import upsample

# What should stay in a CPU's cache:
PART_SIZE = 2**18  # pixels of the images that are segmented at once,
STRIP_SIZE = 2**19  # values of a strip of the largest maps.


def is_hooked(module: nn.Module) -> bool:
    """Whether something happens at a call that the class does not know of; also where torch no longer tells."""
    hooks = (getattr(module, name, True) for name in ("_forward_hooks", "_forward_pre_hooks"))
    return any(hooks) or "forward" in vars(module)


class OffSegConvModule(nn.Module):
    """1×1 convolution without bias → BatchNorm → ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(hidden_states)))

    def is_linear(self) -> bool:
        """Whether convolution and BatchNorm are one linear layer: in evaluation, unless replaced or hooked."""
        if type(self.conv) is not nn.Conv2d or type(self.bn) is not nn.BatchNorm2d or self.bn.training:
            return False
        return not any(map(is_hooked, (self, self.conv, self.bn)))

    def as_linear(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The weight (out_channels, in_channels) and bias of that layer."""
        dtype = self.conv.weight.dtype
        at_least_float32 = torch.promote_types(dtype, torch.float32)
        scale = self.bn.weight * torch.rsqrt(self.bn.running_var.to(at_least_float32) + self.bn.eps)
        weight = self.conv.weight.flatten(1) * scale[:, None]
        return weight.to(dtype), (self.bn.bias - self.bn.running_mean * scale).to(dtype)


class OffSegFusion(OffSegConvModule):
    """Maps of all stages → upsampled to the first's size, concatenated → 1×1 convolution → BatchNorm → pool → ReLU.

    The pooling is left out where the first's resolution is already that of the logits.

    A 1×1 convolution commutes with bilinear upsampling, so each stage's columns of the weight are applied at that
    stage's own resolution and the results are upsampled and added: the concatenation is never made. ReLU commutes with
    the 2×2 max-pooling, after which a quarter of the values is left.
    """

    def __init__(self, in_channels: int, out_channels: int, pools: bool = True):
        super().__init__(in_channels, out_channels)
        self.pools = pools

    def forward(self, hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
        size = hidden_states[0].shape[2:]
        weights = self.conv.weight.chunk(len(hidden_states), dim=1)
        fused = F.conv2d(hidden_states[0], weights[0])
        for hidden_state, weight in zip(hidden_states[1:], weights[1:]):
            fused = fused + upsample(F.conv2d(hidden_state, weight), size)
        fused = self.bn(fused)
        return F.relu(F.max_pool2d(fused, kernel_size=2) if self.pools else fused)


class OffSegDecodeHead(nn.Module):
    """Stages → 1×1 each → fusion at the first's stride, pooled from 4 to 8 → offset learning: logits and features.

    Args:
        config ([`transformers.PreTrainedConfig`]): with `decoder_hidden_size`, `num_labels` and
            `logit_normalization`.
        hidden_sizes (`Sequence[int]`, *optional*): channels of the stages; the configuration's if left out.
        pools (`bool`, *optional*, defaults to `True`): whether the fused map is pooled to half its resolution.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        hidden_sizes: Sequence[int] | None = None,
        pools: bool = True,
    ):
        super().__init__()
        channels = config.decoder_hidden_size
        hidden_sizes = config.hidden_sizes if hidden_sizes is None else hidden_sizes
        self.convs = nn.ModuleList([OffSegConvModule(width, channels) for width in hidden_sizes])
        self.fusion_conv = OffSegFusion(channels * len(hidden_sizes), channels, pools)
        self.offset_learning = OffsetLearning(config.num_labels, channels, config.logit_normalization)

    def forward(self, encoder_hidden_states: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if self.fusion_conv.pools and self.is_for_inference_on(encoder_hidden_states[0]):
            features = self._features_by_strips(encoder_hidden_states)
        else:
            features = self.fusion_conv([conv(stage) for conv, stage in zip(self.convs, encoder_hidden_states)])
        return self.offset_learning(features), features

    def is_for_inference_on(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor is on a CPU and nothing is trained or compiled, so that memory traffic can be saved."""
        if torch.is_grad_enabled() or not tensor.is_cpu or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        return all(module.is_linear() for module in (*self.convs, self.fusion_conv))

    def _features_by_strips(self, encoder_hidden_states):
        """The features before offset learning, the largest maps, at stride 4, a few rows at a time."""
        weights, bias = self.fusion_conv.as_linear()
        weights = weights.chunk(len(self.convs), dim=1)
        layers = [conv.as_linear() for conv in self.convs]
        first, *coarser = (hidden_state.permute(0, 2, 3, 1) for hidden_state in encoder_hidden_states)  # (B, h, w, C)
        batch_size, height, width, _ = first.shape
        channels = len(bias)

        # Of the coarser stages: every pixel's share in a strip, across and down; it is added up by matrix products.
        maps, shares = [], []
        for hidden_states, layer, weight in zip(coarser, layers[1:], weights[1:]):
            hidden_states = F.linear(F.relu_(F.linear(hidden_states, *layer)), weight).permute(0, 3, 1, 2)
            old_height = hidden_states.shape[2]
            hidden_states = upsample(hidden_states, (old_height, width)).permute(0, 2, 3, 1)
            maps.append(hidden_states.reshape(batch_size, old_height, width * channels))
            at_least_float32 = torch.promote_types(first.dtype, torch.float32)
            identity = torch.eye(old_height, dtype=at_least_float32, device=first.device)
            shares.append(F.interpolate(identity[None], size=height, mode="linear")[0].T)  # (H, h)

        num_rows = max(1, STRIP_SIZE // max(1, 2 * batch_size * width * channels))  # of the result
        features = []
        for top in range(0, height - 1, 2 * num_rows):
            ends = top, min(top + 2 * num_rows, height // 2 * 2) - 1
            rows = slice(ends[0], ends[1] + 1)
            strip = F.linear(F.relu_(F.linear(first[:, rows], *layers[0])), weights[0])  # (B, rows, W, C)
            sums = strip.view(batch_size, -1, width * channels)
            for hidden_states, share in zip(maps, shares):
                # Row i comes from row (i + 1/2) h/H − 1/2 and the next.
                upper = [max((2 * row + 1) * share.shape[1] - height, 0) // (2 * height) for row in ends]
                used = slice(upper[0], upper[1] + 2)
                share = share[rows, used].to(sums.dtype).expand(batch_size, -1, -1)
                sums.baddbmm_(share, hidden_states[:, used].to(sums.dtype))
            # The bias and ReLU come after the maximum, of which they change nothing but its value.
            features.append(F.max_pool2d(strip.permute(0, 3, 1, 2), kernel_size=2))
        return F.relu_(torch.cat(features, dim=2).add_(bias[:, None, None]))


def in_parts_of_the_batch(forward: Callable) -> Callable:
    """Lets a forward method take a few images at a time where, on a CPU, they then stay in the cache."""

    @functools.wraps(forward)
    def wrapper(self, pixel_values, labels=None, **kwargs):
        if labels is not None or not self.decode_head.is_for_inference_on(pixel_values):
            return forward(self, pixel_values, labels, **kwargs)
        num_images = max(1, PART_SIZE // max(1, math.prod(pixel_values.shape[2:])))
        parts = [forward(self, part, **kwargs) for part in pixel_values.split(num_images)]
        return parts[0] if len(parts) == 1 else _concatenated(parts)

    return wrapper


def _concatenated(parts):
    """Outputs of parts of a batch → those of the batch: tensors, or mappings and tuples of them."""
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return type(first)(**{name: _concatenated([part[name] for part in parts]) for name in first})
    return tuple(map(_concatenated, zip(*parts)))
