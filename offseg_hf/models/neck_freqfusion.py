"""FreqFusion, in which a coarse feature map meets one of twice its size.

"Frequency-aware Feature Fusion for Dense Image Prediction" (arXiv 2408.12879). Both maps decide together how the
coarse one is upsampled and how the fine one is sharpened, with kernels of their own for every pixel; then the coarse
one is sampled anew, at positions that bring pixels of one object together. Only torch is needed here.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

NUM_RESAMPLED_GROUPS = 4


def reassemble(features: torch.Tensor, kernels: torch.Tensor, scale: int = 1) -> torch.Tensor:
    """Sums up the neighbourhood of every pixel with weights of its own (CARAFE, arXiv 1905.02188).

    One multiply-add over the whole map for each of the kernel's entries: the neighbourhoods are never copied out.

    Args:
        features (`torch.Tensor` of shape `(batch_size, channels, height, width)`): what is summed up; 0 outside.
        kernels (`torch.Tensor` of shape `(batch_size, size * size, scale * height, scale * width)`): for each output
            pixel (i, j), the weights of the size × size neighbours of pixel (i // scale, j // scale), row by row.
        scale (`int`, *optional*, defaults to 1): size of the output over that of `features`.

    Returns:
        `torch.Tensor` of shape `(batch_size, channels, scale * height, scale * width)`: in the dtype of `features`.
    """
    size = math.isqrt(kernels.shape[1])
    height, width = kernels.shape[2:]
    padded = F.pad(features, [size // 2] * 4)
    if scale > 1:
        padded = F.interpolate(padded, scale_factor=scale, mode="nearest")
    outputs = features.new_zeros(*features.shape[:2], height, width)
    weights = iter(kernels.to(features.dtype)[:, None].unbind(2))  # (B, 1, H, W) each
    for i in range(size):
        rows = padded[:, :, scale * i : scale * i + height]
        for j in range(size):
            outputs.addcmul_(rows[:, :, :, scale * j : scale * j + width], next(weights))
    return outputs


def neighbour_similarity(features: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of every pixel with the 8 around it at a distance of 2.

    Args:
        features (`torch.Tensor` of shape `(batch_size, channels, height, width)`): what is compared.

    Returns:
        `torch.Tensor` of shape `(batch_size, 8, height, width)`: in [-1, 1], row by row, 0 for neighbours outside; in
        the dtype of `features`.
    """
    height, width = features.shape[2:]
    directions = features.to(torch.promote_types(features.dtype, torch.float32))
    directions = directions * directions.square().sum(dim=1, keepdim=True).clamp(min=1e-16).rsqrt()
    padded = F.pad(directions, [2] * 4)
    similarities = [
        (directions * padded[:, :, i : i + height, j : j + width]).sum(dim=1)
        for i in (0, 2, 4)
        for j in (0, 2, 4)
        if (i, j) != (2, 2)
    ]
    return torch.stack(similarities, dim=1).to(features.dtype)


class FreqFusionConv(nn.Conv2d):
    """Convolution of unchanged size, whose weight starts from a normal distribution of width `std`; Xavier-uniform
    without."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, std: float | None = None):
        self.std = std  # nn.Conv2d resets its parameters on construction
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def reset_parameters(self) -> None:
        if self.std is None:
            nn.init.xavier_uniform_(self.weight)
        else:
            nn.init.normal_(self.weight, std=self.std)
        nn.init.zeros_(self.bias)


class SimilarityResampler(nn.Module):
    """Upsampled coarse map → sampled anew, around each pixel where the two compressed maps say."""

    def __init__(self, channels: int):
        super().__init__()
        num_offsets = 2 * NUM_RESAMPLED_GROUPS  # per pixel of the fine map
        self.norm_hr = nn.GroupNorm(channels // 8, channels)
        self.norm_lr = nn.GroupNorm(channels // 8, channels)
        self.offset = FreqFusionConv(8, 4 * num_offsets, std=0.001)
        self.direct_scale = FreqFusionConv(channels, 4 * num_offsets, std=0.0)
        self.hr_offset = FreqFusionConv(8, num_offsets, std=0.001)
        self.hr_direct_scale = FreqFusionConv(channels, num_offsets, std=0.0)

    def forward(self, upsampled: torch.Tensor, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        high, low = self.norm_hr(high), self.norm_lr(low)
        offset = self.offset(neighbour_similarity(low))
        offset = offset + F.pixel_unshuffle(self.hr_offset(neighbour_similarity(high)), 2)
        scale = self.direct_scale(low) + F.pixel_unshuffle(self.hr_direct_scale(high), 2)
        positions = self.positions(offset * scale.sigmoid())
        groups = upsampled.unflatten(1, (NUM_RESAMPLED_GROUPS, -1)).flatten(0, 1)  # (B*groups, C/groups, 2h, 2w)
        resampled = F.grid_sample(groups.to(positions.dtype), positions, padding_mode="border", align_corners=False)
        return resampled.unflatten(0, (-1, NUM_RESAMPLED_GROUPS)).flatten(1, 2).to(upsampled.dtype)

    def positions(self, offset: torch.Tensor) -> torch.Tensor:
        """Offsets in pixels of the coarse map (B, 2*groups*2*2, h, w) → where to sample (B*groups, 2h, 2w, 2)."""
        height, width = offset.shape[2:]
        offset = offset.unflatten(1, (2, NUM_RESAMPLED_GROUPS, 2, 2))  # (B, xy, groups, sub-row, sub-column, h, w)
        # These are float32, in which bfloat16 offsets become exact positions.
        sub_pixel = torch.arange(2, device=offset.device) / 2 - 0.25
        rows = torch.arange(height, device=offset.device) + 0.5
        columns = torch.arange(width, device=offset.device) + 0.5
        x = (offset[:, 0] + sub_pixel[:, None, None] + columns) * 2 / width - 1
        y = (offset[:, 1] + sub_pixel[:, None, None, None] + rows[:, None]) * 2 / height - 1
        positions = torch.stack([x, y], dim=2).flatten(1, 4)  # (B, groups*xy*2*2, h, w)
        positions = F.pixel_shuffle(positions, 2).unflatten(1, (NUM_RESAMPLED_GROUPS, 2))
        return positions.flatten(0, 1).permute(0, 2, 3, 1)


class FreqFusion(nn.Module):
    """Coarse and fine feature map → both at the fine one's size, ready to be concatenated.

    Args:
        low_channels (`int`): channels of the coarse map, divisible by 4.
        high_channels (`int`): channels of the fine map; the sum of both must be divisible by 32.
    """

    def __init__(self, low_channels: int, high_channels: int):
        super().__init__()
        channels = (low_channels + high_channels) // 4
        self.hr_channel_compressor = FreqFusionConv(high_channels, channels, kernel_size=1)
        self.lr_channel_compressor = FreqFusionConv(low_channels, channels, kernel_size=1)
        self.content_encoder = FreqFusionConv(channels, 5 * 5, std=0.001)
        self.content_encoder2 = FreqFusionConv(channels, 3 * 3, std=0.001)
        self.dysampler = SimilarityResampler(channels)

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fuses two maps.

        Args:
            high (`torch.Tensor` of shape `(batch_size, high_channels, 2 * height, 2 * width)`): the fine map.
            low (`torch.Tensor` of shape `(batch_size, low_channels, height, width)`): the coarse map.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: the fine map, sharpened, and the coarse one, upsampled to its size.
        """
        compressed_high, compressed_low = self.hr_channel_compressor(high), self.lr_channel_compressor(low)
        sharpening = self.content_encoder2(compressed_high)
        compressed_high = sharpen(compressed_high, sharpening)
        upsampling = self.content_encoder(compressed_high)
        coarse_upsampling = self.content_encoder(compressed_low)
        upsampling = upsampling + reassemble(coarse_upsampling, upsampling.softmax(dim=1), scale=2)
        upsampled = torch.cat([self.content_encoder2(compressed_low), low], dim=1)
        upsampled = reassemble(upsampled, upsampling.softmax(dim=1), scale=2)
        sharpening, upsampled = sharpening + upsampled[:, : 3 * 3], upsampled[:, 3 * 3 :]
        return sharpen(high, sharpening), self.dysampler(upsampled, compressed_high, compressed_low)


def sharpen(features: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A map plus its difference from itself smoothed, with kernels (before their softmax) of each pixel's own."""
    return 2 * features - reassemble(features, scores.softmax(dim=1))
