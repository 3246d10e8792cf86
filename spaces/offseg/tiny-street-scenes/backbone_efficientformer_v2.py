"""EfficientFormerV2 (arXiv 2212.08059), the encoder of the paper's own network."""

from typing import Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from .configuration_offseg_efficientformer import OffSegEfficientFormerConfig
from .drop_path import DropPath
from .library_internals import GradientCheckpointingLayer, capture_outputs


def conv(in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups)


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(conv(in_channels, out_channels, kernel_size, stride, groups), nn.BatchNorm2d(out_channels))


def doubling(pixels: torch.Tensor) -> torch.Tensor:
    """Positions 0 … n - 1 → the matrix (2n, n) that doubles a row of pixels, bilinear."""
    positions = torch.stack([pixels - 0.25, pixels + 0.25], dim=1).flatten().clamp(pixels[0], pixels[-1])
    return (1 - (positions[:, None] - pixels).abs()).clamp(min=0)


def upsample_twice(hidden_states: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) → (B, C, 2h, 2w), bilinear."""
    # As products: for many channels of few pixels, several times as fast on a CPU as interpolating.
    rows, columns = (
        doubling(torch.arange(size, device=hidden_states.device)).to(hidden_states.dtype)
        for size in hidden_states.shape[2:]
    )
    return (hidden_states.mT @ rows.T).mT @ columns.T  # matrices on the right are what torch.export can follow


class EfficientFormerV2Attention(nn.Module):
    """What both attentions share: keys, values, a bias for each distance, and values of the neighbourhood on top."""

    def __init__(
        self,
        config: OffSegEfficientFormerConfig,
        in_channels: int,
        out_channels: int,
        key_dim: int,
        value_dim: int,
        grid_size: int,
        query_stride: int,
    ):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.scale = key_dim**-0.5
        self.grid_size = grid_size  # side of the grid of keys for which biases are learned
        self.query_stride = query_stride  # queries are at every `query_stride`-th key
        values = self.num_heads * value_dim
        self.k = conv_norm(in_channels, self.num_heads * key_dim)
        self.v = conv_norm(in_channels, values)
        self.v_local = conv_norm(values, values, kernel_size=3, stride=query_stride, groups=values)
        self.attention_biases = nn.Parameter(torch.zeros(self.num_heads, grid_size**2))
        self.proj = nn.Sequential(nn.GELU(), *conv_norm(values, out_channels))

    def scores(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        queries, keys = self.split_heads(queries), self.split_heads(keys)
        return (queries * self.scale).mT @ keys + self.biases(queries.shape[3], keys.shape[3])  # (B, heads, Nq, Nk)

    def attend(self, attention: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        local = self.v_local(values)
        return (self.split_heads(values) @ attention.mT).reshape(local.shape) + local

    def split_heads(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states.flatten(2).unflatten(1, (self.num_heads, -1))  # (B, heads, C/heads, H*W)

    def biases(self, num_queries: int, num_keys: int) -> torch.Tensor:
        """Bias of each query and key (heads, Nq, Nk), by their distances |Δy| and |Δx|."""
        keys = torch.arange(self.grid_size, device=self.attention_biases.device)
        distances = (keys[:: self.query_stride, None] - keys).abs()  # (queries, keys) along an axis
        # (queries' rows, queries' columns, keys' rows, keys' columns)
        entries = distances[:, None, :, None] * self.grid_size + distances[None, :, None, :]
        biases = self.attention_biases.index_select(1, entries.flatten()).unflatten(1, (len(distances) ** 2, -1))
        # For other sizes the matrix is resized as if it were an image. At the same size that changes nothing, so an
        # exported program, which may take any size, need not decide.
        if torch.compiler.is_exporting() or biases.shape[1:] != (num_queries, num_keys):
            biases = F.interpolate(biases[None], size=(num_queries, num_keys), mode="bicubic")[0]
        return biases


class EfficientFormerV2SelfAttention(EfficientFormerV2Attention):
    """Attention with its scores mixed across heads before and after the softmax, in stage 3 at half the resolution."""

    def __init__(self, config: OffSegEfficientFormerConfig, channels: int, is_halved: bool):
        super().__init__(
            config,
            channels,
            channels,
            config.key_dim,
            config.value_dim,
            grid_size=config.attention_grid_size,
            query_stride=1,
        )
        self.stride_conv = (
            conv_norm(channels, channels, kernel_size=3, stride=2, groups=channels) if is_halved else None
        )
        self.q = conv_norm(channels, self.num_heads * config.key_dim)
        self.talking_head1 = nn.Conv2d(self.num_heads, self.num_heads, kernel_size=1)
        self.talking_head2 = nn.Conv2d(self.num_heads, self.num_heads, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = hidden_states.shape[2:]
        if self.stride_conv is not None:
            hidden_states = self.stride_conv(hidden_states)
        attention = self.talking_head1(self.scores(self.q(hidden_states), self.k(hidden_states))).softmax(dim=-1)
        attended = self.attend(self.talking_head2(attention), self.v(hidden_states))
        if self.stride_conv is not None:
            attended = upsample_twice(attended)[:, :, :height, :width]  # one too many where the size was odd
        return self.proj(attended), attention


class EfficientFormerV2DownsampleQuery(nn.Module):
    """Depth-wise convolution of stride 2, plus every second pixel → 1×1 convolution → BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.local = nn.Sequential(conv(in_channels, in_channels, kernel_size=3, stride=2, groups=in_channels))
        self.proj = conv_norm(in_channels, out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.proj(self.local(hidden_states) + hidden_states[:, :, ::2, ::2])


class EfficientFormerV2DownsampleAttention(EfficientFormerV2Attention):
    """Attention from every second pixel to all."""

    def __init__(self, config: OffSegEfficientFormerConfig, in_channels: int, out_channels: int):
        super().__init__(
            config,
            in_channels,
            out_channels,
            config.downsample_key_dim,
            config.downsample_value_dim,
            grid_size=2 * config.attention_grid_size,
            query_stride=2,
        )
        self.q = EfficientFormerV2DownsampleQuery(in_channels, self.num_heads * config.downsample_key_dim)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attention = self.scores(self.q(hidden_states), self.k(hidden_states)).softmax(dim=-1)
        return self.proj(self.attend(attention, self.v(hidden_states))), attention


class EfficientFormerV2Mlp(nn.Module):
    """1×1 convolution → BatchNorm → GELU → depth-wise 3×3 → BatchNorm → GELU → 1×1 → BatchNorm."""

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.fc1 = conv(channels, hidden_channels)
        self.norm1 = nn.BatchNorm2d(hidden_channels)
        self.mid = conv(hidden_channels, hidden_channels, kernel_size=3, groups=hidden_channels)
        self.mid_norm = nn.BatchNorm2d(hidden_channels)
        self.fc2 = conv(hidden_channels, channels)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = F.gelu(self.norm1(self.fc1(hidden_states)))
        hidden_states = F.gelu(self.mid_norm(self.mid(hidden_states)))
        return self.norm2(self.fc2(hidden_states))


class EfficientFormerV2Block(GradientCheckpointingLayer):
    """Attention, in the blocks that have it → scale → drop path → plus input; the same with the MLP."""

    def __init__(
        self, config: OffSegEfficientFormerConfig, stage: int, mlp_ratio: int, drop_path_rate: float, attends: bool
    ):
        super().__init__()
        channels = config.hidden_sizes[stage]
        self.token_mixer = None
        if attends:
            self.token_mixer = EfficientFormerV2SelfAttention(config, channels, is_halved=stage == 2)
            self.layer_scale_1 = nn.Parameter(torch.full((channels, 1, 1), config.layer_scale_init_value))
        self.mlp = EfficientFormerV2Mlp(channels, mlp_ratio * channels)
        self.layer_scale_2 = nn.Parameter(torch.full((channels, 1, 1), config.layer_scale_init_value))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.token_mixer is not None:
            attended, _ = self.token_mixer(hidden_states)
            hidden_states = hidden_states + self.drop_path(self.layer_scale_1 * attended)
        return hidden_states + self.drop_path(self.layer_scale_2 * self.mlp(hidden_states))


class EfficientFormerV2Downsample(nn.Module):
    """3×3 convolution of stride 2 → BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = conv(in_channels, out_channels, kernel_size=3, stride=2)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(hidden_states))


class EfficientFormerV2AttentionDownsample(nn.Module):
    """Attention to half the resolution, plus 3×3 convolution of stride 2 → BatchNorm."""

    def __init__(self, config: OffSegEfficientFormerConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.attn = EfficientFormerV2DownsampleAttention(config, in_channels, out_channels)
        self.conv = conv(in_channels, out_channels, kernel_size=3, stride=2)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        attended, _ = self.attn(hidden_states)
        return attended + self.bn(self.conv(hidden_states))


class EfficientFormerV2Stage(nn.Module):
    """Down-sampling, but in stage 1 → blocks, of which in stages 3 and 4 the last have attention."""

    def __init__(self, config: OffSegEfficientFormerConfig, stage: int, drop_path_rates: list[float]):
        super().__init__()
        in_channels, channels = config.hidden_sizes[max(stage - 1, 0)], config.hidden_sizes[stage]
        if stage == 0:
            self.downsample = nn.Identity()
        elif stage == 3:
            self.downsample = EfficientFormerV2AttentionDownsample(config, in_channels, channels)
        else:
            self.downsample = EfficientFormerV2Downsample(in_channels, channels)
        num_without = config.depths[stage] - (config.num_attention_blocks if stage >= 2 else 0)
        ratios_and_rates = zip(config.mlp_ratios[stage], drop_path_rates)
        self.blocks = nn.ModuleList(
            [
                EfficientFormerV2Block(config, stage, ratio, rate, attends=i >= num_without)
                for i, (ratio, rate) in enumerate(ratios_and_rates)
            ]
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.downsample(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


class EfficientFormerV2PreTrainedModel(PreTrainedModel):
    """What every model with an EfficientFormerV2 encoder has: how weights start, and how files are loaded."""

    config: OffSegEfficientFormerConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["EfficientFormerV2Block", "EfficientFormerV2AttentionDownsample"]
    _can_record_outputs = {"hidden_states": EfficientFormerV2Stage, "attentions": EfficientFormerV2Attention}

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # frozen statistics normalise nothing in a new encoder
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, EfficientFormerV2Attention):
            nn.init.zeros_(module.attention_biases)
        elif isinstance(module, EfficientFormerV2Block):
            nn.init.constant_(module.layer_scale_2, self.config.layer_scale_init_value)
            if module.token_mixer is not None:
                nn.init.constant_(module.layer_scale_1, self.config.layer_scale_init_value)
        else:
            super()._init_weights(module)


class EfficientFormerV2Backbone(BackboneMixin, EfficientFormerV2PreTrainedModel):
    """EfficientFormerV2 as a backbone: image → maps of the stages that the configuration's `out_features` names.

    Args:
        config ([`OffSegEfficientFormerConfig`]): the architecture; the fields of neck and decode head are not used.
    """

    def __init__(self, config: OffSegEfficientFormerConfig):
        super().__init__(config)
        channels = config.hidden_sizes[0]
        self.num_features = [channels, *config.hidden_sizes]
        self.stem = nn.Sequential(
            *conv_norm(config.num_channels, channels // 2, kernel_size=3, stride=2),
            nn.GELU(),
            *conv_norm(channels // 2, channels, kernel_size=3, stride=2),
            nn.GELU(),
        )
        num_blocks = sum(config.depths)
        rates = iter([config.drop_path_rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)])
        self.stages = nn.ModuleList(
            [
                EfficientFormerV2Stage(config, stage, [next(rates) for _ in range(depth)])
                for stage, depth in enumerate(config.depths)
            ]
        )
        self.post_init()
        self.train()  # modules start in training mode, frozen BatchNorms must not

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode, in both of which `config.freeze_batch_norm` keeps every BatchNorm in
        evaluation mode.

        Args:
            mode (`bool`, *optional*, defaults to `True`): whether to train.

        Returns:
            [`EfficientFormerV2Backbone`]: itself.
        """
        super().train(mode)
        if self.config.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                    module.eval()
        return self

    @capture_outputs
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BackboneOutput:
        """Encodes a batch of images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): normalised images of
                any size.
            output_hidden_states (`bool`, *optional*): whether to return the maps of the stem and of all four stages.
            output_attentions (`bool`, *optional*): whether to return the attention weights after the softmax, each of
                shape `(batch_size, num_attention_heads, num_queries, num_keys)`, in the order of the layers.
            return_dict (`bool`, *optional*): `False` for a plain tuple.

        Returns:
            [`transformers.modeling_outputs.BackboneOutput`]: `feature_maps`, one per entry of `out_features`, at a
            quarter of the image's resolution ("stem", "stage1"), an eighth, a sixteenth and a thirty-second, each
            halving rounded up.
        """
        feature_maps = {"stem": self.stem(pixel_values)}
        hidden_state = feature_maps["stem"]
        for name, stage in zip(self.stage_names[1:], self.stages):
            hidden_state = feature_maps[name] = stage(hidden_state)
        return BackboneOutput(feature_maps=tuple(feature_maps[name] for name in self.out_features))
