"""The figures of a measurement: what it found, by name and as a table."""

import dataclasses
import math

import numpy as np
import torch

from offseg_hf.markdown import markdown_table


@dataclasses.dataclass
class Evaluation:
    """What a model did on a data set.

    Args:
        metrics (`dict[str, float]`): see [`named_results`].
        classes (`list[dict]`): of each class the `name`, and of its pixels the `iou` and the `accuracy` (in [0, 1];
            `None` where no pixel counts) and their number in the labels, `pixels`.
        confusion_matrix (`np.ndarray` of shape `(num_labels, num_labels)`): pixels, by label and by prediction.
        num_examples (`int`): photos that were measured.
        worst (`list[tuple[str, tuple]]`): a caption with the scores of a photo, and the photo, its label map, its
            prediction and the errors marked, scaled down; the photo of the lowest mean IoU first.
    """

    metrics: dict
    classes: list
    confusion_matrix: np.ndarray
    num_examples: int
    worst: list


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


def class_figures(results: dict, confusion_matrix: torch.Tensor, id2label: dict[int, str]) -> list[dict]:
    """The figures of each class.

    Args:
        results (`dict`): of [`SemanticSegmentationMetric.compute`].
        confusion_matrix (`torch.Tensor` of shape `(num_labels, num_labels + 1)`): the metric's.
        id2label (`dict[int, str]`): class names.

    Returns:
        `list[dict]`: the `classes` of [`Evaluation`].
    """
    pixels = confusion_matrix.sum(dim=1).tolist()
    shares = (
        [None if math.isnan(value) else value for value in results[f"per_category_{name}"]]
        for name in ("iou", "accuracy")
    )
    return [
        {"name": id2label[label_id], "iou": iou, "accuracy": accuracy, "pixels": count}
        for label_id, (iou, accuracy, count) in enumerate(zip(*shares, pixels))
    ]


def class_table(evaluation: Evaluation) -> str:
    """The figures of every class and their means, in percent, as a table in Markdown.

    Args:
        evaluation ([`Evaluation`]): the measurement.

    Returns:
        `str`: its lines, whose columns line up in a terminal too.
    """
    metrics, classes = evaluation.metrics, evaluation.classes
    pixels = sum(entry["pixels"] for entry in classes)
    rows = [(entry["name"], entry["iou"], entry["accuracy"], entry["pixels"]) for entry in classes]
    rows += [("mean of the classes", metrics["mean_iou"], metrics["mean_accuracy"], pixels)]
    rows += [("all pixels", None, metrics["overall_accuracy"], pixels)]
    cells = [
        (name, *(share if share is None else f"{100 * share:.2f}" for share in shares), f"{count:,}")
        for name, *shares, count in rows
    ]
    return markdown_table(("class", "IoU", "accuracy", "pixels"), cells, "lrrr")
