import numpy as np
import pytest
from PIL import Image

from offseg_hf.pictures.overlays import (
    add_legend,
    colorize,
    mark_errors,
    overlay,
    picture_sheet,
)
from offseg_hf.pictures.palettes import default_palette
from offseg_hf.pictures.saving import save_picture

PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
NAMES = {0: "road", 1: "tree", 2: "sky"}
IGNORED = (26, 26, 30)


def colours_of(picture):
    return {colour for _, colour in picture.getcolors(maxcolors=1 << 24)}


@pytest.mark.parametrize("num_labels", [1, 2, 19, 171, 300])
def test_default_palette_has_distinct_colours(num_labels):
    palette = default_palette(num_labels)
    assert palette.shape == (num_labels, 3)
    assert palette.dtype == np.uint8
    assert len(np.unique(palette, axis=0)) == num_labels


def test_default_palette_keeps_colours_apart_when_classes_are_many():
    palette = default_palette(171).astype(int)
    distances = np.abs(palette[:, None] - palette).max(axis=-1) + 999 * np.eye(171)
    assert distances.min() >= 16


def test_default_palette_begins_as_a_smaller_one():
    np.testing.assert_array_equal(default_palette(30)[:8], default_palette(8))


def test_default_palette_repeats_when_colours_run_out():
    assert default_palette(5000).shape == (5000, 3)


def test_default_palette_without_classes_raises():
    with pytest.raises(ValueError, match="`num_labels` must be at least 1, got 0"):
        default_palette(0)


def test_colorize_gives_each_pixel_its_colour():
    picture = np.asarray(colorize(np.array([[0, 2], [255, 1]]), PALETTE))
    assert picture.tolist() == [[[200, 0, 0], [0, 0, 200]], [list(IGNORED), [0, 200, 0]]]


def test_colorize_takes_255_for_a_class_when_it_has_a_colour():
    palette = default_palette(300)
    picture = np.asarray(colorize(np.array([[255, 299]], dtype=np.uint16), palette))
    np.testing.assert_array_equal(picture[0], palette[[255, 299]])


@pytest.mark.parametrize("wrong", [3, -100, 256])
def test_colorize_names_ids_without_a_colour(wrong):
    with pytest.raises(ValueError, match=rf"`label_map` must hold ids from 0 to 2.*got \[{wrong}\]"):
        colorize(np.array([[0, wrong]]), PALETTE)


@pytest.mark.parametrize("label_map", [np.zeros((2, 2, 3), int), np.zeros((2, 2))])
def test_colorize_of_something_else_raises(label_map):
    with pytest.raises(ValueError, match="`label_map` must be integers of shape \\(height, width\\)"):
        colorize(label_map, PALETTE)


def test_overlay_blends_and_leaves_ignored_pixels():
    photo = Image.new("RGB", (2, 1), (100, 100, 100))
    picture = np.asarray(overlay(photo, np.array([[0, 255]]), PALETTE, opacity=0.25))
    assert picture.tolist() == [[[125, 75, 75], [100, 100, 100]]]


def test_overlay_takes_a_grey_photo():
    assert overlay(Image.new("L", (3, 2)), np.zeros((2, 3), np.uint8), PALETTE).mode == "RGB"


def test_overlay_of_another_size_raises():
    with pytest.raises(ValueError, match="`label_map` must have the size of the photo, 2x3, got 3x2"):
        overlay(Image.new("RGB", (3, 2)), np.zeros((3, 2), int), PALETTE)


def test_overlay_with_an_opacity_above_one_raises():
    with pytest.raises(ValueError, match="`opacity` must lie between 0 and 1, got 50"):
        overlay(Image.new("RGB", (2, 2)), np.zeros((2, 2), int), PALETTE, opacity=50)


def test_legend_shows_only_the_classes_found():
    picture = add_legend(Image.new("RGB", (300, 40), "black"), np.array([[0, 0, 2, 255]]), NAMES, PALETTE)
    below = colours_of(picture.crop((0, 40, *picture.size)))
    assert {PALETTE[0], PALETTE[2], IGNORED} <= below
    assert PALETTE[1] not in below


def test_legend_leaves_the_picture_as_it_is():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    picture = add_legend(photo, np.zeros((50, 70), np.uint8), NAMES, PALETTE)
    np.testing.assert_array_equal(np.asarray(picture)[:50, :70], np.asarray(photo))


def test_legend_orders_classes_by_share():
    picture = np.asarray(add_legend(Image.new("RGB", (20, 20)), np.array([[1, 2, 2, 2, 0, 0]]), NAMES, PALETTE))
    rows = [np.nonzero((picture == colour).all(axis=-1))[0].min() for colour in (PALETTE[2], PALETTE[0], PALETTE[1])]
    assert rows == sorted(rows)


def test_legend_of_every_class_fits_below_a_tiny_picture():
    label_map = np.arange(171, dtype=np.uint8).reshape(9, 19)
    names = {index: f"class {index} with a rather long name" for index in range(171)}
    palette = default_palette(171)
    picture = add_legend(Image.new("RGB", (32, 32)), label_map, names, palette)
    assert {tuple(colour) for colour in palette.tolist()} <= colours_of(picture)


def test_legend_cuts_endless_names():
    image, label_map = Image.new("RGB", (32, 32)), np.zeros((32, 32), np.uint8)
    width = add_legend(image, label_map, {0: "a" * 1000}, PALETTE).width
    assert width == add_legend(image, label_map, {0: "a" * 2000}, PALETTE).width < 600


def test_legend_writes_accents_as_plain_letters():
    image, label_map = Image.new("RGB", (32, 32)), np.zeros((32, 32), np.uint8)
    plain, accented = (add_legend(image, label_map, {0: name}, PALETTE) for name in ("cafe", "café"))
    assert plain.tobytes() == accented.tobytes()


def test_legend_falls_back_to_the_id_when_a_name_cannot_be_written():
    image, label_map = Image.new("RGB", (32, 32)), np.ones((32, 32), np.uint8)
    number, unwritable, unnamed = (
        add_legend(image, label_map, names, PALETTE) for names in ({1: "1"}, {1: "道路"}, {0: "road"})
    )
    assert number.tobytes() == unwritable.tobytes() == unnamed.tobytes()


def test_legend_of_a_4k_picture_keeps_its_width():
    label_map = np.zeros((2160, 3840), np.uint8)
    label_map[:20] = np.arange(3840) % 171
    names = {index: f"class {index}" for index in range(171)}
    picture = add_legend(Image.new("RGB", (3840, 2160)), label_map, names, default_palette(171))
    assert picture.width == 3840
    assert 2160 < picture.height < 2 * 2160


def test_picture_sheet_puts_cells_side_by_side_in_their_colours():
    photo = Image.new("RGB", (20, 10), (123, 45, 67))
    rows = [(photo, np.zeros((10, 20), int), np.ones((10, 20), int))] * 2
    sheet = np.asarray(picture_sheet(rows, ("image", "truth", "prediction"), NAMES, PALETTE, cell_width=100))
    assert sheet.shape[1] == 3 * 100 + 4 * 8
    middle = [tuple(sheet[60, x].tolist()) for x in (58, 166, 274)]
    assert middle == [(123, 45, 67), PALETTE[0], PALETTE[1]]


def test_picture_sheet_lists_the_classes_of_all_maps():
    photo = Image.new("RGB", (10, 10))
    rows = [(photo, np.zeros((10, 10), int)), (photo, np.full((10, 10), 2))]
    sheet = np.asarray(picture_sheet(rows, ("image", "truth"), NAMES, PALETTE, cell_width=100))
    legend = Image.fromarray(sheet[-24:])
    assert {PALETTE[0], PALETTE[2]} <= colours_of(legend)
    assert PALETTE[1] not in colours_of(legend)


def test_picture_sheet_takes_photos_of_different_sizes():
    rows = [
        (Image.new("RGB", (50, 20)), np.zeros((20, 50), int)),
        (Image.new("RGB", (20, 60)), np.zeros((60, 20), int)),
    ]
    sheet = picture_sheet(rows, ("image", "truth"), NAMES, PALETTE, cell_width=100)
    assert sheet.height > 40 + 300


def test_picture_sheet_with_missing_cells_raises():
    with pytest.raises(ValueError, match="a cell for each of the 2 headers"):
        picture_sheet([(Image.new("RGB", (8, 8)),)], ("image", "truth"), NAMES, PALETTE)


def test_picture_sheet_has_a_caption_above_each_row():
    rows = [(Image.new("RGB", (20, 10), (123, 45, 67)),)] * 2
    plain = picture_sheet(rows, ("image",), NAMES, PALETTE, cell_width=100)
    sheet = picture_sheet(rows, ("image",), NAMES, PALETTE, cell_width=100, captions=("one", "two"))
    assert sheet.height == plain.height + 2 * (12 + 8)
    above = [sheet.crop((0, top, 100, top + 20)) for top in (28, 28 + 20 + 50 + 8)]
    assert all((0, 0, 0) in colours_of(strip) and (123, 45, 67) not in colours_of(strip) for strip in above)
    assert above[0].tobytes() != above[1].tobytes()


def test_picture_sheet_with_missing_captions_raises():
    with pytest.raises(ValueError, match="`captions` must be one for each of the 2 rows, got 1"):
        picture_sheet([(Image.new("RGB", (8, 8)),)] * 2, ("image",), NAMES, PALETTE, captions=("one",))


def test_errors_are_red_on_the_grey_photo():
    photo = Image.new("RGB", (2, 1), (90, 60, 30))
    right, wrong = np.asarray(mark_errors(photo, np.array([[False, True]])))[0].tolist()
    assert right[0] == right[1] == right[2]
    assert wrong[0] > 150 and wrong[1] < 60 and wrong[2] < 60


# Files


def test_picture_is_saved_whole_or_not_at_all(tmp_path):
    save_picture(Image.new("RGB", (4, 4), "red"), tmp_path / "picture.png")
    with pytest.raises(ValueError, match="quality"):
        save_picture(Image.new("RGB", (4, 4)), tmp_path / "picture.jpg", quality="none")
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["picture.png"]
    assert Image.open(tmp_path / "picture.png").getpixel((0, 0)) == (255, 0, 0)
