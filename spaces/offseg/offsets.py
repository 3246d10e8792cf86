"""What offset learning does for one photo, computed by its formulas (arXiv 2508.08811, section 3.2)."""

from typing import NamedTuple

import torch


class Offsets(NamedTuple):
    """What an offset-learning layer computes for one photo, with features of N = h · w pixels and K classes."""

    over_pixels: torch.Tensor  # (K, h, w), softmax of the attention over the pixels, class by class
    over_classes: torch.Tensor  # (K, h, w), softmax of the attention over the classes, pixel by pixel
    feature_shift: torch.Tensor  # (h, w), ‖ΔE‖ / ‖E‖
    class_shift: torch.Tensor  # (K,), ‖ΔW‖ / ‖W‖
    logits: dict  # "both", "class", "feature", "none" → (K, h, w), the logits with these offsets


def find_offset_learning(model):
    """The layer of a model that classifies pixels by offset learning.

    Args:
        model (`torch.nn.Module`): any model.

    Returns:
        `torch.nn.Module` or `None`: the layer; `None` where there is none, or where masks are aligned, not pixels
        classified, so that no class has a representation of its own.
    """
    parts = ("cls_repr", "cls_offset_proj", "feat_offset_proj", "mask_norm")
    return next((module for module in model.modules() if all(hasattr(module, part) for part in parts)), None)


@torch.inference_mode()
def compute_offsets(layer, features):
    """Attentions, both offsets, and the logits with both of them, either one and none.

    Args:
        layer (`torch.nn.Module`): from [`find_offset_learning`].
        features (`torch.Tensor` of shape `(channels, height, width)`): the layer's input for one photo.

    Returns:
        [`Offsets`]: in float32, on the features' device.
    """
    size = features.shape[1:]
    pixels = features.float().flatten(1).T  # E, (N, C)
    classes = layer.cls_repr[0].float()  # W, (K, C)
    attention = pixels @ classes.T  # A, (N, K)
    over_pixels, over_classes = attention.softmax(dim=0), attention.softmax(dim=1)
    class_offset = over_pixels.T @ pixels @ layer.cls_offset_proj.weight.float().T  # ΔW, (K, C)
    feature_offset = over_classes @ classes @ layer.feat_offset_proj.weight.float().T  # ΔE, (N, C)

    def logits(shifted_pixels, shifted_classes):
        product = shifted_classes @ shifted_pixels.T  # (K, N)
        return layer.mask_norm(product[None])[0].unflatten(1, size)

    return Offsets(
        over_pixels=over_pixels.T.unflatten(1, size),
        over_classes=over_classes.T.unflatten(1, size),
        feature_shift=(feature_offset.norm(dim=1) / pixels.norm(dim=1).clamp_min(1e-12)).unflatten(0, size),
        class_shift=class_offset.norm(dim=1) / classes.norm(dim=1).clamp_min(1e-12),
        logits={
            "both": logits(pixels + feature_offset, classes + class_offset),
            "class": logits(pixels, classes + class_offset),
            "feature": logits(pixels + feature_offset, classes),
            "none": logits(pixels, classes),
        },
    )
