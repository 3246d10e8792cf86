"""Offset learning: the layer that replaces the last 1×1 classifier of a segmentation network.

"Revisiting Efficient Semantic Segmentation: Learning Offsets for Better Spatial and Class Feature Alignment"
(ICCV 2025, arXiv 2508.08811). A classifier compares every pixel's features `E` with one fixed representation `W` of
each class. Offset learning moves both towards each other first, by two offsets read from the same *coupled
attention* `A = E Wᵀ`:

    class offset     ΔW = softmax over pixels (A)ᵀ E P_clsᵀ      the classes shift towards this image
    feature offset   ΔE = softmax over classes (A) W P_featᵀ     the pixels shift towards the classes
    logits              = normalise( (E + ΔE) (W + ΔW)ᵀ )

Where masks are classified instead of pixels, mask embeddings `Q`, which every image has of its own, take the place of
`W`, and the aligned pair `Q + ΔQ`, `E + ΔE` is multiplied without a normalisation.

Only torch is needed here.
"""

import math

import torch
from torch import nn

# Values of a block of pixels that is classified at once on a CPU: it should stay in the cache.
BLOCK_SIZE = 2**19

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

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.gain)
        nn.init.zeros_(self.bias)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        logits = _at_least_float32(logits)
        logits = logits - logits.mean(dim=1, keepdim=True)
        variance = logits.square().mean(dim=1, keepdim=True)  # (B, 1, N)
        return logits * torch.rsqrt(variance + self.eps) * self.weight[:, None] + self.bias[:, None]


class ClassBias(nn.Module):
    """(B, K, N) → plus a learned bias per class, in float32."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
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
            `"class_bias"`: no LayerNorm but a learned bias per class; any K. Class representations then start as a
            1×1 convolution's weight does, since no norm makes up for small ones.

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

    def reset_parameters(self) -> None:
        std = 0.02  # as published
        if isinstance(self.mask_norm, ClassBias):
            std = 1 / math.sqrt(3 * self.cls_repr.shape[2])  # as of U(−1/√C, 1/√C)
        nn.init.trunc_normal_(self.cls_repr, std=std)
        for projection in (self.cls_offset_proj, self.feat_offset_proj):
            nn.init.trunc_normal_(projection.weight, std=0.02)
        self.mask_norm.reset_parameters()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Classifies every pixel.

        Args:
            features (`torch.Tensor` of shape `(batch_size, channels, height, width)`): the features to classify.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_classes, height, width)`: the logits, in the parameters' dtype.
        """
        return _outside_float16(self._classify, features).to(self.cls_repr.dtype)

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
        is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if features.is_cpu and not torch.is_grad_enabled() and not is_traced:
            dtype = torch.promote_types(features.dtype, torch.float32)
            logits = features.new_empty((len(features), self.cls_repr.shape[1], height * width), dtype=dtype)
            for image, image_logits in zip(features, logits):
                self._classify_by_blocks(image, image_logits)
        else:
            logits = self.mask_norm(_aligned_product(features, *_offsets(self, self.cls_repr, features)))
        return logits.unflatten(2, (height, width))

    def _classify_by_blocks(self, features, attention):
        """Features (C, N) → logits, block by block of pixels: in `attention` (K, N), which first holds itself."""
        classes = self.cls_repr[0].to(features.dtype)  # (K, C)
        rows = classes @ self.feat_offset_proj.weight.T.to(features.dtype)
        length = max(1, BLOCK_SIZE // max(classes.shape))
        blocks = [slice(start, start + length) for start in range(0, features.shape[1], length)]
        for block in blocks:
            attention[:, block] = classes @ features[:, block]
        largest = attention.amax(dim=1, keepdim=True)  # (K, 1)
        total, mean = 0, 0  # of the softmax over pixels, and of the features that it weighs
        for block in blocks:
            share = (attention[:, block] - largest).exp_()
            total = total + share.sum(dim=1, keepdim=True)
            mean = mean + (share.to(features.dtype) @ features[:, block].T).to(share.dtype)
        shifted = classes + (mean / total).to(features.dtype) @ self.cls_offset_proj.weight.T.to(features.dtype)
        for block in blocks:
            over_classes = attention[:, block].softmax(dim=0).to(features.dtype)
            product = _aligned_product(features[None, :, block], shifted[None], rows[None], over_classes[None])
            attention[:, block] = self.mask_norm(product)[0]


class MaskOffsetLearning(nn.Module):
    """Mask embeddings and features → the same, aligned by both offsets: the form for mask classification.

    Args:
        channels (`int`): channels C of the mask embeddings and of the features.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.cls_offset_proj = nn.Linear(channels, channels, bias=False)
        self.feat_offset_proj = nn.Linear(channels, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.cls_offset_proj.weight, self.feat_offset_proj.weight):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, embeddings: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Moves mask embeddings and features towards each other.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, num_queries, channels)`): the mask embeddings Q.
            features (`torch.Tensor` of shape `(batch_size, channels, height, width)`): the pixel embeddings E.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Q + ΔQ and E + ΔE, in the arguments' shapes and the parameters' dtype.
        """
        dtype = self.cls_offset_proj.weight.dtype
        embeddings, features = _outside_float16(self._align, embeddings, features)
        return embeddings.to(dtype), features.to(dtype)

    def masks(self, embeddings: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The product of what `forward` returns, but without making E + ΔE where that is the cheaper way.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, num_queries, channels)`): the mask embeddings Q.
            features (`torch.Tensor` of shape `(batch_size, channels, height, width)`): the pixel embeddings E.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_queries, height, width)`: the mask logits (Q + ΔQ) (E + ΔE)ᵀ, in
            the parameters' dtype.
        """
        return _outside_float16(self._multiply, embeddings, features).to(self.cls_offset_proj.weight.dtype)

    def _align(self, embeddings, features):
        flat = features.flatten(2)  # (B, C, H*W)
        shifted, rows, over_queries = _offsets(self, embeddings, flat)
        return shifted, (flat + rows.transpose(1, 2) @ over_queries).unflatten(2, features.shape[2:])

    def _multiply(self, embeddings, features):
        flat = features.flatten(2)  # (B, C, H*W)
        return _aligned_product(flat, *_offsets(self, embeddings, flat)).unflatten(2, features.shape[2:])


def _offsets(layer, classes, features):
    """W + ΔW (B, K, C), and ΔE in two factors: the rows that it mixes (B or 1, K, C) and their shares (B, K, N)."""
    classes = classes.to(features.dtype)  # (B or 1, K, C)
    cls_offset_weight = layer.cls_offset_proj.weight.to(features.dtype)  # (C, C)
    feat_offset_weight = layer.feat_offset_proj.weight.to(features.dtype)  # (C, C)

    attention = _at_least_float32(classes @ features)  # (B, K, N)
    over_pixels = attention.softmax(dim=2).to(features.dtype)
    over_classes = attention.softmax(dim=1).to(features.dtype)
    shifted = classes + over_pixels @ features.transpose(1, 2) @ cls_offset_weight.T
    return shifted, classes @ feat_offset_weight.T, over_classes


def _aligned_product(features, shifted, rows, over_classes):
    """(W + ΔW)(E + ΔE)ᵀ (B, K, N), the features (B, C, N) left as they are where that is cheaper."""
    # ΔE mixes K rows that are the same for every pixel, so the product need not be computed as written.
    num_classes, channels = shifted.shape[1:]
    if num_classes > channels:  # 4KC multiply-adds per pixel, the attention's included
        return shifted @ (features + rows.transpose(1, 2) @ over_classes)
    return shifted @ features + (shifted @ rows.transpose(1, 2)) @ over_classes  # 3KC + K² multiply-adds per pixel


def _outside_float16(function, *tensors):
    """`function` of `tensors`, in float32 where it would have been computed in float16."""
    device_type = tensors[0].device.type
    if tensors[0].dtype == torch.float16 or _autocasts_to_float16(device_type):
        # Products of 256 channels leave float16's range (65,504); bfloat16 has float32's range.
        with torch.autocast(device_type, enabled=False):
            return function(*(tensor.float() for tensor in tensors))
    return function(*tensors)


def _at_least_float32(tensor):
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _autocasts_to_float16(device_type):
    if not torch.amp.is_autocast_available(device_type):
        return False
    return torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.float16
