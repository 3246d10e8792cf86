import base64
import io
import json
import shutil
import zlib

import numpy as np
import pytest
from label_samples import SAMPLES, TRUTH, add_photo, label_map
from PIL import Image
from tool_venv import run_with

from offseg_hf.data.formats import supervisely


def polygon(title, exterior, interior=(), kind="polygon"):
    return {
        "classTitle": title,
        "geometryType": kind,
        "tags": [],
        "points": {"exterior": exterior, "interior": list(interior)},
    }


def bitmap(title, data, origin=(0, 0)):
    return {
        "classTitle": title,
        "geometryType": "bitmap",
        "tags": [],
        "bitmap": {"data": data, "origin": list(origin)},
    }


def encode(picture, is_compressed=True, **options):
    """A picture as the text of a bitmap."""
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    content = zlib.compress(file.getvalue()) if is_compressed else file.getvalue()
    return base64.b64encode(content).decode()


def write(folder, objects, names=("road", "car"), dataset="ds", photo="a.png"):
    """A project of one photo of 8×10 pixels."""
    add_photo(folder / dataset / "img" / photo, (8, 10))
    (folder / "meta.json").write_text(json.dumps({"classes": [{"title": name} for name in names]}))
    file = folder / dataset / "ann" / f"{photo}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"size": {"height": 8, "width": 10}, "tags": [], "objects": objects}))
    return folder


def test_sample_is_what_supervisely_draws():
    labels = supervisely.read(SAMPLES / "supervisely")
    assert labels.names == ("sky", "road", "car") and labels.is_complete and not labels.notes
    (photo,) = labels.photos
    assert (photo.photo.name, photo.source, photo.size) == ("a.jpg", "ds1/ann/a.jpg.json", (40, 60))
    found = label_map(labels)
    # Polygons have their edges: one more row of the sky, a row and a column of the car.
    assert [(found == class_id).sum() for class_id in (0, 1, 2, 255)] == [660, 740 - 11 * 15 + 12, 17 * 15 + 1, 897]
    assert (found[found != TRUTH] != 255).all() and (found != TRUTH).sum() == 91


DRAW = """
import json
import numpy as np
import supervisely as sly
meta = sly.ProjectMeta.from_json(json.load(open("project/meta.json")))
for number in range(40):
    annotation = sly.Annotation.from_json(json.load(open(f"project/ds/ann/{number:02}.png.json")), meta)
    canvas = np.zeros((8, 10, 3), np.uint8)
    for label in annotation.labels:
        label.geometry.draw(canvas, [ord(label.obj_class.name)] * 3)
    print("map", json.dumps(canvas[..., 0].tolist()))
"""


@pytest.mark.network
def test_pixels_are_those_of_supervisely(tmp_path):
    random = np.random.default_rng(0)
    for number in range(40):
        objects = []
        for name in random.choice(["a", "b", "c"], 5):
            outlines = random.integers(0, [10, 8], (random.integers(1, 3), 5, 2)).tolist()
            objects.append(polygon(str(name), outlines[0], outlines[1:]))
            left, top, right, bottom = random.integers(0, 8, 4).tolist()
            objects.append(polygon("c", [[left, top], [right, bottom]], kind="rectangle"))
            pixels = Image.fromarray(random.uniform(size=(4, 3)) < 0.5).convert("P")
            data = encode(pixels, transparency=0, bits=1)
            objects.append(bitmap("b", data, random.integers(0, 5, 2).tolist()))
        write(tmp_path / "project", objects, "abc", photo=f"{number:02}.png")
    meta = {"classes": [{"title": name, "shape": "any", "color": "#000000"} for name in "abc"], "tags": []}
    (tmp_path / "project" / "meta.json").write_text(json.dumps(meta))
    labels = supervisely.read(tmp_path / "project")
    drawn = run_with(["supervisely==6.74.51"], DRAW, tmp_path)
    lines = [json.loads(line.removeprefix("map ")) for line in drawn.splitlines() if line.startswith("map ")]
    assert len(lines) == 40
    for number, line in enumerate(lines):
        theirs = np.array(line)
        assert (label_map(labels, number) == np.where(theirs == 0, 255, theirs - ord("a"))).all()


def test_inner_outlines_and_their_edges_are_cut_out(tmp_path):
    inner = [[3, 2], [6, 2], [6, 5], [3, 5]]
    objects = [
        polygon("car", [[0, 0], [9, 0], [9, 7], [0, 7]], [inner]),
        polygon("road", [[2, 3], [0, 3]], (), "rectangle"),
    ]
    found = label_map(supervisely.read(write(tmp_path, objects)))
    assert [(found == class_id).sum() for class_id in (0, 1, 255)] == [3, 80 - 16 - 3, 16]


HALF = Image.fromarray(np.array([[0, 255]], np.uint8))
ALPHA = Image.fromarray(np.array([[[255, 255, 255, 0], [0, 0, 0, 255]]], np.uint8))


@pytest.mark.parametrize(
    "data",
    [
        *(encode(HALF, is_compressed) for is_compressed in (True, False)),
        *(encode(HALF.convert(mode)) for mode in ("1", "RGB")),
        encode(ALPHA),
        encode(HALF.convert("1").convert("P"), transparency=0, bits=1),
    ],
)
def test_bitmaps_of_all_kinds(data, tmp_path):
    assert supervisely.decode_bitmap(data).tolist() == [[False, True]]
    found = label_map(supervisely.read(write(tmp_path, [bitmap("car", data, (4, 6))])))
    assert list(zip(*np.nonzero(found == 1))) == [(6, 5)]


def test_nested_data_sets_are_splits_by_their_names_and_photos_may_share_names(tmp_path):
    write(tmp_path, [], dataset="train")
    write(tmp_path, [], dataset="val/datasets/night")
    write(tmp_path, [], dataset="ds")
    labels = supervisely.read(tmp_path / "meta.json")
    assert [(str(one.photo.relative_to(tmp_path)), one.split) for one in labels.photos] == [
        ("ds/img/a.png", "train"),
        ("train/img/a.png", "train"),
        ("val/datasets/night/img/a.png", "validation"),
    ]


def test_background_of_segmentation_tasks_is_not_labelled(tmp_path):
    objects = [
        polygon("__bg__", [[0, 0], [9, 7]], kind="rectangle"),
        polygon("car", [[0, 0], [1, 1]], kind="rectangle"),
    ]
    found = label_map(supervisely.read(write(tmp_path, objects, ("road", "car", "__bg__"))))
    assert (found == 1).sum() == 4 and (found == 255).sum() == 76


def test_objects_without_an_area_are_left_out_and_noted(tmp_path):
    objects = [polygon("car", [[1, 1]], kind=kind) for kind in ("point", "line", "point")]
    labels = supervisely.read(write(tmp_path, objects))
    assert labels.photos[0].shapes == ()
    assert labels.notes == ("Objects without an area are left out: 1 of type line, 2 of type point.",)


def test_place_is_a_project_or_not(tmp_path):
    assert supervisely.find(SAMPLES / "supervisely") and supervisely.find(SAMPLES / "supervisely" / "meta.json")
    assert not any(supervisely.find(SAMPLES / sample) for sample in ("coco_datumaro", "darwin", "yolo", "truth.png"))


@pytest.mark.parametrize(
    "one, message",
    [
        (
            polygon("tree", [[1, 1]]),
            r"must have classes of `meta.json` \(road, car\), but that of its object 1 is tree",
        ),
        (
            polygon("car", [], kind="cuboid"),
            "but its object 1, car, is of type cuboid; convert it to a polygon or a mask",
        ),
    ],
)
def test_error_when_an_object_cannot_be_drawn(one, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        supervisely.read(write(tmp_path, [one]))


def test_error_when_a_bitmap_is_damaged(tmp_path):
    data = base64.b64encode(base64.b64decode(encode(HALF))[:-9]).decode()
    labels = supervisely.read(write(tmp_path, [bitmap("car", data)]))
    with pytest.raises(
        ValueError, match=r"`ds/ann/a.png.json` must hold pixels .* of its object 1, car, cannot \(Value"
    ):
        label_map(labels)


def test_error_when_a_file_is_of_a_video_or_cut_off(tmp_path):
    file = write(tmp_path, []) / "ds" / "ann" / "a.png.json"
    file.write_text('{"size": {}, "framesCount": 2, "objects": []}')
    with pytest.raises(ValueError, match="must be of a picture, with `size` and `objects`; export pictures alone"):
        supervisely.read(tmp_path)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"a\.png\.json` must be JSON, but cannot be read \(.*\); export it again"):
        supervisely.read(tmp_path)


def test_error_when_a_photo_is_not_there(tmp_path):
    shutil.rmtree(write(tmp_path, []) / "ds" / "img")
    with pytest.raises(FileNotFoundError, match=r"names the photo a\.png"):
        supervisely.read(tmp_path)
