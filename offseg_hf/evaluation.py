"""Measuring models: label maps at the labels' own resolution, counted batch by batch."""

import math

import torch

from offseg_hf.metrics import SemanticSegmentationMetric
from offseg_hf.models.image_processing_offseg import upsampled_label_map
from offseg_hf.models.modeling_offseg_mask2former import semantic_scores


def predicted_label_maps(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits → label maps of the labels' resolution, for `Trainer(preprocess_logits_for_metrics=…)`.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_labels, height', width')`): or a tuple that begins with them,
            or, of models that classify masks, with the logits of the queries' classes and masks.
        labels (`torch.Tensor` of shape `(batch_size, height, width)`): only the size is read.

    Returns:
        `torch.Tensor` of shape `(batch_size, height, width)`: class ids.
    """
    if isinstance(logits, (tuple, list)):
        classifies_masks = logits[0].ndim == 3  # (B, Q, K + 1), and then the masks
        logits = semantic_scores(*logits[:2]) if classifies_masks else logits[0]
    return upsampled_label_map(logits, labels.shape[-2:])


class BatchMetrics:
    """Accumulates a confusion matrix batch by batch, for `Trainer(compute_metrics=…)` with `batch_eval_metrics=True`.

    Args:
        id2label (`dict[int, str]`): names of the ids that are predicted, at least two.
        ignore_index (`int`, *optional*, defaults to 255): label of the pixels to leave out.
    """

    def __init__(self, id2label: dict[int, str], ignore_index: int = 255):
        self.id2label = id2label
        self.metric = SemanticSegmentationMetric(num_labels=len(id2label), ignore_index=ignore_index)

    def __call__(self, eval_prediction, compute_result: bool) -> dict[str, float]:
        self.metric.add_batch(predictions=eval_prediction.predictions, references=eval_prediction.label_ids)
        if not compute_result:
            return {}
        return named_results(self.metric.compute(), self.id2label)


def named_results(results: dict, id2label: dict[int, str]) -> dict[str, float]:
    """Results of the metric as one flat dictionary that can be logged and written as JSON.

    Args:
        results (`dict`): of [`SemanticSegmentationMetric.compute`].
        id2label (`dict[int, str]`): class names.

    Returns:
        `dict[str, float]`: `mean_iou`, `mean_accuracy`, `overall_accuracy`, and `iou_<name>` of each class that
        occurs, all in [0, 1].
    """
    named = {name: float(results[name]) for name in ("mean_iou", "mean_accuracy", "overall_accuracy")}
    for label_id, iou in enumerate(results["per_category_iou"]):
        if not math.isnan(iou):
            named[f"iou_{id2label[label_id]}"] = float(iou)
    return named


def ignore_index(config) -> int:
    """Label of the pixels that a model's loss leaves out, under the name that its configuration has for it.

    Args:
        config ([`transformers.PreTrainedConfig`]): a segmentation model's.

    Returns:
        `int`: 255 where the configuration does not say.
    """
    names = ("semantic_loss_ignore_index", "loss_ignore_index")  # the latter is UPerNet's
    return next((getattr(config, name) for name in names if hasattr(config, name)), 255)
