"""The metric for the library `evaluate`: `evaluate.load("<path of this file>", num_labels=...)`, without the Hub.

`evaluate` copies this file and reads its imports line by line; it needs the package, and its extra `evaluate`.
"""

from typing import Any

import datasets
import evaluate

import offseg_hf.evaluation.metric

DESCRIPTION = """
Intersection over union and accuracy of semantic segmentation, in total and per class, from the confusion matrix of all
pixels: exact, in constant memory, on the device of the maps.
"""

INPUTS_DESCRIPTION = """
Args:
    predictions: predicted class ids, a tensor or array (B, H, W) of integers or a list of maps (H, W) of any sizes.
    references: label maps of the same sizes.

Returns:
    mean_iou: mean of the classes' intersection over union, absent classes left out.
    mean_accuracy: mean of the classes' accuracies (recalls), absent classes left out.
    overall_accuracy: share of the labelled pixels that are right.
    per_category_iou: list of K; NaN for a class that is neither in the labels nor predicted.
    per_category_accuracy: list of K; NaN for a class that is not in the labels.
"""


class SemanticSegmentation(evaluate.Metric):
    """[`~offseg_hf.evaluation.metric.SemanticSegmentationMetric`] as `evaluate` knows metrics.

    Unlike other metrics of that library, it writes no map to a file: each is counted when it is added.

    Args:
        num_labels (`int`): number of classes K, see [`~offseg_hf.evaluation.metric.SemanticSegmentationMetric`].
        ignore_index (`int`, *optional*, defaults to 255): label of the pixels that do not count.
        **kwargs: passed on to `evaluate.Metric`.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255, **kwargs: Any):
        super().__init__(**kwargs)
        metric = offseg_hf.evaluation.metric.SemanticSegmentationMetric(num_labels, ignore_index)
        self.add, self.add_batch, self.compute, self.reset = metric.add, metric.add_batch, metric.compute, metric.reset

    def _info(self):
        feature = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": feature, "references": feature}),
        )
