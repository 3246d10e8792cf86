"""Offset learning: the layer that replaces the last 1×1 classifier of a segmentation network.

"Revisiting Efficient Semantic Segmentation: Learning Offsets for Better Spatial and Class Feature Alignment"
(ICCV 2025, arXiv 2508.08811). A classifier compares every pixel's features `E` with one fixed representation `W` of
each class. Offset learning moves both towards each other first, by two offsets read from the same *coupled
attention* `A = E Wᵀ`:

    class offset     ΔW = softmax over pixels (A)ᵀ E P_clsᵀ      the classes shift towards this image
    feature offset   ΔE = softmax over classes (A) W P_featᵀ     the pixels shift towards the classes
    logits              = normalise( (E + ΔE) (W + ΔW)ᵀ )

Only torch is needed here.
"""

import math

import torch
from torch import nn

LOGIT_NORMALIZATIONS = ("layer_norm", "fitted_layer_norm", "class_bias")


def fitted_gain(num_classes: int) -> float:
    """Gain of a LayerNorm over `num_classes` logits that lets a class reach a probability of 0.999.

    The largest margin that LayerNorm leaves between one of K logits and the others is K/√(K−1): 12.3 for K = 150, but
    3.5 for K = 11, where the published gain of 1 caps every probability at 0.76.

    Args:
        num_classes (`int`): number of classes K, at least 2.

    Returns:
        `float`: ln(999 (K−1)) √(K−1) / K, which is 0.97 for K = 150 and 2.65 for K = 11.
    """
    return math.log(999 * (num_classes - 1)) * math.sqrt(num_classes - 1) / num_classes


class LogitLayerNorm(nn.LayerNorm):
    """(B, K, N) → normalised over the K classes, in float32."""

    def __init__(self, num_classes: int, gain: float):
        self.gain = gain  # the start of the learned gain; nn.LayerNorm resets its parameters on construction
        super().__init__(num_classes)

    def reset_parameters(self):
        nn.init.constant_(self.weight, self.gain)
        nn.init.zeros_(self.bias)

    def forward(self, logits):
        logits = _at_least_float32(logits)
        variance, mean = torch.var_mean(logits, dim=1, correction=0, keepdim=True)  # (B, 1, N)
        logits = (logits - mean) * torch.rsqrt(variance + self.eps)
        return logits * self.weight[:, None] + self.bias[:, None]


class ClassBias(nn.Module):
    """(B, K, N) → plus a learned bias per class, in float32."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def reset_parameters(self):
        nn.init.zeros_(self.bias)

    def forward(self, logits):
        return _at_least_float32(logits) + self.bias[:, None]


class OffsetLearning(nn.Module):
    """Features → logits, with both offsets (paper, section 3.2).

    Args:
        num_classes (`int`): number of classes K, at least 1.
        channels (`int`): channels C of the features.
        normalization (`str`): what is done to the K logits of each pixel.
            `"layer_norm"`: LayerNorm with a gain that starts at 1, as published; needs K ≥ 3, since LayerNorm over
            one value is constant and over two values is ±1, with a gradient that vanishes.
            `"fitted_layer_norm"`: the same function, its gain starting at [`fitted_gain`]; needs K ≥ 3.
            `"class_bias"`: no LayerNorm but a learned bias per class; any K.

    Raises:
        ValueError: where `normalization` is none of these.
    """

    def __init__(self, num_classes: int, channels: int, normalization: str = "layer_norm"):
        super().__init__()
        if normalization not in LOGIT_NORMALIZATIONS:
            raise ValueError(
                f"`normalization` must be one of {', '.join(LOGIT_NORMALIZATIONS)}, got {normalization!r}; choose one."
            )
        self.cls_repr = nn.Parameter(torch.empty(1, num_classes, channels))
        self.cls_offset_proj = nn.Linear(channels, channels, bias=False)
        self.feat_offset_proj = nn.Linear(channels, channels, bias=False)
        if normalization == "class_bias":
            self.mask_norm = ClassBias(num_classes)
        else:
            gain = fitted_gain(num_classes) if normalization == "fitted_layer_norm" else 1.0
            self.mask_norm = LogitLayerNorm(num_classes, gain)
        self.reset_parameters()

    def reset_parameters(self):
        for weight in (self.cls_repr, self.cls_offset_proj.weight, self.feat_offset_proj.weight):
            nn.init.trunc_normal_(weight, std=0.02)
        self.mask_norm.reset_parameters()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Classifies every pixel.

        Args:
            features (`torch.Tensor` of shape `(batch_size, channels, height, width)`): the features to classify.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_classes, height, width)`: the logits, in the parameters' dtype.
        """
        if features.dtype == torch.float16 or _autocasts_to_float16(features.device.type):
            # Products of 256 channels leave float16's range (65,504); bfloat16 has float32's range.
            with torch.autocast(features.device.type, enabled=False):
                logits = self._classify(features.float())
        else:
            logits = self._classify(features)
        return logits.to(self.cls_repr.dtype)

    def coupled_attention(self, features: torch.Tensor) -> torch.Tensor:
        """The attention from which both offsets are read, before its softmaxes: what a 1×1 classifier would answer.

        Args:
            features (`torch.Tensor` of shape `(batch_size, channels, height, width)`): the features to classify.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_classes, height, width)`: in float32.
        """
        with torch.autocast(features.device.type, enabled=False):
            return torch.einsum("kc,bchw->bkhw", self.cls_repr[0].float(), features.float())

    def _classify(self, features):
        height, width = features.shape[2:]
        features = features.flatten(2)  # (B, C, H*W)
        classes = self.cls_repr.to(features.dtype)  # (1, K, C)
        cls_offset_weight = self.cls_offset_proj.weight.to(features.dtype)  # (C, C)
        feat_offset_weight = self.feat_offset_proj.weight.to(features.dtype)  # (C, C)

        attention = _at_least_float32(classes @ features)  # (B, K, H*W)
        over_pixels = attention.softmax(dim=2).to(features.dtype)
        over_classes = attention.softmax(dim=1).to(features.dtype)
        shifted = classes + over_pixels @ features.transpose(1, 2) @ cls_offset_weight.T  # W + ΔW, (B, K, C)
        # ΔE mixes K rows that are the same for every pixel, so (E + ΔE)(W + ΔW)ᵀ need not be computed as written.
        rows = classes @ feat_offset_weight.T  # (1, K, C)
        num_classes, channels = classes.shape[1:]
        if num_classes > channels:  # 4KC multiply-adds per pixel
            logits = shifted @ (features + rows.transpose(1, 2) @ over_classes)
        else:  # 3KC + K² multiply-adds per pixel
            logits = shifted @ features + (shifted @ rows.transpose(1, 2)) @ over_classes
        return self.mask_norm(logits).unflatten(2, (height, width))


def _at_least_float32(tensor):
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _autocasts_to_float16(device_type):
    if not torch.amp.is_autocast_available(device_type):
        return False
    return torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.float16
