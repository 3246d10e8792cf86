import math
import tracemalloc

import numpy as np
import pytest
import torch

from offseg_hf.evaluation.metric import SemanticSegmentationMetric


def random_maps(num_labels, sizes, seed=0):
    rng = np.random.default_rng(seed)
    predictions = [rng.integers(0, num_labels, size) for size in sizes]
    references = [np.where(rng.random(size) < 0.1, 255, rng.integers(0, num_labels, size)) for size in sizes]
    return predictions, references


def hub_figures(predictions, references, num_labels, ignore_index=255):
    """The documented formula of the Hub's `mean_iou`: histograms per image, summed; nan-means over the classes."""
    bins = np.arange(num_labels + 1) - 0.5
    intersection, predicted, labelled = np.zeros(num_labels), np.zeros(num_labels), np.zeros(num_labels)
    for prediction, reference in zip(predictions, references):
        counted = reference != ignore_index
        prediction, reference = prediction[counted], reference[counted]
        intersection += np.histogram(prediction[prediction == reference], bins)[0]
        predicted += np.histogram(prediction, bins)[0]
        labelled += np.histogram(reference, bins)[0]
    with np.errstate(invalid="ignore"):
        iou = intersection / (predicted + labelled - intersection)
        accuracy = intersection / labelled
    return {
        "mean_iou": np.nanmean(iou),
        "mean_accuracy": np.nanmean(accuracy),
        "overall_accuracy": intersection.sum() / labelled.sum(),
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
    }


def assert_figures_equal(figures, expected):
    assert figures.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(figures[name], value, rtol=1e-12, err_msg=name)


def test_figures_equal_a_hand_count_when_classes_are_mixed():
    # Class 0: 2 pixels, 1 right, 1 more predicted: IoU 1/3. Class 1: 2 pixels, 1 right, 2 more predicted: 1/4.
    # Class 2: 2 pixels, none right, none predicted: 0. Class 3: neither. The ignored pixel counts nowhere.
    reference = [[0, 0, 1, 1], [2, 2, 255, 255]]
    prediction = [[0, 1, 1, 0], [1, 1, 3, 0]]
    prediction[1][0] = 1
    figures = SemanticSegmentationMetric(num_labels=4).compute(predictions=[prediction], references=[reference])
    assert_figures_equal(
        figures,
        {
            "mean_iou": (1 / 3 + 1 / 5 + 0) / 3,  # class 1: 1 right, 1 missed, 3 more predicted
            "mean_accuracy": (1 / 2 + 1 / 2 + 0) / 3,
            "overall_accuracy": 2 / 6,
            "per_category_iou": [1 / 3, 1 / 5, 0, math.nan],
            "per_category_accuracy": [1 / 2, 1 / 2, 0, math.nan],
        },
    )


@pytest.mark.parametrize("absent", [(), (4,)])
def test_figures_equal_the_hubs_formula_when_maps_differ_in_size(absent):
    predictions, references = random_maps(6, [(5, 7), (8, 3), (1, 1), (20, 30)])
    for class_id in absent:
        predictions = [np.where(prediction == class_id, 0, prediction) for prediction in predictions]
        references = [np.where(reference == class_id, 0, reference) for reference in references]
    metric = SemanticSegmentationMetric(num_labels=6)
    metric.add_batch(predictions=predictions[:2], references=references[:2])
    metric.add(prediction=predictions[2], reference=references[2])
    figures = metric.compute(predictions=predictions[3:], references=references[3:])
    assert_figures_equal(figures, hub_figures(predictions, references, 6))


@pytest.mark.parametrize("convert", [np.stack, lambda maps: torch.tensor(np.stack(maps)), list])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_figures_are_the_same_when_maps_come_as_arrays_tensors_or_lists(convert, dtype):
    predictions, references = random_maps(3, [(4, 5)] * 3)
    expected = hub_figures(predictions, references, 3)
    metric = SemanticSegmentationMetric(num_labels=3)
    figures = metric.compute(
        predictions=convert([prediction.astype(dtype) for prediction in predictions]),
        references=convert([reference.astype(dtype) for reference in references]),
    )
    assert_figures_equal(figures, expected)


def test_counts_start_anew_when_computed():
    metric = SemanticSegmentationMetric(num_labels=2)
    metric.compute(predictions=[[[0, 0]]], references=[[[1, 1]]])
    assert metric.compute(predictions=[[[0, 1]]], references=[[[0, 1]]])["mean_iou"] == 1


def test_predictions_count_as_wrong_when_they_are_no_class_id():
    figures = SemanticSegmentationMetric(num_labels=2).compute(
        predictions=[[[0, 7, -3, 255]]], references=[[[0, 0, 1, 1]]]
    )
    assert figures["per_category_iou"] == [0.5, 0]
    assert figures["overall_accuracy"] == 0.25


def test_padding_of_gathered_batches_counts_nowhere_when_present():
    figures = SemanticSegmentationMetric(num_labels=2).compute(
        predictions=[[[0, 1, -100]]], references=[[[0, 1, -100]]]
    )
    assert figures["overall_accuracy"] == 1


def test_other_label_is_ignored_when_ignore_index_is_set():
    metric = SemanticSegmentationMetric(num_labels=3, ignore_index=0)
    assert metric.compute(predictions=[[[1, 2, 2]]], references=[[[1, 2, 0]]])["per_category_iou"][1:] == [1, 1]


def test_background_and_foreground_are_reported_when_the_model_is_binary():
    figures = SemanticSegmentationMetric(num_labels=1).compute(
        predictions=torch.tensor([[[True, False, True]]]), references=[[[1, 0, 0]]]
    )
    assert figures["per_category_iou"] == [0.5, 0.5]


def test_figures_are_nan_when_every_pixel_is_ignored():
    figures = SemanticSegmentationMetric(num_labels=2).compute(predictions=[[[0, 1]]], references=[[[255, 255]]])
    assert all(np.isnan(value).all() for value in figures.values())


def test_memory_is_constant_when_many_maps_are_added():
    metric = SemanticSegmentationMetric(num_labels=3)
    prediction, reference = (maps[0] for maps in random_maps(3, [(100, 100)]))
    metric.add(prediction=prediction, reference=reference)
    tracemalloc.start()
    for _ in range(50):
        metric.add(prediction=prediction.copy(), reference=reference.copy())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < prediction.nbytes / 2


@pytest.mark.gpu
def test_figures_are_the_same_when_maps_are_on_a_gpu():
    predictions, references = random_maps(3, [(4, 5)] * 3)
    figures = SemanticSegmentationMetric(num_labels=3).compute(
        predictions=torch.tensor(np.stack(predictions), device="cuda"),
        references=torch.tensor(np.stack(references), device="cuda"),
    )
    assert_figures_equal(figures, hub_figures(predictions, references, 3))


def test_error_names_the_sizes_when_maps_do_not_match():
    with pytest.raises(
        ValueError, match=r"`predictions` must have the size of `references`, got \(4, 4\) and \(8, 8\)"
    ):
        SemanticSegmentationMetric(num_labels=2).add_batch(
            predictions=[np.zeros((4, 4), int)], references=[np.zeros((8, 8), int)]
        )


def test_error_names_the_counts_when_batches_do_not_match():
    with pytest.raises(ValueError, match="`predictions` must be as many maps as `references`, got 1 and 2"):
        SemanticSegmentationMetric(num_labels=2).add_batch(predictions=[[[0]]], references=[[[0]], [[0]]])


def test_error_asks_for_the_arg_max_when_predictions_are_floats():
    with pytest.raises(
        ValueError, match=r"must be integer class ids, got torch.float32 .*; take the arg-max of logits"
    ):
        SemanticSegmentationMetric(num_labels=2).add(prediction=torch.zeros(2, 2), reference=torch.zeros(2, 2).long())


def test_error_names_the_labels_when_they_are_no_class_id():
    with pytest.raises(
        ValueError, match=r"`references` must hold class ids from 0 to 1 or 255 .*, got \[2, 9\]; check"
    ):
        SemanticSegmentationMetric(num_labels=2).add(prediction=[[0, 0, 0]], reference=[[0, 9, 2]])


def test_error_is_raised_when_there_is_no_class():
    with pytest.raises(ValueError, match="`num_labels` must be at least 1, got 0"):
        SemanticSegmentationMetric(num_labels=0)


@pytest.mark.parametrize("label", [2**32 + 3, 2**63 + 3, 2**64 - 100])
def test_error_is_raised_when_a_label_would_wrap_around(label):
    references = np.array([[label, 0]], np.uint64)
    metric = SemanticSegmentationMetric(4)
    with pytest.raises(ValueError, match=r"`references` must hold class ids from 0 to 3"):
        metric.add(prediction=np.zeros((1, 2), np.uint8), reference=references)
    metric.add(prediction=references, reference=np.zeros((1, 2), np.uint8))  # predictions count as wrong
    assert metric.compute()["overall_accuracy"] == 0.5
