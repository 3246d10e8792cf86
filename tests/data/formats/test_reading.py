"""From a labelling tool's folder to a data set, to a training's batches, to shards."""

import json

import datasets
import numpy as np
import pytest
from mask_samples import SAMPLES, TRUTH, write

from offseg_hf.data import load_segmentation_dataset, open_labelled_dataset
from offseg_hf.models.image_processing_offseg import read_mask

NAMES = ["sky", "road", "car"]
BLUE, GREY = (70, 130, 180), (128, 64, 128)


def test_masks_that_were_corrected_are_drawn_anew(coloured):
    table = table_file(coloured, {"#4682b4": "sky", "128,64,128": "road", "#000000": None})
    for pixels in ([[BLUE, GREY, (0, 0, 0)]], [[GREY, BLUE, (0, 0, 0)]]):
        write(coloured / "masks" / "a.png", pixels)
        [example] = open_labelled_dataset(coloured, label_table=table).load("train")
        assert read_mask(example["mask"]).tolist() == [[int(pixels[0][0] == GREY), int(pixels[0][1] == GREY), 255]]


@pytest.fixture
def coloured(tmp_path):
    """A photo and its mask in colours, without a table."""
    write(tmp_path / "images" / "a.png", np.zeros((1, 3, 3)))
    write(tmp_path / "masks" / "a.png", [[BLUE, GREY, (0, 0, 0)]])
    return tmp_path


def table_file(folder, table):
    path = folder / "table.json"
    path.write_text(json.dumps(table))
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_masks_are_drawn_with_class_ids_whether_streamed_or_not(streaming):
    labelled = open_labelled_dataset(str(SAMPLES / "voc"), names=["car", "sky", "road"])
    data = load_segmentation_dataset(labelled, "train", streaming=streaming)
    assert isinstance(data, datasets.IterableDataset if streaming else datasets.Dataset)
    [example] = list(data)
    assert example["image"]["path"].endswith("a.jpg")
    assert np.array_equal(read_mask(example["mask"]), np.array([1, 2, 0, *[255] * 253])[TRUTH])


def test_description_says_what_was_found_in_one_line():
    line = open_labelled_dataset(str(SAMPLES / "voc"), background="background").description()
    assert "Pascal VOC" in line and "1 of train photos" in line and "1 sky" in line and "\n" not in line
    assert "what is not labelled is background" in line


def test_format_can_be_forced():
    assert open_labelled_dataset(SAMPLES / "voc", format="voc").format == "voc"
    with pytest.raises(ValueError, match=r"`format` must be one of .*voc.*, got 'vox'"):
        open_labelled_dataset(SAMPLES / "voc", format="vox")
    with pytest.raises(FileNotFoundError, match=r"one folder or file with `format` voc, and nowhere is none"):
        open_labelled_dataset("nowhere", format="voc")


def test_id_masks_and_hub_ids_are_no_tools_files(tmp_path):
    write(tmp_path / "images" / "a.png", np.zeros((1, 3, 3)))
    write(tmp_path / "masks" / "a.png", [[0, 1, 2]])
    assert open_labelled_dataset(tmp_path) is None
    assert open_labelled_dataset("segments/sidewalk-semantic") is None


def test_colours_are_read_by_a_table_of_ones_own(coloured):
    table = table_file(coloured, {"#4682b4": "sky", "128,64,128": "road", "#000000": None})
    labelled = open_labelled_dataset(coloured, label_table=table)
    assert labelled.id2label == {0: "sky", 1: "road"}
    [mask] = labelled.masks("train")
    assert mask.draw().tolist() == [[0, 1, 255]]
    swapped = open_labelled_dataset(coloured, names=["road", "sky"], label_table=table)
    assert swapped.masks("train")[0].draw().tolist() == [[1, 0, 255]]


def test_error_when_a_colour_is_not_in_the_table(coloured):
    table = table_file(coloured, {"#4682b4": "sky", "128,64,128": "road"})
    [mask] = open_labelled_dataset(coloured, label_table=table).masks("train")
    with pytest.raises(ValueError, match=r"a\.png` must hold what its table names, but 1 pixels have .*#000000"):
        mask.draw()


def test_error_says_how_to_get_a_validation_split():
    labelled = open_labelled_dataset(SAMPLES / "voc")
    with pytest.raises(
        ValueError, match=r"has no validation, only train; .*--validation_fraction 0\.1.*--eval_split none"
    ):
        labelled.masks("validation")


def test_digest_of_a_mask_changes_with_what_is_drawn(coloured):
    table = table_file(coloured, {"#4682b4": "sky", "128,64,128": "road", "#000000": None})
    one, other = (
        open_labelled_dataset(coloured, names=names, label_table=table) for names in (NAMES[:2], ["road", "sky"])
    )
    assert one.masks("train")[0].digest() == one.masks("train")[0].digest() != other.masks("train")[0].digest()
