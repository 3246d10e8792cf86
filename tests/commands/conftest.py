"""Drawn scenes and a tiny model of their classes, made once for all tests of the commands."""

import shutil

import pytest
from tiny_models import tiny_offseg

from offseg_hf import OffSegImageProcessor
from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder of 8 scenes to train on and 2 to measure on, of 64×96 pixels."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, num_train=8, num_validation=2, size=(64, 96))
    return folder


@pytest.fixture(scope="session")
def shared_model(tmp_path_factory):
    """The folder of a tiny model of the scenes' classes, into which nothing may be written."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_offseg(num_labels=len(SCENE_LABELS), id2label=dict(enumerate(SCENE_LABELS))).save_pretrained(folder)
    OffSegImageProcessor(size={"height": 64, "width": 96}).save_pretrained(folder)
    return folder


@pytest.fixture
def model_folder(shared_model, tmp_path):
    """A copy of it for one test."""
    return shutil.copytree(shared_model, tmp_path / "model")
