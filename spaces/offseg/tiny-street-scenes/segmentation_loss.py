"""The losses of per-pixel classification, at the labels' own resolution, in memory that does not grow with it.

The logits are upsampled a strip of rows at a time; the strip's share of the loss and of the gradient with respect to
the logits is taken, and the strip forgotten. So no tensor of (batch_size, K, height, width) is ever made, where plain
formulations hold several. Compiled code takes the plain formulation, since a loop over strips makes too large a graph.
"""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

# Logits in a strip (of a row at least): on a CPU it should stay in the cache, elsewhere repay starting the kernels.
CPU_STRIP_SIZE = 2**20
STRIP_SIZE = 2**23
# So few do not fill a CPU's vectors: not to be the last axis there.
FEW_CLASSES = 16


def segmentation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = 255,
    *,
    label_smoothing: float = 0.0,
    class_weights: list[float] | None = None,
    ohem_threshold: float | None = None,
    ohem_min_kept: int = 100_000,
    cross_entropy_loss_weight: float = 1.0,
    dice_loss_weight: float = 0.0,
) -> torch.Tensor:
    """Loss of the bilinearly upsampled logits over all pixels that are not ignored, by default their cross-entropy.

    The cross-entropy is `torch.nn.functional.cross_entropy` with its mean, which is weighted where classes are. A
    single class (K = 1) is classified against background, whose logit is 0, so that its cross-entropy is the binary
    one. It can be differentiated once.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, K, height', width')`): at any resolution.
        labels (`torch.Tensor` of shape `(batch_size, height, width)`): class ids 0 to K − 1 (0 and 1 if K = 1), or
            `ignore_index`. Other values raise an error on a CPU; on other devices, where the check would force a
            synchronisation, they are ignored like `ignore_index`.
        ignore_index (`int`, *optional*, defaults to 255): label of the pixels to leave out.
        label_smoothing (`float`, *optional*, defaults to 0): in [0, 1), the share of the target that is spread evenly
            over all classes (arXiv 1512.00567, section 7).
        class_weights (`list[float]`, *optional*): weight in the cross-entropy of each class, of background and the
            class if K = 1.
        ohem_threshold (`float`, *optional*): in (0, 1], keeps to hard pixels (arXiv 1604.03540; for pixels as in
            arXiv 1605.06885): the cross-entropy is the mean over those whose true class has a lower
            probability than this.
        ohem_min_kept (`int`, *optional*, defaults to 100,000): how many pixels of the batch to keep at least, the
            hardest ones, with `ohem_threshold`.
        cross_entropy_loss_weight (`float`, *optional*, defaults to 1): weight of the cross-entropy in the sum.
        dice_loss_weight (`float`, *optional*, defaults to 0): weight in the sum of the Dice loss: 1 − 2 Σ p y /
            (Σ p + Σ y) of probabilities p and true pixels y of a class over the batch, as its mean over the classes
            that occur there; of the class alone, not background, if K = 1 (arXiv 1606.04797, without the squares).

    Returns:
        `torch.Tensor`: a scalar, in float32 (float64 if the logits are); 0 where every pixel is ignored. Outside of a
        CPU, and in compiled code, which would have to wait for the labels, it is NaN where a label is no class id.

    Raises:
        ValueError: where `labels` are no class ids (on a CPU), or of another batch size than `logits`.
        RuntimeError: in a backward pass with `create_graph=True`.
    """
    num_labels = logits.shape[1]
    labels, penalty = _class_ids(labels, ignore_index, len(logits), max(num_labels, 2))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if num_labels == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    if class_weights is not None:
        class_weights = torch.tensor(class_weights, dtype=logits.dtype).to(logits.device, non_blocking=True)
    losses = _Losses(
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        ohem_threshold=ohem_threshold,
        ohem_min_kept=ohem_min_kept,
        cross_entropy_loss_weight=cross_entropy_loss_weight,
        dice_loss_weight=dice_loss_weight,
        is_binary=num_labels == 1,
    )
    if torch.compiler.is_compiling():
        return _whole_loss(logits, labels, losses) + penalty
    if torch.is_grad_enabled() and logits.requires_grad:
        return _StripwiseLoss.apply(logits, labels, losses) + penalty
    return _sum_of_strips(logits.detach(), labels, losses) + penalty


def offset_learning_loss(
    layer: nn.Module, features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, config: PreTrainedConfig
) -> torch.Tensor:
    """[`segmentation_loss`] of the logits and, in training, of the coupled attention as the configuration weighs it.

    Args:
        layer ([`OffsetLearning`]): the layer that classified; it tells whether this is training.
        features (`torch.Tensor` of shape `(batch_size, channels, height', width')`): what it classified.
        logits (`torch.Tensor` of shape `(batch_size, K, height', width')`): what it answered.
        labels (`torch.Tensor` of shape `(batch_size, height, width)`): class ids.
        config ([`OffsetLearningFields`]): `loss_settings`, `attention_loss_weight`, `semantic_loss_ignore_index` and
            `logit_normalization`.

    Returns:
        `torch.Tensor`: a scalar, in float32 at least.

    Raises:
        ValueError: where `labels` are no class ids, or so few classes are trained with a LayerNorm.
    """
    if layer.training and config.num_labels < 3 and config.logit_normalization != "class_bias":
        raise ValueError(
            "`logit_normalization` must be 'class_bias' to train fewer than 3 classes, since a LayerNorm over so few "
            f"logits cannot be learned, got {config.logit_normalization!r}; pass it to `from_pretrained`."
        )
    settings = {"ignore_index": config.semantic_loss_ignore_index, **config.loss_settings}
    loss = segmentation_loss(logits, labels, **settings)
    if layer.training and config.attention_loss_weight > 0:
        attention = layer.coupled_attention(features)
        attention_loss = segmentation_loss(attention, labels, **settings)
        loss = loss + config.attention_loss_weight * attention_loss
    return loss


def _class_ids(labels, ignore_index, batch_size, num_ids):
    """The labels as int64, those that are no class ids as `ignore_index`; and NaN where there are such, else 0."""
    if labels.ndim != 3 or labels.shape[0] != batch_size or labels.is_floating_point():
        raise ValueError(
            f"`labels` must be integer class ids of shape (batch_size, height, width) for {batch_size} images, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    labels = labels.long()
    ignored = labels == ignore_index
    valid = ~ignored & (labels >= 0) & (labels < num_ids)
    penalty = torch.where((valid | ignored).all(), 0.0, math.nan)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        unknown = labels[~valid & ~ignored].unique().tolist()
        if unknown:
            raise ValueError(
                f"`labels` must be class ids from 0 to {num_ids - 1} or `semantic_loss_ignore_index` "
                f"({ignore_index}), got {unknown[:10]}; check `num_labels` and `do_reduce_labels`."
            )
    return labels.where(valid, ignore_index), penalty


class _Losses(NamedTuple):
    """What is asked for, of logits (B, K, H, W) or (N, K), and labels without the axis of the classes."""

    ignore_index: int
    label_smoothing: float
    class_weights: torch.Tensor | None
    ohem_threshold: float | None
    ohem_min_kept: int
    cross_entropy_loss_weight: float
    dice_loss_weight: float
    is_binary: bool

    def cross_entropy_sum(self, logits, targets):
        return F.cross_entropy(
            logits,
            targets,
            weight=self.class_weights,
            ignore_index=self.ignore_index,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )

    def cross_entropy_factor(self, targets, dtype):
        """What makes of the sum a mean, and gives it its weight."""
        valid = targets != self.ignore_index
        if self.class_weights is None:
            total = valid.sum().to(dtype)
        else:
            total = self.class_weights[targets.where(valid, 0)].where(valid, 0).sum()
        return self.cross_entropy_loss_weight * torch.where(total > 0, 1 / total, 0)

    def surprisals(self, logits, labels):
        """−ln of the true class' probability of every pixel."""
        return F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none")

    def hard_labels(self, labels, surprisals):
        """The labels, those of easy pixels as `ignore_index`."""
        valid = labels != self.ignore_index
        surprisals = surprisals.where(valid, -math.inf)
        hard = surprisals > -math.log(self.ohem_threshold)
        num_kept = min(self.ohem_min_kept, labels.numel())
        if num_kept > 0:
            hard |= surprisals >= surprisals.flatten().kthvalue(labels.numel() - num_kept + 1).values
        return labels.where(hard & valid, self.ignore_index)

    def dice_sums(self, logits, labels):
        """Σ p y, Σ p and Σ y over the pixels: (3, K)."""
        logits, labels = logits.movedim(1, -1).flatten(0, -2), labels.flatten()  # (N, K), (N,)
        valid = (labels != self.ignore_index)[:, None]  # (N, 1)
        probabilities = logits.softmax(dim=1) * valid
        true = torch.zeros_like(logits).scatter_(1, labels[:, None].where(valid, 0), valid.to(logits.dtype))
        return torch.stack([(probabilities * true).sum(dim=0), probabilities.sum(dim=0), true.sum(dim=0)])

    def dice_loss(self, sums):
        both, predicted, true = sums[:, 1:] if self.is_binary else sums
        occurs = true > 0
        losses = torch.where(occurs, 1 - 2 * both / (predicted + true).clamp(min=1), 0)
        return self.dice_loss_weight * losses.sum() / occurs.sum().clamp(min=1)


def _whole_loss(logits, labels, losses):
    """The loss in one piece, which autograd and compilers follow."""
    logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear")
    targets = labels
    if losses.ohem_threshold is not None:
        targets = losses.hard_labels(labels, losses.surprisals(logits.detach(), labels))
    loss = losses.cross_entropy_factor(targets, logits.dtype) * losses.cross_entropy_sum(logits, targets)
    if losses.dice_loss_weight:
        loss = loss + losses.dice_loss(losses.dice_sums(logits, labels))
    return loss


class _StripwiseLoss(torch.autograd.Function):
    """The same, whose gradient is made along with it."""

    @staticmethod
    def forward(ctx, logits, labels, losses):
        gradient = torch.zeros_like(logits, memory_format=torch.channels_last)
        loss = _sum_of_strips(logits, labels, losses, gradient)
        ctx.save_for_backward(gradient.contiguous())
        return loss

    @staticmethod
    def backward(ctx, loss_gradient):
        if torch.is_grad_enabled():  # else a second derivative would quietly be without this loss
            raise RuntimeError(
                "`create_graph` must be False, since the gradient of `segmentation_loss` has no gradient itself, got "
                "True; leave it out."
            )
        (gradient,) = ctx.saved_tensors
        return gradient * loss_gradient, None, None


def _sum_of_strips(logits, labels, losses, gradient=None):
    """The loss strip by strip; its gradient is added to `gradient`, where there is one."""
    size = labels.shape[1:]
    targets, total = labels, logits.new_zeros(())
    if losses.ohem_threshold is not None:
        surprisals = torch.empty_like(labels, dtype=logits.dtype)
        for strip, _, _, upsampled in _upsampled_strips(logits, size):
            surprisals[strip] = losses.surprisals(upsampled, _pixels(labels[strip], upsampled)).view(-1, size[1])
        targets = losses.hard_labels(labels, surprisals)
    if losses.dice_loss_weight:
        sums = sum(
            losses.dice_sums(upsampled, _pixels(labels[strip], upsampled))
            for strip, _, _, upsampled in _upsampled_strips(logits, size)
        )
        with torch.enable_grad():
            total = losses.dice_loss(sums.requires_grad_())
        (slope,) = torch.autograd.grad(total, sums)
        total = total.detach()
    factor = losses.cross_entropy_factor(targets, logits.dtype)
    for strip, source, window, upsampled in _upsampled_strips(logits, size, gradient is not None):
        with torch.set_grad_enabled(gradient is not None):
            part = factor * losses.cross_entropy_sum(upsampled, _pixels(targets[strip], upsampled))
            total += part.detach()
            if gradient is None:
                continue
            if losses.dice_loss_weight:
                part = part + (slope * losses.dice_sums(upsampled, _pixels(labels[strip], upsampled))).sum()
        image, rows = source
        gradient[image, :, rows] += torch.autograd.grad(part, window)[0].permute(2, 0, 1)
    return total


def _pixels(labels, logits):
    """The labels (rows, width) of a strip, in the shape that the logits have but for the classes."""
    return labels.flatten() if logits.ndim == 2 else labels[None]


def _upsampled_strips(logits, size, requires_grad=False):
    """Rows of every image of the logits (B, K, h, w), interpolated to `size` (H, W) a few at a time.

    Yields the strip as indices (image, rows) of a map (B, H, W), the window of logits that it was made of as indices
    (image, rows) of a map (B, h, w), this window (rows, w, K), and the upsampled logits, (rows*W, K) or
    (1, K, rows, W).
    """
    (num_classes, old_height), (height, width) = logits.shape[1:3], size
    strip_size = CPU_STRIP_SIZE if logits.device.type == "cpu" else STRIP_SIZE
    num_rows = max(1, strip_size // (num_classes * width))
    # Row i comes from row (i + 1/2) h/H − 1/2, though not from above the first: here exactly, in units of 1/(2H).
    positions = ((2 * torch.arange(height, device=logits.device) + 1) * old_height - height).clamp(min=0)
    upper = positions // (2 * height)
    lower = (upper + 1).clamp(max=old_height - 1)
    lower_share = (positions % (2 * height)).to(logits.dtype).div(2 * height)[:, None, None]
    for image in range(len(logits)):
        pixels = logits[image].permute(1, 2, 0).contiguous()  # (h, w, K)
        for first in range(0, height, num_rows):
            last = min(first + num_rows, height) - 1
            start, stop = (max((2 * row + 1) * old_height - height, 0) // (2 * height) for row in (first, last))
            rows, window_rows = slice(first, last + 1), slice(start, stop + 2)  # without asking the device
            window = pixels[window_rows].detach().requires_grad_(requires_grad)
            with torch.set_grad_enabled(requires_grad):
                neighbours = (window.index_select(0, index[rows] - start) for index in (upper, lower))
                upsampled = _upsampled_width(torch.lerp(*neighbours, lower_share[rows]), width)
            yield (image, rows), (image, window_rows), window, upsampled


def _upsampled_width(strip, width):
    """(rows, w, K) → (rows*W, K), or (1, K, rows, W) where that is the faster."""
    num_rows, _, num_classes = strip.shape
    if strip.device.type == "cpu" and num_classes < FEW_CLASSES:
        return F.interpolate(strip.permute(2, 0, 1), size=width, mode="linear")[None]
    strip = strip[None].permute(0, 3, 1, 2)  # (1, K, rows, w), channels-last even in the stride of the first axis
    strip = F.interpolate(strip, size=(num_rows, width), mode="bilinear")
    return strip.permute(0, 2, 3, 1).reshape(-1, num_classes)
