import numpy as np
import pytest
import torch

from offseg_hf.data.audit import audit_labels, find_label_encoding
from offseg_hf.data.presets import PRESETS


def masks(*ids):
    """Two masks that share these ids between them."""
    return [np.array([ids[::2]]), np.array([ids[1::2] or ids])]


@pytest.mark.parametrize(
    ("ids", "num_labels", "arguments"),
    [
        ((0, 1, 2, 255), 3, {}),
        ((1, 2), 3, {}),
        ((0, 1), 1, {}),
        ((0, 1, 255), 2, {}),
        ((0,), 2, {}),
        ((0, 255), 5, {}),  # a photo of one class with some pixels unlabelled
        ((0, 1, 2, 3, 255), 3, {"reduce_labels": True}),
        ((0, 1, 254), 2, {"ignore_index": 254}),
        ((-1, 0, 1), 2, {"ignore_index": -1}),
    ],
)
def test_nothing_is_raised_when_ids_can_be_right(ids, num_labels, arguments):
    assert audit_labels(masks(*ids), num_labels, **arguments) is None


def test_tensors_of_any_integer_type_pass_when_ids_can_be_right():
    masks_of_both_kinds = [torch.tensor([[0, 1]]), np.array([[255, 2]], np.uint8)]
    assert audit_labels(iter(masks_of_both_kinds), 3) is None


@pytest.mark.parametrize(
    ("ids", "num_labels", "arguments", "message"),
    [
        ((0, 1, -1), 3, {}, "must not hold negative ids, got -1, 0, 1; write 255"),
        ((0, 255), 2, {}, "got only 0, 255; 255 means unlabelled here, .*divide the masks by 255"),
        ((0, 255), 1, {}, "got only 0, 255; 255 means unlabelled here, .*divide the masks by 255"),
        ((0, 255), 2, {"reduce_labels": True}, "got only 0, 255; .* leave labels unreduced"),
        ((255,), 3, {}, "must have labelled pixels, got only 255, all of them ignored; check the mask column"),
        ((0, 255), 3, {"reduce_labels": True}, "all of them ignored; pass no --do_reduce_labels if 0 is a class"),
        ((1, 2, 3), 3, {}, "up to 2 for 3 classes, got 1, 2, 3; 0 never occurs, .*: pass --do_reduce_labels"),
        (
            (0, 1, 3, 255),
            3,
            {},
            "pass --do_reduce_labels if 0 means unlabelled, or `num_labels` 4 if 0 is a class too",
        ),
        ((0, 7, 33), 19, {}, "up to 18 for 19 classes, got 0, 7, 33; set `num_labels` to the true .* or renumber"),
        ((0, 5), 3, {"reduce_labels": True}, "up to 3, before label 0 is dropped, for 3 classes, got 0, 5; set"),
        ((0, 128, 255), 2, {}, "up to 1 for 2 classes, got 0, 128, 255; set `num_labels`"),
        (range(40), 19, {}, "got 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …; set `num_labels`"),
    ],
)
def test_error_names_the_remedy_when_ids_cannot_be_right(ids, num_labels, arguments, message):
    with pytest.raises(ValueError, match=f"^`masks` .*{message}"):
        audit_labels(masks(*ids), num_labels, **arguments)


def test_error_is_raised_when_there_is_no_mask():
    with pytest.raises(ValueError, match="`masks` must hold at least one label map, got none"):
        audit_labels([], 3)


def encoding(name, *masks, ending=".png"):
    """The name of the encoding that is found from the ids of these masks."""
    examples = ((np.array(ids), f"{index}{ending}") for index, ids in enumerate(masks))
    return find_label_encoding(examples, PRESETS[name]).name


@pytest.mark.parametrize(
    ("name", "masks", "found"),
    [
        ("ade20k", [(0, 5, 150)], "class ids from 1"),
        ("ade20k", [(5, 6)], "class ids from 1"),
        ("cityscapes", [(1, 3, 7, 8), (7, 11, 26)], "labelIds"),
        ("cityscapes", [(7, 26, 255)], "labelIds"),  # licence plates, -1, in an unsigned file
        ("cityscapes", [(-1, 7)], "labelIds"),
        ("cityscapes", [(0, 1, 18), (2, 255)], "trainIds"),
        ("coco_stuff", [(0, 255), (20, 181)], "pixel-map ids"),
        ("coco_stuff", [(0, 12, 171)], "pixel-map ids"),
        ("coco_stuff", [(0, 255), (11, 170)], "trainIds"),  # no pixel map has 11, a street sign
        ("pascal_context", [(0, 59)], "class ids from 1"),
    ],
)
def test_encoding_is_found_from_the_ids(name, masks, found):
    assert encoding(name, *masks) == found


@pytest.mark.parametrize(
    ("name", "ending", "found"),
    [
        ("cityscapes", "_gtFine_labelIds.png", "labelIds"),
        ("cityscapes", "_gtFine_labelTrainIds.png", "trainIds"),
        ("coco_stuff", "_labelTrainIds.png", "trainIds"),
    ],
)
def test_name_of_the_files_decides_when_the_ids_fit_both(name, ending, found):
    assert encoding(name, (7, 8), (12,), ending=ending) == found


def test_ids_decide_when_the_name_of_the_files_says_otherwise():
    assert encoding("cityscapes", (7, 26), ending="_gtFine_labelTrainIds.png") == "labelIds"


def test_more_masks_are_read_while_the_first_do_not_tell():
    assert encoding("cityscapes", *[(7,)] * 150, (33,)) == "labelIds"


def test_no_more_masks_are_read_than_tell():
    def examples():
        for _ in range(16):
            yield np.array([26]), ""
        raise AssertionError("16 are enough")

    assert find_label_encoding(examples(), PRESETS["cityscapes"]).name == "labelIds"


@pytest.mark.parametrize(
    ("name", "masks", "message"),
    [
        (
            "ade20k",
            [(0, 151)],
            r"ids of ADE20K, class ids from 1 \(0…150\), got 0, 151; take the original files, or say",
        ),
        (
            "ade20k",
            [(0, 149), (255,)],
            r"ids of ADE20K, .* got 0, 149, 255; 255 is not among them, so labels seem to be reduced already",
        ),
        ("pascal_context", [(0, 415)], r"ids of Pascal Context, class ids from 1 \(0…59\), got 0, 415; take the orig"),
        ("cityscapes", [(0, 34)], r"ids of Cityscapes, labelIds \(-1…33\) or trainIds \(0…18, 255\), got 0, 34; take"),
        (
            "coco_stuff",
            [(0, 182)],
            r"ids of COCO-Stuff-164K, pixel-map ids \(0…10, .*\) or trainIds .*, got 0, 182; take",
        ),
        (
            "coco_stuff",
            [(11,), (181,)],
            "ids of .* got 11, 181; take the original files, or say what stored ids mean with `--label",
        ),
    ],
)
def test_error_shows_the_encodings_when_the_ids_fit_none(name, masks, message):
    with pytest.raises(ValueError, match=f"^`masks` must hold the {message}"):
        encoding(name, *masks)


@pytest.mark.parametrize("name", ["cityscapes", "coco_stuff"])
def test_error_names_the_remedy_when_the_ids_fit_both_encodings(name):
    with pytest.raises(
        ValueError,
        match=r"^`masks` must show which ids .* but 3, 7, all in the first 2, fit both; say .* `--label_table",
    ):
        encoding(name, (3,), (7,))


def test_error_is_raised_when_there_is_no_mask_to_find_the_encoding_from():
    with pytest.raises(ValueError, match="`masks` must hold at least one label map, got none"):
        encoding("cityscapes")
