"""From what a segmentation model returns to class ids: how much each pixel belongs to each class, and the largest."""

import torch
from transformers.utils import ModelOutput

from offseg_hf.models.label_map import upsampled_label_map
from offseg_hf.models.modeling_offseg_mask2former import semantic_scores


def class_scores(outputs: ModelOutput | torch.Tensor | tuple) -> torch.Tensor:
    """How much each pixel belongs to each class, of whatever kind of model of transformers.

    Args:
        outputs (`ModelOutput`, `torch.Tensor` or `tuple`): what the model returned; or what `Trainer` makes of it,
            the same without names: logits, or a tuple that begins with them, or, of models that classify masks, with
            the logits of the queries' classes and masks.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels, height', width')`, at the model's own resolution: the logits,
        in their dtype; of models that classify masks
        [`~offseg_hf.models.modeling_offseg_mask2former.semantic_scores`], of a single class less one half.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    if isinstance(outputs, dict):
        if "masks_queries_logits" not in outputs:
            return outputs["logits"]
        outputs = outputs["class_queries_logits"], outputs["masks_queries_logits"]
    elif outputs[0].ndim != 3:  # else (B, Q, K + 1), and then the masks
        return outputs[0]
    scores = semantic_scores(*outputs[:2])
    return scores - 0.5 if scores.shape[1] == 1 else scores  # a single class is found where it is above 0


def most_likely(scores: torch.Tensor) -> torch.Tensor:
    """The class id of every pixel, at the scores' own resolution.

    Args:
        scores (`torch.Tensor` of shape `(batch_size, num_labels, height, width)`): see [`class_scores`]; of a single
            class, those above 0 stand for it, and the others for the background.

    Returns:
        `torch.LongTensor` of shape `(batch_size, height, width)`
    """
    return (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(dim=1)


def label_maps(outputs: ModelOutput | torch.Tensor | tuple, size: tuple[int, int]) -> torch.Tensor:
    """The class id of every pixel, at any size: "upsample all scores, then take the largest".

    Args:
        outputs (`ModelOutput`, `torch.Tensor` or `tuple`): see [`class_scores`].
        size (`tuple[int, int]`): (height, width) of the label maps in pixels.

    Returns:
        `torch.LongTensor` of shape `(batch_size, *size)`: the same as [`most_likely`] of the scores, bilinearly
        upsampled, for which it takes less time and memory, see
        [`~offseg_hf.models.label_map.upsampled_label_map`].
    """
    return upsampled_label_map(class_scores(outputs), size)
