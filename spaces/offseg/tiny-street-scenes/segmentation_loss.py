"""The loss of per-pixel classification, at the labels' own resolution."""

import torch
from torch.nn import functional as F


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = 255) -> torch.Tensor:
    """Mean cross-entropy of the bilinearly upsampled logits over all pixels that are not ignored.

    With a single class (K = 1) it is the binary cross-entropy of that class against background.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, K, height', width')`): at any resolution.
        labels (`torch.Tensor` of shape `(batch_size, height, width)`): class ids 0 to K − 1 (0 and 1 if K = 1), or
            `ignore_index`. Other values raise an error on a CPU; on other devices, where the check would force a
            synchronisation, they are ignored like `ignore_index`.
        ignore_index (`int`, *optional*, defaults to 255): label of the pixels to leave out.

    Returns:
        `torch.Tensor`: the mean, a float32 scalar; 0 where every pixel is ignored.

    Raises:
        ValueError: where `labels` are no class ids, or of another batch size than `logits`.
    """
    if labels.ndim != 3 or labels.shape[0] != logits.shape[0] or labels.is_floating_point():
        raise ValueError(
            f"`labels` must be integer class ids of shape (batch_size, height, width) for {logits.shape[0]} images, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    num_labels = logits.shape[1]
    num_ids = max(num_labels, 2)
    labels = labels.long()
    valid = (labels != ignore_index) & (labels >= 0) & (labels < num_ids)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        unknown = labels[~valid & (labels != ignore_index)].unique().tolist()
        if unknown:
            raise ValueError(
                f"`labels` must be class ids from 0 to {num_ids - 1} or `semantic_loss_ignore_index` "
                f"({ignore_index}), got {unknown[:10]}; check `num_labels` and `do_reduce_labels`."
            )
    labels = labels.where(valid, ignore_index)
    logits = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False)
    if num_labels == 1:
        losses = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float(), reduction="none")
        total = losses.where(valid, 0).sum()
    else:
        total = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return total / valid.sum().clamp(min=1)


def offset_learning_loss(layer, features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, config):
    """[`segmentation_loss`] of the logits and, in training, of the coupled attention as the configuration weighs it.

    Args:
        layer ([`OffsetLearning`]): the layer that classified; it tells whether this is training.
        features (`torch.Tensor` of shape `(batch_size, channels, height', width')`): what it classified.
        logits (`torch.Tensor` of shape `(batch_size, K, height', width')`): what it answered.
        labels (`torch.Tensor` of shape `(batch_size, height, width)`): class ids.
        config ([`OffsetLearningFields`]): `attention_loss_weight`, `semantic_loss_ignore_index` and
            `logit_normalization`.

    Returns:
        `torch.Tensor`: a float32 scalar.

    Raises:
        ValueError: where `labels` are no class ids, or so few classes are trained with a LayerNorm.
    """
    if layer.training and config.num_labels < 3 and config.logit_normalization != "class_bias":
        raise ValueError(
            "`logit_normalization` must be 'class_bias' to train fewer than 3 classes, since a LayerNorm over so few "
            f"logits cannot be learned, got {config.logit_normalization!r}; pass it to `from_pretrained`."
        )
    loss = segmentation_loss(logits, labels, config.semantic_loss_ignore_index)
    if layer.training and config.attention_loss_weight > 0:
        attention = layer.coupled_attention(features)
        attention_loss = segmentation_loss(attention, labels, config.semantic_loss_ignore_index)
        loss = loss + config.attention_loss_weight * attention_loss
    return loss
