"""The metric as the library `evaluate` loads it, and that nothing else needs that library."""

import subprocess
import sys
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest

import offseg_hf.evaluation.evaluate_metric
from offseg_hf.evaluation.metric import SemanticSegmentationMetric


@pytest.fixture
def metric(tmp_path, monkeypatch):
    """Loaded by its file, offline; what it writes goes into `tmp_path`."""
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    file = Path(offseg_hf.evaluation.evaluate_metric.__file__)
    return evaluate.load(str(file), num_labels=3, ignore_index=0, cache_dir=str(tmp_path / "metrics"))


def test_metric_loads_without_the_hub_when_given_its_file(metric):
    assert isinstance(metric, evaluate.Metric) and metric.name == "semantic_segmentation"
    assert "mean_iou" in metric.inputs_description
    assert metric.compute(predictions=[[[1, 2, 2]]], references=[[[1, 1, 0]]])["overall_accuracy"] == 0.5


def test_figures_are_those_of_the_metric_however_maps_are_added(metric, tmp_path):
    maps = np.random.default_rng(0).integers(0, 3, (2, 4, 50, 50))
    expected = SemanticSegmentationMetric(3, ignore_index=0).compute(predictions=maps[0], references=maps[1])
    metric.add(prediction=maps[0, 3], reference=maps[1, 3])
    metric.reset()
    metric.add_batch(predictions=maps[0, :2], references=maps[1, :2])
    metric.add(prediction=maps[0, 2], reference=maps[1, 2])
    np.testing.assert_equal(metric.compute(predictions=maps[0, 3:], references=maps[1, 3:]), expected)
    assert not [path for path in (tmp_path / "metrics").rglob("*") if path.is_file()]  # of the maps


def test_measuring_loads_neither_evaluate_nor_what_draws_or_trains():
    code = """
import sys, offseg_hf.evaluation.protocol
print(*{"evaluate", "matplotlib", "onnxruntime", "peft", "tensorboard", "gradio"} & sys.modules.keys())
print(*(name for name in sys.modules if name.startswith("offseg_hf.training")))
"""
    assert not subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
