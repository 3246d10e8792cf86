import shutil

import datasets
import pytest
from image_folders import SMALL, write_example

from offseg_hf.data.preparation import prepare_dataset


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a source and its preparation, for tests that change neither."""
    folder = tmp_path_factory.mktemp("prepared")
    for index in range(13):
        write_example(folder / "source", "train", f"{index:02d}")
    for index in range(3):
        write_example(folder / "source", "validation", f"street/{index}")
    prepare_dataset(folder / "source", folder / "out", **SMALL)
    return folder


@pytest.fixture
def source(prepared, tmp_path):
    return shutil.copytree(prepared / "source", tmp_path / "source")


@pytest.fixture
def output(prepared, tmp_path):
    """The preparation of `source`."""
    return shutil.copytree(prepared / "out", tmp_path / "out")
