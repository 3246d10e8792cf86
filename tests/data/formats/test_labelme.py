"""labelme's files: its own sample, and figures that labelme 6.3.1 drew."""

import base64
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_venv import run_with

from offseg_hf.data.formats import labelme
from offseg_hf.data.formats.drawing import DrawnMask

SAMPLE = Path(__file__).parent / "samples" / "labelme"
NAMES = ("__ignore__", "_background_", "sky", "road", "car")
# Of each kind of figure one, with fractions and in parts outside; 255 is none.
FIGURES = [
    ("polygon", [[1.3, 2.7], [20.5, 1.5], [14.2, 12.9]]),
    ("rectangle", [[30.6, 3.4], [22.5, 9.5]]),
    ("circle", [[45.5, 10.2], [50.1, 12.6]]),
    ("line", [[2.5, 20.5], [25.1, 31.9]]),
    ("linestrip", [[30.2, 20.7], [40.5, 30.5], [58.1, 22.2]]),
    ("point", [[57.3, 38.8]]),
    ("oriented_rectangle", [[10.0, 30.0], [20.0, 33.0], [18.5, 38.5], [8.5, 35.5]]),
    ("polygon", [[40.5, 31.5], [52.5, 31.5], [52.5, 36.5], [40.5, 36.5]]),
]


def figure(kind, points, label, **others):
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, "group_id": None, **others}


def write(file, shapes, photo="a.jpg", size=(40, 60), **others):
    content = {"version": "6.3.1", "flags": {}, "shapes": shapes, "imagePath": photo, "imageData": None}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**content, "imageHeight": size[0], "imageWidth": size[1], **others}))


def write_photo(file, size=(40, 60)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(file)


def square(left, top, size=4):
    return figure("rectangle", [[left, top], [left + size, top + size]], "car")


def draw(labelled, names):
    return DrawnMask(labelled, {name: number for number, name in enumerate(names)}).draw()


def encoded(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def all_figures():
    return [figure(kind, points, f"{number}") for number, (kind, points) in enumerate(FIGURES)]


def test_sample_has_edges_and_a_hole():
    labels = labelme.read(SAMPLE)
    assert labels.names == NAMES and labels.is_complete
    (labelled,) = labels.photos
    assert labelled.photo == SAMPLE / "a.jpg" and labelled.source == "a.json" and labelled.size == (40, 60)
    expected = np.full((40, 60), 255)
    expected[:11] = 2  # the edge at y = 10 too
    expected[20:38, 5:50] = 3  # a mask has no edges of its own
    expected[25:32, 15:25] = 255
    expected[14:29, 30:47] = 4
    expected[30:32, 55:57] = 4
    np.testing.assert_array_equal(draw(labelled, NAMES), expected)


def test_figures_are_as_labelme_draws_them(tmp_path):
    write_photo(tmp_path / "a.jpg")
    write(tmp_path / "a.json", all_figures())
    labels = labelme.read(tmp_path)
    assert labels.names == tuple("01234567") and not labels.is_complete
    np.testing.assert_array_equal(draw(labels.photos[0], labels.names), Image.open(SAMPLE.parent / "figures.png"))


@pytest.mark.network
def test_labelme_itself_draws_them_so(tmp_path):
    write_photo(tmp_path / "a.jpg")
    write(tmp_path / "a.json", all_figures())
    shutil.copytree(SAMPLE, tmp_path / "sample")
    code = """
import sys, numpy as np, PIL.Image
from labelme._label_file import LabelFile
from labelme.utils import shapes_to_label
for file, names in (("a.json", "01234567"), ("sample/a.json", ["sky", "road", "car"])):
    shapes = LabelFile(file).shapes
    ids, _ = shapes_to_label((40, 60), shapes, {name: number + 1 for number, name in enumerate(names)})
    PIL.Image.fromarray((ids - 1).astype(np.uint8)).save(file.replace("json", "png"))
"""
    run_with(["labelme==6.3.1"], code, tmp_path)
    np.testing.assert_array_equal(Image.open(tmp_path / "a.png"), Image.open(SAMPLE.parent / "figures.png"))
    (labelled,) = labelme.read(SAMPLE).photos
    np.testing.assert_array_equal(draw(labelled, NAMES[2:]), Image.open(tmp_path / "sample" / "a.png"))


def test_find_knows_a_folder_a_nested_one_and_a_file(tmp_path):
    assert labelme.find(SAMPLE) and labelme.find(SAMPLE.parent / "labelme" / "a.json")
    assert not labelme.find(SAMPLE.parent / "cvat") and not labelme.find(SAMPLE / "a.jpg")
    (tmp_path / "classes.json").write_text("{}")
    assert not labelme.find(tmp_path)
    write(tmp_path / "deep" / "er" / "a.json", [])
    assert labelme.find(tmp_path)


def test_find_knows_a_file_that_begins_with_its_photo(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"imageData": "A" * 100_000, "imagePath": "a.jpg", "shapes": []}))
    assert labelme.find(tmp_path)


def test_photo_is_the_one_that_its_file_names(tmp_path):
    for folder in ("cam1", "cam2", "images/cam3"):
        write_photo(tmp_path / folder / "a.jpg")
    write(tmp_path / "cam1" / "a.json", [])
    write(tmp_path / "cam2" / "a.json", [], photo="C:\\Users\\me\\cam2\\a.jpg")
    write(tmp_path / "json" / "cam3" / "x.json", [], photo="..\\..\\images\\cam3\\a.jpg")
    write(tmp_path / "json" / "cam2" / "coco.json", [], photo="a.jpg")
    (tmp_path / "json" / "cam2" / "coco.json").write_text('{"images": []}')
    photos = {one.source: one.photo.resolve() for one in labelme.read(tmp_path).photos}
    assert photos == {
        "cam1/a.json": tmp_path / "cam1" / "a.jpg",
        "cam2/a.json": tmp_path / "cam2" / "a.jpg",
        "json/cam3/x.json": tmp_path / "images" / "cam3" / "a.jpg",
    }


def test_photo_in_a_tree_beside_the_files(tmp_path):
    for folder in ("cam1", "cam2"):
        write_photo(tmp_path / "images" / folder / "a.jpg")
        write(tmp_path / "json" / folder / "a.json", [])
    found = [(one.source, one.photo.parent.name) for one in labelme.read(tmp_path).photos]
    assert found == [("json/cam1/a.json", "cam1"), ("json/cam2/a.json", "cam2")]


def test_one_file_is_read_alone(tmp_path):
    for name in "ab":
        write_photo(tmp_path / f"{name}.jpg")
        write(tmp_path / f"{name}.json", [square(0, 0)], photo=f"{name}.jpg")
    assert [one.photo.name for one in labelme.read(tmp_path / "b.json").photos] == ["b.jpg"]


def test_later_figures_are_on_top_whatever_their_group(tmp_path):
    write_photo(tmp_path / "a.jpg")
    below = figure("rectangle", [[0, 0], [9, 9]], "road", group_id=7)
    write(tmp_path / "a.json", [square(2, 2), below, {**square(5, 5), "group_id": 7}])
    labels = labelme.read(tmp_path)
    drawn = draw(labels.photos[0], labels.names)
    assert labels.names == ("car", "road") and drawn[2, 2] == 1 and drawn[5, 5] == 0 and (drawn == 0).sum() == 25


def test_mask_lies_where_its_corners_are(tmp_path):
    write_photo(tmp_path / "a.jpg")
    mask = np.array([[0, 1, 1], [1, 0, 1]], bool)
    write(tmp_path / "a.json", [figure("mask", [[3.0, 38.0], [5.0, 39.0]], "car", mask=encoded(mask))])
    drawn = draw(labelme.read(tmp_path).photos[0], ["car"])
    assert np.argwhere(drawn == 0).tolist() == [[38, 4], [38, 5], [39, 3], [39, 5]]


def test_mask_of_another_size_than_its_corners_is_an_error(tmp_path):
    write_photo(tmp_path / "a.jpg")
    mask = np.ones((2, 3), bool)
    write(tmp_path / "a.json", [figure("mask", [[3, 38], [6, 39]], "car", mask=encoded(mask))])
    labelled = labelme.read(tmp_path).photos[0]
    with pytest.raises(
        ValueError, match=r"`a\.json` must hold pixels .* object 1, car, cannot .* has \(3, 2\) pixels"
    ):
        draw(labelled, ["car"])


def test_size_is_the_upright_photos_where_the_file_has_none(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    write(tmp_path / "a.json", [square(30, 50)], size=(None, None))
    (labelled,) = labelme.read(tmp_path).photos
    drawn = draw(labelled, ["car"])
    assert drawn.shape == (60, 40) and (drawn[50:55, 30:35] == 0).all()


@pytest.mark.parametrize("place", [".", "around"])
def test_order_of_classes_is_that_of_the_list(place, tmp_path):
    folder = tmp_path / "around" / "json"
    write_photo(folder / "a.jpg")
    write(folder / "a.json", [square(0, 0)])
    (folder.parent if place == "around" else folder).joinpath("labels.txt").write_text("__ignore__\n\nroad\n car \n")
    labels = labelme.read(folder)
    assert labels.names == ("__ignore__", "road", "car") and labels.is_complete


def test_error_when_the_list_lacks_a_class(tmp_path):
    write_photo(tmp_path / "a.jpg")
    write(tmp_path / "a.json", [square(0, 0)])
    (tmp_path / "labels.txt").write_text("road\n")
    with pytest.raises(
        ValueError, match=r"labels\.txt` must have a line for each class, and lacks car, which a\.json"
    ):
        labelme.read(tmp_path)
    (tmp_path / "labels.txt").write_text("road\ncar\n")
    assert labelme.read(tmp_path).names == ("road", "car")


@pytest.mark.parametrize(
    "shape, found",
    [
        (figure("polygon", [[0, 0], [5, 5]], "car"), "a polygon with 2 points"),
        (figure("circle", [[0, 0]], "car"), "a circle with 1 points"),
        (figure("cuboid", [[0, 0], [5, 5], [9, 9]], "car"), "a cuboid with 3 points"),
        (figure("polygon", [[0, 0], [5, None], [5, 9]], "car"), "a polygon with 0 points|a polygon with 3 points"),
        (figure("polygon", [], "car"), "a polygon with 0 points"),
    ],
)
def test_error_when_labelme_would_not_draw_a_figure(shape, found, tmp_path):
    write_photo(tmp_path / "a.jpg")
    write(tmp_path / "a.json", [square(0, 0), shape])
    with pytest.raises(ValueError, match=rf"a\.json` must hold figures .* object 2, car, is ({found}); open it in"):
        labelme.read(tmp_path)


def test_error_when_a_file_is_damaged(tmp_path):
    (tmp_path / "a.json").write_text('{"shapes": [')
    with pytest.raises(ValueError, match=r"a\.json` must be JSON, but cannot be read"):
        labelme.read(tmp_path)


def test_error_when_the_photo_is_missing(tmp_path):
    write(tmp_path / "a.json", [], photo="C:\\photos\\a.jpg")
    with pytest.raises(FileNotFoundError, match=r"`a\.json` names the photo .*a\.jpg, and there is no a\.jpg below"):
        labelme.read(tmp_path)


def test_photo_inside_a_file_is_written_by_the_command_that_the_error_has(tmp_path):
    photo = (SAMPLE / "a.jpg").read_bytes()
    write(tmp_path / "a.json", [square(0, 0)], photo="..\\a.jpg", imageData=base64.b64encode(photo).decode())
    with pytest.raises(
        FileNotFoundError, match=r"must have its photo a\.jpg beside it, and has it only inside"
    ) as info:
        labelme.read(tmp_path)
    command = (
        str(info.value).split("what is inside by ")[1].split(" in /")[0].replace("python ", f"{sys.executable} ", 1)
    )
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert labelme.read(tmp_path).photos[0].photo.read_bytes() == photo


def test_error_when_two_files_are_of_the_same_photo(tmp_path):
    write_photo(tmp_path / "a.jpg")
    for name in ("a.json", "a (copy).json"):
        write(tmp_path / name, [square(0, 0)])
    with pytest.raises(ValueError, match=r"`a\.json` must be the only labels of .*, but `a \(copy\)\.json` are"):
        labelme.read(tmp_path)
    (tmp_path / "a (copy).json").unlink()
    assert len(labelme.read(tmp_path).photos) == 1
