"""Images that are smaller than what an encoder needs: padded before it, and cropped back after it."""

import torch
import torch.nn.functional as F

LEAST_SIDE = 32  # pixels that SegFormer's encoder needs: its last map has 1/32 of the image's size


def pad_small_images(pixel_values: torch.Tensor, least: int = LEAST_SIDE) -> torch.Tensor:
    """Images (B, C, H, W) of at least `least` pixels a side, the last row and column repeated where they lack some."""
    height, width = pixel_values.shape[2:]
    return F.pad(pixel_values, (0, max(0, least - width), 0, max(0, least - height)), mode="replicate")


def crop_logits(logits: torch.Tensor, size: tuple[int, int], padded_size: tuple[int, int]) -> torch.Tensor:
    """The part of logits (B, K, h, w) of padded images that is theirs, at least one row and column."""
    height, width = (
        max(1, round(length * side / padded)) for length, side, padded in zip(logits.shape[2:], size, padded_size)
    )
    return logits[:, :, :height, :width]
