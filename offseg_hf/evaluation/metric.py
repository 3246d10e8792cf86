"""Mean IoU and its relatives from one exact confusion matrix."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

Maps: TypeAlias = torch.Tensor | np.ndarray | Sequence  # class ids: one array of them, or a list of maps

PADDING_INDEX = -100  # what `accelerate` pads labels with when it gathers batches of several processes


class SemanticSegmentationMetric:
    """Mean IoU, mean accuracy, pixel accuracy and the figures of each class, from one exact confusion matrix.

    The methods are those of a metric of the library `evaluate`; `evaluate_metric.py` beside this file makes one of it.
    The figures are those of the Hub's `mean_iou`, with one difference: a prediction that is no class id counts as
    wrong for the class of its label, while there it leaves the union. Pixels whose label is `ignore_index` (or −100,
    the padding of gathered batches) count nowhere, whatever is predicted there. Nothing but the matrix is kept.

    Args:
        num_labels (`int`): number of classes K; 1 means binary, with the ids 0 (background) and 1, reported as two.
        ignore_index (`int`): label of the pixels that do not count.

    Raises:
        ValueError: `num_labels` is less than 1.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        if num_labels < 1:
            raise ValueError(f"`num_labels` must be at least 1, got {num_labels}.")
        self.num_classes = max(num_labels, 2)
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        """Forgets all that was added."""
        # (K, K + 1): labelled pixels by label and prediction; the last column is for predictions that are no class id
        self.confusion_matrix = torch.zeros(self.num_classes, self.num_classes + 1, dtype=torch.int64)

    def add(self, *, prediction: Maps, reference: Maps) -> None:
        """Counts one map.

        Args:
            prediction (`torch.Tensor` or array): (H, W) integer class ids.
            reference (`torch.Tensor` or array): (H, W) integer label ids.
        """
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions: Maps, references: Maps) -> None:
        """Counts a batch of maps.

        Args:
            predictions: (B, H, W) integer class ids, a tensor or array, or a list of maps (H, W) of any sizes.
            references: label ids, in the same form and sizes.

        Raises:
            ValueError: the sizes do not agree, predictions are no integers, or a label is no class id.
        """
        if len(predictions) != len(references):
            raise ValueError(
                f"`predictions` must be as many maps as `references`, got {len(predictions)} and {len(references)}."
            )
        if isinstance(predictions, (list, tuple)) or isinstance(references, (list, tuple)):
            for prediction, reference in zip(predictions, references):
                self._count(torch.as_tensor(prediction), torch.as_tensor(reference))
        else:
            self._count(torch.as_tensor(predictions), torch.as_tensor(references))

    def _count(self, predictions, references):
        """Adds two tensors of any one shape to the matrix."""
        if predictions.shape != references.shape:
            raise ValueError(
                f"`predictions` must have the size of `references`, got {tuple(predictions.shape)} and "
                f"{tuple(references.shape)}; resize the logits to the label map before the arg-max."
            )
        if any(maps.is_floating_point() or maps.is_complex() for maps in (predictions, references)):
            raise ValueError(
                f"`predictions` and `references` must be integer class ids, got {predictions.dtype} and "
                f"{references.dtype}; take the arg-max of logits first."
            )
        num_classes = self.num_classes
        references = _as_int64(references)
        predictions = _as_int64(predictions).to(references.device)
        labelled = (references != self.ignore_index) & (references != PADDING_INDEX)
        references, predictions = references[labelled], predictions[labelled]  # (N,)
        if ((references < 0) | (references >= num_classes)).any():
            unknown = references[(references < 0) | (references >= num_classes)].unique().tolist()
            raise ValueError(
                f"`references` must hold class ids from 0 to {num_classes - 1} or {self.ignore_index} where ignored, "
                f"got {unknown[:10]}; check `num_labels` and whether labels are to be reduced."
            )
        predictions = predictions.where((predictions >= 0) & (predictions < num_classes), num_classes)
        cells = references * (num_classes + 1) + predictions
        counts = torch.bincount(cells, minlength=self.confusion_matrix.numel())
        self.confusion_matrix += counts.view_as(self.confusion_matrix).cpu()

    def compute(self, *, predictions: Maps | None = None, references: Maps | None = None) -> dict:
        """The figures of all that was added since the last call, and of the maps given here; then starts anew.

        Args:
            predictions (*optional*): a last batch, as in `add_batch`.
            references (*optional*): its label maps.

        Returns:
            `dict`: `mean_iou`, `mean_accuracy` and `overall_accuracy` as floats in [0, 1], `per_category_iou` and
            `per_category_accuracy` as lists of K floats; NaN where no pixel counts.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        matrix = self.confusion_matrix.double()
        self.reset()
        correct = matrix.diagonal()
        labelled = matrix.sum(1)
        union = labelled + matrix[:, :-1].sum(0) - correct
        iou, accuracy = correct / union, correct / labelled  # 0 / 0 is NaN
        return {
            "mean_iou": iou.nanmean().item(),
            "mean_accuracy": accuracy.nanmean().item(),
            "overall_accuracy": (correct.sum() / labelled.sum()).item(),
            "per_category_iou": iou.tolist(),
            "per_category_accuracy": accuracy.tolist(),
        }


def _as_int64(maps):
    """`maps` as int64, in which the largest ids of uint64 stay what is no class id instead of turning negative."""
    if maps.dtype == torch.uint64:
        return maps.view(torch.int64).where(maps.view(torch.int64) >= 0, torch.iinfo(torch.int64).max)
    return maps.long()
