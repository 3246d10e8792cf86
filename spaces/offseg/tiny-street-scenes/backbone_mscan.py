"""MSCAN, the convolutional encoder of SegNeXt (arXiv 2209.08575)."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from .configuration_offseg_segnext import OffSegSegNextConfig
from .drop_path import DropPath
from .library_internals import GradientCheckpointingLayer, can_return_tuple, filter_output_hidden_states


def strided_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)


def depthwise_conv(channels: int, height: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, (height, width), padding=(height // 2, width // 2), groups=channels)


class MscanGate(nn.Module):
    """Input × 1×1 convolution of (5×5 of the input, plus three pairs of strips of that)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv0 = depthwise_conv(channels, 5, 5)
        self.conv0_1 = depthwise_conv(channels, 1, 7)
        self.conv0_2 = depthwise_conv(channels, 7, 1)
        self.conv1_1 = depthwise_conv(channels, 1, 11)
        self.conv1_2 = depthwise_conv(channels, 11, 1)
        self.conv2_1 = depthwise_conv(channels, 1, 21)
        self.conv2_2 = depthwise_conv(channels, 21, 1)
        self.conv3 = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        local = self.conv0(hidden_states)
        multi_scale = local + self.conv0_2(self.conv0_1(local))
        multi_scale = multi_scale + self.conv1_2(self.conv1_1(local))
        multi_scale = multi_scale + self.conv2_2(self.conv2_1(local))
        return hidden_states * self.conv3(multi_scale)


# Attention and MLP are checkpointed and not the block, whose BatchNorms would else see each batch twice.
class MscanAttention(GradientCheckpointingLayer):
    """1×1 convolution → GELU → gate → 1×1 convolution → plus input."""

    def __init__(self, channels: int):
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, kernel_size=1)
        self.spatial_gating_unit = MscanGate(channels)
        self.proj_2 = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gated = self.spatial_gating_unit(F.gelu(self.proj_1(hidden_states)))
        return self.proj_2(gated) + hidden_states


class MscanMlp(GradientCheckpointingLayer):
    """1×1 convolution → depth-wise 3×3 → GELU → 1×1 convolution."""

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden_channels, kernel_size=1)
        self.dwconv = depthwise_conv(hidden_channels, 3, 3)
        self.fc2 = nn.Conv2d(hidden_channels, channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(hidden_states))))


class MscanBlock(nn.Module):
    """BatchNorm → attention → scale → drop path → plus input; the same with the MLP."""

    def __init__(self, config: OffSegSegNextConfig, stage: int, drop_path_rate: float):
        super().__init__()
        channels = config.hidden_sizes[stage]
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = MscanAttention(channels)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), config.layer_scale_init_value))
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = MscanMlp(channels, config.mlp_ratios[stage] * channels)
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), config.layer_scale_init_value))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        attended = self.layer_scale_1[:, None, None] * self.attn(self.norm1(hidden_states))
        hidden_states = hidden_states + self.drop_path(attended)
        mixed = self.layer_scale_2[:, None, None] * self.mlp(self.norm2(hidden_states))
        return hidden_states + self.drop_path(mixed)


class MscanStage(nn.Module):
    """Patch embedding, at half the resolution (stage 1: a quarter) → blocks → LayerNorm."""

    def __init__(self, config: OffSegSegNextConfig, stage: int, drop_path_rates: list[float]):
        super().__init__()
        channels = config.hidden_sizes[stage]
        if stage == 0:
            self.patch_embed = nn.Sequential(
                strided_conv(config.num_channels, channels // 2),
                nn.BatchNorm2d(channels // 2),
                nn.GELU(),
                strided_conv(channels // 2, channels),
                nn.BatchNorm2d(channels),
            )
        else:
            self.patch_embed = nn.Sequential(
                strided_conv(config.hidden_sizes[stage - 1], channels), nn.BatchNorm2d(channels)
            )
        self.blocks = nn.ModuleList([MscanBlock(config, stage, rate) for rate in drop_path_rates])
        self.norm = nn.LayerNorm(channels)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings = self.patch_embed(hidden_states)
        hidden_states = embeddings
        for block in self.blocks:
            hidden_states = block(hidden_states)
        hidden_states = self.norm(hidden_states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, C, H, W)
        return hidden_states, embeddings


class MscanPreTrainedModel(PreTrainedModel):
    """What every model with an MSCAN encoder has: how weights start, and how files are loaded."""

    config: OffSegSegNextConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["MscanBlock"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, MscanBlock):
            nn.init.constant_(module.layer_scale_1, self.config.layer_scale_init_value)
            nn.init.constant_(module.layer_scale_2, self.config.layer_scale_init_value)
        else:
            super()._init_weights(module)


class MscanBackbone(BackboneMixin, MscanPreTrainedModel):
    """MSCAN as a backbone: image → maps of the stages that the configuration's `out_features` names.

    Args:
        config ([`OffSegSegNextConfig`]): the architecture; the fields of the decode head are not used.
    """

    has_attentions = False

    def __init__(self, config: OffSegSegNextConfig):
        super().__init__(config)
        self.num_features = [config.hidden_sizes[0], *config.hidden_sizes]
        num_blocks = sum(config.depths)
        rates = iter([config.drop_path_rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)])
        self.stages = nn.ModuleList(
            [
                MscanStage(config, stage, [next(rates) for _ in range(depth)])
                for stage, depth in enumerate(config.depths)
            ]
        )
        self.post_init()

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
            [`transformers.modeling_outputs.BackboneOutput`]: `feature_maps`, one per entry of `out_features`, at a
            quarter of the image's resolution ("stem", "stage1"), an eighth, a sixteenth and a thirty-second, each
            halving rounded up.
        """
        hidden_states: list[torch.Tensor] = []
        # LayerNorm leaves its results in this layout; in a CPU's depth-wise convolutions it is the faster one as well.
        hidden_state = pixel_values.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            hidden_state, embeddings = stage(hidden_state)
            hidden_states += [hidden_state] if hidden_states else [embeddings, hidden_state]
        feature_maps = tuple(
            hidden_state for name, hidden_state in zip(self.stage_names, hidden_states) if name in self.out_features
        )
        return BackboneOutput(feature_maps=feature_maps, hidden_states=tuple(hidden_states))
