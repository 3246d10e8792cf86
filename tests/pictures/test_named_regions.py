import numpy as np
import pytest
from PIL import Image

from offseg_hf.pictures.named_regions import class_text, ink_on, name_regions

PALETTE = np.array([(0, 0, 200), (200, 0, 0), (0, 200, 0)], np.uint8)
NAMES = {0: "road", 1: "car", 2: "tree"}
GREY = (90, 90, 90)


def pixels_of(picture, colour):
    """Where the picture has the full colour of a class: a name's ground, or a dot."""
    return (np.asarray(picture) == colour).all(axis=-1)


def named(label_map, size=(200, 150), names=NAMES):
    return name_regions(Image.new("RGB", size, GREY), label_map, names, PALETTE)


def test_name_stands_in_its_region_and_others_are_tinted():
    label_map = np.full((150, 200), 255, np.uint8)
    label_map[20:130, 10:90] = 1
    picture = named(label_map)
    rows, columns = np.nonzero(pixels_of(picture, PALETTE[1]))
    assert label_map[rows, columns].tolist() == [1] * len(rows)
    assert abs(columns.mean() - 50) < 6  # in the middle of its width
    assert picture.getpixel((150, 75)) == GREY
    assert picture.getpixel((12, 22)) == (145, 45, 45)


def test_name_stands_on_the_largest_part():
    label_map = np.full((150, 200), 255, np.uint8)
    label_map[10:60, 10:70] = 1
    label_map[70:145, 90:190] = 1
    rows, _ = np.nonzero(pixels_of(named(label_map), PALETTE[1]))
    assert rows.min() > 65


def test_name_of_a_narrow_region_stands_beside_and_a_dot_marks_it():
    label_map = np.full((150, 200), 0, np.uint8)
    label_map[20:130, 100:102] = 1
    picture = pixels_of(named(label_map), PALETTE[1])
    assert picture[:, 100:102].any()
    assert picture[:, :98].any() or picture[:, 104:].any()


def test_class_of_one_pixel_is_named_though_the_picture_is_smaller():
    label_map = np.zeros((1500, 2000), np.uint8)
    label_map[733, 1207] = 2
    picture = named(label_map)
    marked = pixels_of(picture, PALETTE[2])
    assert marked[73, 120]
    assert marked.sum() > 100  # the name's ground


def test_names_do_not_hide_each_other():
    rng = np.random.default_rng(0)
    for _ in range(5):
        label_map = np.kron(rng.integers(0, 3, (3, 4)), np.ones((40, 40))).astype(np.uint8)
        alone = []
        for class_id in range(3):
            only = np.where(label_map == class_id, class_id, 255).astype(np.uint8)
            if (only != 255).any():
                alone.append((class_id, pixels_of(named(only, (160, 120)), PALETTE[class_id]).sum()))
        together = named(label_map, (160, 120))
        for class_id, num_pixels in alone:
            assert pixels_of(together, PALETTE[class_id]).sum() >= num_pixels


def test_names_that_find_no_room_leave_their_dots():
    label_map = (np.arange(24 * 10) % 3).reshape(24, 10).astype(np.uint8)
    picture = named(label_map, (10, 24))
    assert picture.size == (10, 24)


def test_photo_without_labels_stays_as_it_is():
    picture = named(np.full((30, 40), 255, np.uint8))
    assert picture.getcolors() == [(200 * 150, GREY)]


def test_id_without_a_colour_raises():
    with pytest.raises(ValueError, match=r"must hold ids from 0 to 2, .* got \[7\]"):
        named(np.full((30, 40), 7, np.uint8))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({3: " traffic\n light"}, "traffic light"),
        ({}, "class 3"),
        ({3: ""}, "class 3"),
        ({3: "\uf8ff\ue999"}, "class 3"),
    ],
)
def test_class_without_a_name_that_can_be_written_goes_by_its_id(names, text):
    assert class_text(3, names, 14)[0] == text


def test_ink_can_be_read_on_its_colour():
    assert [ink_on(colour) for colour in ((255, 255, 0), (0, 0, 120), (200, 0, 0))] == ["black", "white", "white"]
