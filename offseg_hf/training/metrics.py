"""Metrics during training: logits → label maps → a confusion matrix, batch by batch."""

import torch
from transformers import EvalPrediction

from offseg_hf.evaluation.figures import named_results
from offseg_hf.evaluation.metric import SemanticSegmentationMetric
from offseg_hf.prediction.scores import label_maps


def predicted_label_maps(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits → label maps of the labels' resolution, for `Trainer(preprocess_logits_for_metrics=…)`.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_labels, height', width')`): or a tuple that begins with them,
            or, of models that classify masks, with the logits of the queries' classes and masks.
        labels (`torch.Tensor` of shape `(batch_size, height, width)`): only the size is read.

    Returns:
        `torch.Tensor` of shape `(batch_size, height, width)`: class ids.
    """
    return label_maps(logits, labels.shape[-2:])


class BatchMetrics:
    """Accumulates a confusion matrix batch by batch, for `Trainer(compute_metrics=…)` with `batch_eval_metrics=True`.

    Args:
        id2label (`dict[int, str]`): names of the ids that are predicted, at least two.
        ignore_index (`int`, *optional*, defaults to 255): label of the pixels to leave out.
    """

    def __init__(self, id2label: dict[int, str], ignore_index: int = 255):
        self.id2label = id2label
        self.metric = SemanticSegmentationMetric(num_labels=len(id2label), ignore_index=ignore_index)

    def __call__(self, eval_prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self.metric.add_batch(predictions=eval_prediction.predictions, references=eval_prediction.label_ids)
        if not compute_result:
            return {}
        return named_results(self.metric.compute(), self.id2label)
