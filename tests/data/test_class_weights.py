"""Class weights from the label maps of a data set: ENet's rule on pixels counted by hand."""

import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image

from offseg_hf.data import estimate_class_weights, load_segmentation_dataset
from offseg_hf.data.labels import LabelTable
from offseg_hf.data.scenes.scenes import write_scenes
from offseg_hf.models.image_processing_offseg import read_mask


def examples(*masks):
    """Undecoded examples of label maps, as a data set on disk has them."""
    for mask in masks:
        file = io.BytesIO()
        Image.fromarray(np.array(mask, np.uint8)).save(file, "PNG")
        yield {"image": None, "mask": {"bytes": file.getvalue(), "path": None}}


def weight(share):
    return round(1 / math.log(1.02 + share), 4)


def test_weights_follow_the_share_of_the_labelled_pixels():
    masks = [[[0, 0, 0, 2]], [[0, 0, 2, 255], [0, 255, 255, 255]]]  # six 0, no 1, two 2
    assert estimate_class_weights(examples(*masks), 3) == [weight(6 / 8), weight(0), weight(2 / 8)]
    assert (weight(0), weight(1)) == (50.4983, 1.4223)


def test_background_has_a_weight_of_its_own_when_there_is_one_class():
    assert estimate_class_weights(examples([[0, 0, 0, 1]]), 1) == [weight(3 / 4), weight(1 / 4)]


def test_labels_are_reduced_when_classes_count_from_1():
    masks = [[[0, 1, 1, 1, 2, 255]]]
    weights = estimate_class_weights(examples(*masks), 2, label_table=LabelTable.reduced(2))
    assert weights == [weight(3 / 4), weight(1 / 4)]


def test_stored_ids_go_through_the_table():
    table = LabelTable({7: 0, 9: 1, 0: 255})
    assert estimate_class_weights(examples([[7, 7, 9, 0]]), 2, label_table=table) == [weight(2 / 3), weight(1 / 3)]


def test_an_endless_stream_is_read_so_far(capsys):
    stream = itertools.cycle(list(examples([[0, 1]], [[0, 0]], [[1, 1]])))
    weights = estimate_class_weights(stream, 2, max_examples=2)
    assert weights == [weight(3 / 4), weight(1 / 4)]
    assert "2/2" in capsys.readouterr().err


def test_no_bar_when_unasked_for(capsys):
    estimate_class_weights(examples([[0, 1]]), 2, show_progress=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("streaming", [False, True])
def test_every_example_of_a_data_set_is_counted(tmp_path, streaming):
    folder = write_scenes(tmp_path / "scenes", num_train=5, num_validation=1, size=(32, 48))
    data = load_segmentation_dataset(str(folder), "train", streaming=streaming)
    ids = np.concatenate([read_mask(example["mask"], name="mask").ravel() for example in data])
    ids = ids[ids != 255].tolist()
    expected = [weight(ids.count(label_id) / len(ids)) for label_id in range(8)]
    assert estimate_class_weights(data, 8) == expected


def test_error_when_a_label_is_no_class():
    masks = [[[0, 1]], [[0, 3]]]
    with pytest.raises(ValueError, match=r"`mask of example 1` must hold class ids from 0 to 2 or 255, got 0 to 3"):
        estimate_class_weights(examples(*masks), 3)


@pytest.mark.parametrize("masks", [[], [[[255, 255]]]], ids=["no example", "all ignored"])
def test_error_when_no_pixel_is_labelled(masks):
    with pytest.raises(ValueError, match="`data` must have labelled pixels, got none; check the mask column"):
        estimate_class_weights(examples(*masks), 3)
