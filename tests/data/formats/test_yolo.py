import json

import numpy as np
import pytest
from label_samples import SAMPLES, TRUTH, add_photo, label_map
from PIL import Image
from tool_venv import run_with

from offseg_hf.data.formats import yolo

SQUARE = "1 0.2 0.125 0.5 0.125 0.5 0.375 0.2 0.375"  # pixels 2 to 5 and 1 to 3 of 10×8


def write(folder, lines=(SQUARE,), photo="images/a.png", label="labels/a.txt", settings="names: [road, car]"):
    """A data set of one photo of 8×10 pixels."""
    add_photo(folder / photo, (8, 10))
    (folder / label).parent.mkdir(parents=True, exist_ok=True)
    (folder / label).write_text("\n".join(lines))
    (folder / "data.yaml").write_text(settings)
    return folder


def test_sample_is_the_truth():
    labels = yolo.read(SAMPLES / "yolo")
    assert labels.names == ("sky", "road", "car") and labels.is_complete
    assert (label_map(labels) == TRUTH).all()
    (photo,) = labels.photos
    assert (photo.photo.name, photo.source, photo.size, photo.split) == ("a.jpg", "labels/a.txt", (40, 60), "train")


FILL = """
import json
import cv2
import numpy as np
print(json.dumps([
    cv2.fillPoly(np.zeros((8, 10), np.uint8), [np.asarray(points, np.int32)], 1).tolist()
    for points in json.load(open("points.json"))
]))
"""


@pytest.mark.network
def test_pixels_are_those_of_whole_points_in_opencv(tmp_path):
    points = np.random.default_rng(0).uniform(0, 1, (200, 6, 2)).round(6)
    (tmp_path / "points.json").write_text(json.dumps((points * [10, 8]).tolist()))
    lines = json.loads(run_with(["opencv-python-headless==4.11.0.86", "numpy"], FILL, tmp_path))
    for outline, line in zip(points, lines):
        write(tmp_path / "data", [f"0 {' '.join(map(str, outline.ravel()))}"])
        assert ((label_map(yolo.read(tmp_path / "data")) == 0) == np.array(line)).all()


def test_points_are_cut_to_whole_pixels_but_for_what_decimals_lost(tmp_path):
    # 2.98 is within pixel 2; 0.6667·9 would be a pixel of its own.
    found = label_map(yolo.read(write(tmp_path, ["0 0.298 0.125 0.599999 0.125 0.599999 0.24 0.298 0.24"])))
    assert list(zip(*np.nonzero(found == 0))) == [(1, x) for x in range(2, 7)]


@pytest.mark.parametrize(
    "line, pixels", [("0 0.3 0.5 0.0 0.0", [(4, 3)]), ("0 0.4 0.25 0.2 0", [(2, 3), (2, 4), (2, 5)])]
)
def test_box_without_extent_is_a_row_of_pixels(line, pixels, tmp_path):
    found = label_map(yolo.read(write(tmp_path, [line])))
    assert list(zip(*np.nonzero(found == 0))) == pixels


def test_later_lines_lie_on_top_and_empty_files_are_kept(tmp_path):
    whole = "0 0 0 1 0 1 1 0 1"
    write(tmp_path, [SQUARE, "", whole, SQUARE])
    write(tmp_path, [], "images/b.png", "labels/b.txt")
    add_photo(tmp_path / "images" / "c.png")
    labels = yolo.read(tmp_path)
    assert [one.photo.name for one in labels.photos] == ["a.png", "b.png"]
    found = label_map(labels)
    assert [(found == class_id).sum() for class_id in (0, 1)] == [80 - 12, 12]
    assert (label_map(labels, 1) == 255).all()


def test_photo_that_is_turned_has_labels_in_its_upright_picture(tmp_path):
    write(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 10)).save(tmp_path / "images" / "a.png", exif=exif)
    labels = yolo.read(tmp_path)
    assert labels.photos[0].size == (8, 10)
    assert label_map(labels)[1:4, 2:6].sum() == 12


def listed(folder):
    return [(str(one.photo.relative_to(folder)), one.split) for one in yolo.read(folder).photos]


@pytest.mark.parametrize(
    "settings",
    [
        "names: {1: car, 0: road}\nnc: 2\npath: /gone\ntrain: images/train\nval: images/val\ntest: images/none",
        "names: [road, car]\npath: .\ntrain: [images/train]\nvalidation: [images/val]",
        "names: [road, car]\ntrain: ../images/train\nval: ../images/val",
        "names: [road, car]\ntrain: train.txt\nval: lists/val.txt",
        "names: [road, car]\n",
    ],
)
def test_splits_are_those_of_the_settings_or_of_folders(settings, tmp_path):
    for split in ("train", "val"):
        write(tmp_path, [SQUARE], f"images/{split}/a.png", f"labels/{split}/a.txt", settings)
    (tmp_path / "lists").mkdir()
    (tmp_path / "train.txt").write_text("./images/train/a.png\n")
    (tmp_path / "lists" / "val.txt").write_text("")
    (tmp_path / "val").mkdir()
    expected = [("images/train/a.png", "train"), ("images/val/a.png", "validation")]
    assert listed(tmp_path) == (expected[:1] if "lists" in settings else expected)
    assert yolo.read(tmp_path / "data.yaml").names == ("road", "car")


def test_folders_of_roboflow_and_labels_beside_photos(tmp_path):
    write(tmp_path, [SQUARE], "train/images/a.png", "train/labels/a.txt", "nc: 2\ntrain: ../train/images")
    assert listed(tmp_path) == [("train/images/a.png", "train")]
    assert yolo.read(tmp_path).names == ("class_0", "class_1")
    write(tmp_path / "beside", [SQUARE], "valid/a.png", "valid/a.txt")
    assert listed(tmp_path / "beside") == [("valid/a.png", "validation")]


def test_classes_of_a_text_file(tmp_path):
    write(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_text("road\ncar\n\n")
    assert yolo.find(tmp_path) and yolo.read(tmp_path / "classes.txt").names == ("road", "car")


def test_other_folders_are_not_ours(tmp_path):
    assert yolo.find(SAMPLES / "yolo") and yolo.find(SAMPLES / "yolo" / "data.yaml")
    assert not any(yolo.find(SAMPLES / sample) for sample in ("coco_datumaro", "darwin", "supervisely", "truth.png"))
    (tmp_path / "other.yaml").write_text("model: !custom {}")
    assert not yolo.find(tmp_path)


@pytest.mark.parametrize(
    "line, message",
    [
        ("1 0.5 0.5 0.1 0.1", "but 1 0.5 0.5 0.1 0.1 is a box; export segmentation labels"),
        ("1 0.1 0.1 0.2 0.2 0.3", "got 5 numbers after the class in 1 0.1 0.1 0.2 0.2 0.3; export it again"),
        ("2 0 0 1 0 1 1", "with one of the classes 0 to 1, got 2 0 0 1 0 1 1; correct it"),
        ("1 0 0 9 0 9 7", "as parts of the photo's width and height, from 0 to 1, got 1 0 0 9 0 9 7; export it again"),
        ("1 nan 0 1 0 1 1", "from 0 to 1, got 1 nan"),
        ("car 0 0 1 0 1 1", r"labels/a\.txt` must have lines of a class and the x and y of an outline, got car 0 0"),
    ],
)
def test_error_when_a_line_is_no_outline(line, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        yolo.read(write(tmp_path, [SQUARE, line]))


@pytest.mark.parametrize(
    "settings, message",
    [
        ("names: [road, road]", "must have each name once, got road for several classes; rename one"),
        ("names: {1: road, 2: car}", r"must name the classes 0, 1, … and have their number as `nc`, got \{1: 'road'"),
        ("names: [road, car]\nnc: 3", r"got \['road', 'car'\] and 3; correct it"),
        ("names: [road, car]\nkpt_shape: [17, 3]", "must be of outlines, but has `kpt_shape`, of points"),
        ("names: [road", r"data\.yaml` must be YAML, but cannot be read"),
        ("names: road", r"data\.yaml` must have a list of names as `names`, got road; put"),
        (
            "names: [road, no]",
            r"data\.yaml` must have a list of names as `names`, got \['road', False\]; put .* quotes",
        ),
        ("nc: many", r"data\.yaml` must be as the labelling tool writes it, but what is in it cannot"),
        ("names: [road, car]\ntrain: images\nval: images", r"but .*a\.png is in train and validation; list it once"),
    ],
)
def test_error_when_settings_contradict_themselves(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        yolo.read(write(tmp_path, settings=settings))


def test_error_when_no_photo_has_labels(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"must have photos with labels, `labels/a\.txt` for `images/a\.jpg`, and"
    ):
        yolo.read(write(tmp_path, label="texts/a.txt"))


def test_labels_of_label_studio_are_called_after_the_address(tmp_path):
    write(tmp_path, label="labels/?d=photos%2Fa.txt")
    (photo,) = yolo.read(tmp_path).photos
    assert photo.photo.name == "a.png" and len(photo.shapes) == 1


def test_error_when_labels_have_no_photo(tmp_path):
    write(tmp_path)
    (tmp_path / "labels" / "b.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=r"labels/b\.txt` must have a photo of its name, and there is none below"
    ):
        yolo.read(tmp_path)
    add_photo(tmp_path / "images" / "b.png")
    assert len(yolo.read(tmp_path).photos) == 2
