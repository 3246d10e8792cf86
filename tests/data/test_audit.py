import numpy as np
import pytest
import torch

from offseg_hf.data.audit import audit_labels


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
