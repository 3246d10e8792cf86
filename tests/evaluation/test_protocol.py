import io
import json
import math
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_mask2former, tiny_offseg
from torch.nn import functional as F
from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

from offseg_hf import OffSegImageProcessor
from offseg_hf.data import load_segmentation_dataset
from offseg_hf.data.labels import LabelTable
from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes
from offseg_hf.evaluation.figures import Evaluation, class_table, named_results
from offseg_hf.evaluation.metric import SemanticSegmentationMetric
from offseg_hf.evaluation.protocol import evaluate_model
from offseg_hf.models.image_processing_offseg import read_image, read_mask
from offseg_hf.prediction.windows import label_maps_in_bands
from offseg_hf.training.metrics import BatchMetrics, predicted_label_maps

ID2LABEL = dict(enumerate(SCENE_LABELS))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", num_train=4, num_validation=5, size=(64, 96))


def scene_model():
    return tiny_offseg(num_labels=len(ID2LABEL), id2label=ID2LABEL)


def load(scenes, streaming=False):
    return load_segmentation_dataset(str(scenes), "validation", streaming=streaming)


def expected_metrics(model, data, predict):
    metric = SemanticSegmentationMetric(model.config.num_labels)
    for example in data:
        labels = torch.from_numpy(read_mask(example["mask"]).astype(np.int64))
        metric.add(prediction=predict(read_image(example["image"]), labels.shape), reference=labels)
    return named_results(metric.compute(), model.config.id2label)


# The benchmarks' protocol


@pytest.mark.parametrize("streaming", [False, True])
def test_logits_are_resized_to_the_photo_and_then_to_the_labels(scenes, streaming):
    model, image_processor = scene_model(), OffSegImageProcessor(size={"shortest_edge": 40, "longest_edge": 96})

    @torch.no_grad()
    def predict(image, size):
        pixel_values = image_processor(image, return_tensors="pt")["pixel_values"]
        assert pixel_values.shape[2:] == (40, 60) and size == (64, 96)
        logits = F.interpolate(model.eval()(pixel_values).logits, (40, 60), mode="bilinear")
        return F.interpolate(logits, size, mode="bilinear").argmax(1)[0]

    evaluation = evaluate_model(model, image_processor, load(scenes, streaming))
    assert evaluation.metrics == pytest.approx(expected_metrics(model, load(scenes), predict), abs=2e-4)  # ties
    assert evaluation.num_examples == 5
    pixels = sum((read_mask(example["mask"]) != 255).sum() for example in load(scenes))
    assert sum(entry["pixels"] for entry in evaluation.classes) == evaluation.confusion_matrix.sum() == pixels


def test_windows_flips_and_scales_are_those_asked_for(scenes):
    model, image_processor = scene_model(), OffSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    half = OffSegImageProcessor(size={"shortest_edge": 32, "longest_edge": 48})

    def predict(image, size):
        views = [processor(image, return_tensors="pt")["pixel_values"] for processor in (image_processor, half)]
        return label_maps_in_bands(model, views, size, (64, 64), (32, 32), flip=True)[0]

    options = {"window_size": (64, 64), "stride": (32, 32), "flip": True, "scales": (1, 0.5)}
    evaluation = evaluate_model(model, image_processor, load(scenes), **options)
    assert evaluation.metrics == expected_metrics(model, load(scenes), predict)
    assert evaluation.metrics != evaluate_model(model, image_processor, load(scenes)).metrics


def tiny_upernet():
    torch.manual_seed(0)
    stages = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    backbone = ConvNextConfig(**stages, out_features=["stage1", "stage2", "stage3", "stage4"])
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=8, pool_scales=[1], use_auxiliary_head=False, id2label=ID2LABEL
    )
    return UperNetForSemanticSegmentation(config)


@pytest.mark.parametrize(
    "make_model", [tiny_upernet, lambda: tiny_mask2former(id2label=ID2LABEL)], ids=["upernet", "mask2former"]
)
def test_models_that_take_no_labels_of_another_size_are_measured(scenes, make_model):
    evaluation = evaluate_model(make_model(), OffSegImageProcessor(size=72), load(scenes))
    assert evaluation.num_examples == 5 and 0 <= evaluation.metrics["mean_iou"] <= 1


def test_stored_ids_go_through_the_table(scenes):
    model, image_processor = scene_model(), OffSegImageProcessor(size=32)
    table = LabelTable({**dict.fromkeys(ID2LABEL, 3), 255: 255})
    evaluation = evaluate_model(model, image_processor, load(scenes), label_table=table)
    assert [entry["name"] for entry in evaluation.classes if entry["pixels"]] == [ID2LABEL[3]]


def test_labels_are_reduced_when_the_image_processor_says_so(scenes):
    model, data = scene_model(), load(scenes)
    plain = evaluate_model(model, OffSegImageProcessor(size=32), data)
    reduced = evaluate_model(model, OffSegImageProcessor(size=32, do_reduce_labels=True), data)
    pixels = [[entry["pixels"] for entry in evaluation.classes] for evaluation in (plain, reduced)]
    assert pixels[1] == [*pixels[0][1:], 0] and pixels[0][0] > 0


@pytest.mark.slow
def test_result_is_that_of_one_process_when_there_are_two(scenes, tmp_path):
    program = tmp_path / "measure.py"
    program.write_text(f"""
import json, sys
from pathlib import Path
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:3]]!r}
from test_protocol import OffSegImageProcessor, evaluate_model, load, scene_model
results = []
for streaming in (False, True):
    data = load({str(scenes)!r}, streaming)
    found = evaluate_model(scene_model(), OffSegImageProcessor(size=32), data, num_pictures=3)
    results.append([found.metrics, found.confusion_matrix.tolist(), found.num_examples, len(found.worst)])
from accelerate import PartialState
state = PartialState()
Path({str(tmp_path)!r}, f"{{state.process_index}}-of-{{state.num_processes}}.json").write_text(json.dumps(results))
state.destroy_process_group()
""")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)]
    subprocess.run(launch, check=True, timeout=300)
    found = evaluate_model(scene_model(), OffSegImageProcessor(size=32), load(scenes), num_pictures=3)
    expected = [found.metrics, found.confusion_matrix.tolist(), 5, 3]
    for process in range(2):
        assert json.loads((tmp_path / f"{process}-of-2.json").read_text()) == [expected, expected]


@pytest.mark.parametrize("scales", [(), (1, 0)])
def test_scales_that_are_none_raise(scenes, scales):
    with pytest.raises(ValueError, match="`scales` must be one or more numbers above 0 and up to 16, got"):
        evaluate_model(scene_model(), OffSegImageProcessor(size=32), load(scenes), scales=scales)


def test_scales_of_a_processor_that_does_not_resize_raise(scenes):
    with pytest.raises(ValueError, match="`scales` must be 1 for an image processor with `do_resize` False"):
        evaluate_model(scene_model(), OffSegImageProcessor(do_resize=False), load(scenes), scales=(1, 2))


def test_no_example_to_measure_on_raises(scenes):
    with pytest.raises(ValueError, match="`data` must hold at least one example to measure on, got none"):
        evaluate_model(scene_model(), OffSegImageProcessor(size=32), load(scenes).select([]))


def test_photo_that_is_none_is_named(scenes):
    rows = [{"image": {"bytes": b"no photo", "path": "some/street.jpg"}, "mask": {"bytes": b"", "path": None}}]
    with pytest.raises(
        ValueError, match=r"`image of example 0 \(street.jpg\): some/street.jpg` must be an image file"
    ):
        evaluate_model(scene_model(), OffSegImageProcessor(size=32), datasets.Dataset.from_list(rows))


# The worst photos


def stored(array, path=None):
    """A picture as data sets hold it."""
    Image.fromarray(array).save(content := io.BytesIO(), format="PNG")
    return {"bytes": content.getvalue(), "path": path}


def test_worst_photos_are_those_of_the_lowest_mean_iou():
    model = tiny_offseg(num_labels=3)
    with torch.no_grad():  # predicts class 1 everywhere
        model.decode_head.offset_learning.cls_repr.zero_()
        model.decode_head.offset_learning.cls_offset_proj.weight.zero_()
        model.decode_head.offset_learning.mask_norm.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    rows = []
    for name, share in (("half", 32), ("all", 64), ("none", 0), ("ignored", None), ("quarter", 16)):
        mask = np.full((64, 64), 2, np.uint8)
        mask[:share] = 1 if share is not None else 255
        rows.append({"image": stored(np.zeros((64, 64, 3), np.uint8), f"{name}.png"), "mask": stored(mask)})
    evaluation = evaluate_model(model, OffSegImageProcessor(size=64), datasets.Dataset.from_list(rows), num_pictures=3)
    captions = [caption for caption, _ in evaluation.worst]
    # IoU of class 1 is the share of its pixels, that of class 2 is 0
    assert captions == [
        "example 2 (none.png): mIoU 0.000, pixel accuracy 0.000",
        "example 4 (quarter.png): mIoU 0.125, pixel accuracy 0.250",
        "example 0 (half.png): mIoU 0.250, pixel accuracy 0.500",
    ]
    photo, truth, prediction, errors = evaluation.worst[2][1]
    assert photo.size == errors.size == (384, 384) and truth.shape == prediction.shape == (384, 384)
    assert (truth[:192] == 1).all() and (truth[192:] == 2).all() and (prediction == 1).all()
    assert errors.getpixel((100, 100)) == (0, 0, 0) and errors.getpixel((100, 300))[0] > 150
    assert evaluation.num_examples == 5 and evaluation.classes[0]["iou"] is None
    assert evaluation.confusion_matrix.tolist() == [[0, 0, 0], [0, 112 * 64, 0], [0, 144 * 64, 0]]


# The table


def test_table_holds_every_class_and_the_means():
    evaluation = Evaluation(
        metrics={"mean_iou": 0.5, "mean_accuracy": 0.75, "overall_accuracy": 2 / 3},
        classes=[
            {"name": "sky", "iou": 0.5, "accuracy": 0.75, "pixels": 1200},
            {"name": "traffic light", "iou": None, "accuracy": None, "pixels": 0},
        ],
        confusion_matrix=None,
        num_examples=1,
        worst=[],
    )
    assert class_table(evaluation).splitlines() == [
        "| class               |   IoU | accuracy | pixels |",
        "| ------------------- | ----: | -------: | -----: |",
        "| sky                 | 50.00 |    75.00 |  1,200 |",
        "| traffic light       |       |          |      0 |",
        "| mean of the classes | 50.00 |    75.00 |  1,200 |",
        "| all pixels          |       |    66.67 |  1,200 |",
    ]


# What Trainer needs


def test_results_are_named_by_class_and_leave_out_absent_ones():
    results = {"mean_iou": 0.5, "mean_accuracy": 0.6, "overall_accuracy": 0.7, "per_category_iou": [0.5, math.nan]}
    named = named_results(results, {0: "sky", 1: "road"})
    assert named == {"mean_iou": 0.5, "mean_accuracy": 0.6, "overall_accuracy": 0.7, "iou_sky": 0.5}


def test_metrics_are_of_all_batches_and_start_anew_when_computed():
    metrics = BatchMetrics({0: "sky", 1: "road"})
    batches = [([[[0, 0]]], [[[0, 1]]]), ([[[1, 1]]], [[[1, 255]]])]
    for _ in range(2):
        for index, (predictions, labels) in enumerate(batches):
            batch = type("Batch", (), {"predictions": torch.tensor(predictions), "label_ids": torch.tensor(labels)})
            results = metrics(batch, compute_result=index == 1)
        # sky: 1 of 2; road: 1 of 2
        assert results == pytest.approx(
            {"mean_iou": 0.5, "mean_accuracy": 0.75, "overall_accuracy": 2 / 3, "iou_sky": 0.5, "iou_road": 0.5}
        )


@pytest.mark.parametrize("as_tuple", [False, True])
def test_predicted_label_maps_have_the_labels_size(as_tuple):
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits, (20, 12), mode="bilinear").argmax(1)
    given = (logits, torch.zeros(1)) if as_tuple else logits
    assert torch.equal(predicted_label_maps(given, torch.zeros(2, 20, 12)), expected)
