"""The figures of a measurement: by name, and as a table."""

import math


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
