import numpy as np
import pytest
from PIL import Image

from offseg_hf.data.preparation.preview import PreviewExample, choose_examples, preview_picture
from offseg_hf.data.preparation.statistics import LabelStatistics
from offseg_hf.data.scenes import SCENE_LABELS, draw_scene
from offseg_hf.pictures.palettes import default_palette

NAMES = dict(enumerate(SCENE_LABELS))
RED = (200, 0, 40)


def scene_example(seed, size=(64, 96)):
    photo, mask = draw_scene(seed, size)
    return PreviewExample(f"train · scene{seed}", photo, lambda: mask)


def preview(examples, names=NAMES, **options):
    statistics = LabelStatistics()
    for example in examples:
        statistics.add(example.class_ids(), example.name)
    options = {"title": "Scenes", "num_photos": {"train": len(examples)}} | options
    return preview_picture(examples, statistics, names, **options)


def has_colour(picture, colour):
    return (np.asarray(picture) == colour).all(axis=-1).any()


def test_preview_has_the_colour_of_each_class_that_occurs():
    examples = [scene_example(seed) for seed in range(5)]
    occurring = {class_id for example in examples for class_id in np.unique(example.class_ids()) if class_id != 255}
    picture = preview(examples)
    assert picture.width == 1600
    assert occurring
    assert all(has_colour(picture, default_palette(len(NAMES))[class_id]) for class_id in occurring)


def test_preview_marks_in_red_what_may_be_wrong():
    uniform = PreviewExample("a", Image.new("RGB", (60, 40)), lambda: np.zeros((40, 60), np.uint8))
    assert not has_colour(preview([uniform], {0: "sky"}, near_duplicates=[]), RED)
    assert has_colour(preview([uniform], {0: "sky"}, near_duplicates=[["a", "b"]]), RED)
    assert has_colour(preview([uniform], {0: "sky"}, notes=["car stays in train."]), RED)
    assert has_colour(preview([uniform], {0: "sky", 1: "car"}), RED)  # which does not occur


@pytest.mark.parametrize("size", [(900, 40), (40, 900), (3, 2), (48, 48)], ids=str)
def test_preview_takes_photos_of_any_form(size):
    ids = np.zeros(size, np.uint8)
    example = PreviewExample("a", Image.new("RGB", size[::-1]), lambda: ids)
    picture = preview([example, scene_example(1), scene_example(2, (96, 64))])
    assert picture.width == 1600
    assert picture.height < 1600


def test_preview_of_many_photos_fills_the_width_in_four_rows():
    palette = default_palette(2)
    ids = np.zeros((30, 40), np.uint8)
    example = PreviewExample("a", Image.new("RGB", (40, 30), tuple(palette[0].tolist())), lambda: ids)
    is_photo = (np.asarray(preview([example] * 16, {0: "sky", 1: "car"})) == palette[0]).all(axis=-1)
    rows, columns = np.flatnonzero(is_photo.sum(1) > 1200), np.flatnonzero(is_photo.sum(0) > 800)
    assert (np.diff(rows) > 1).sum() == 3
    assert (columns.min(), columns.max()) == (32, 1567)


def test_preview_of_150_classes_with_long_names():
    names = {index: f"a class with a rather long name, number {index}, of a hundred and fifty" for index in range(150)}
    ids = np.arange(64 * 96).reshape(64, 96) // 41 % 150
    picture = preview([PreviewExample("a" * 300, Image.new("RGB", (96, 64)), lambda: ids.astype(np.uint8))], names)
    assert picture.width == 1600
    assert all(has_colour(picture, colour) for colour in default_palette(150))


def test_preview_turns_a_photo_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 200), (90, 90, 90)).save(tmp_path / "turned.jpg", exif=exif)
    ids = np.full((300, 200), 255, np.uint8)
    example = PreviewExample("turned", tmp_path / "turned.jpg", lambda: ids)
    is_photo = (np.asarray(preview([example])) == 90).all(axis=-1)
    rows, columns = np.nonzero(is_photo)
    assert abs((np.ptp(rows) + 1) / (np.ptp(columns) + 1) - 1.5) < 0.02


def test_preview_of_a_broken_photo_names_it(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        preview([PreviewExample("broken", tmp_path / "broken.jpg", lambda: np.zeros((2, 2), np.uint8))])


def test_chosen_examples_show_every_class():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 100, (500, 10)) * (rng.random((500, 10)) < 0.002 * np.arange(1, 11))
    counts = np.column_stack([np.full(500, 5000), counts])
    chosen = choose_examples(counts)
    assert len(set(chosen)) == 16
    assert chosen == sorted(chosen)
    assert ((counts[chosen] > 0).any(0) == (counts > 0).any(0)).all()


def test_chosen_example_is_the_one_that_shows_most():
    counts = np.array(
        [
            [900, 100, 0],
            [100, 900, 0],
            [500, 400, 100],  # all three classes
            [999, 0, 1],
            [9999, 1, 0],
        ]
    )
    assert choose_examples(counts, num_examples=1) == [2]


def test_chosen_example_shows_more_than_a_few_pixels_where_one_does():
    counts = np.array([[99_999, 1, 10], [90_000, 10_000, 0], [99_980, 20, 0]])
    assert choose_examples(counts, num_examples=2) == [0, 1]


def test_choice_is_filled_up_by_the_seed():
    counts = np.ones((300, 1), int)
    assert choose_examples(counts, seed=1) == choose_examples(counts, seed=1)
    assert choose_examples(counts, seed=1) != choose_examples(counts, seed=2)


def test_all_examples_are_chosen_where_there_are_few():
    assert choose_examples(np.zeros((3, 2), int)) == [0, 1, 2]
