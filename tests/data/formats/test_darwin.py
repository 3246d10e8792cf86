import json

import numpy as np
import pytest
from label_samples import SAMPLES, TRUTH, add_photo, label_map
from tool_venv import run_with

from offseg_hf.data.formats import darwin

SQUARE = [(2, 1), (5, 1), (5, 3), (2, 3)]  # 4×3 pixels with its edges
HOLED = [[(0, 0), (9, 0), (9, 7), (0, 7)], [(3, 2), (7, 2), (7, 6), (3, 6)]]  # the hole's inside has 3×3 pixels


def polygon(name, *paths):
    return {"name": name, "polygon": {"paths": [[{"x": x, "y": y} for x, y in path] for path in paths]}}


def write(file, annotations, name="a.png", path="/", **slot):
    """A file of Darwin, with a photo of 8×10 pixels beside it."""
    add_photo(file.parent / name, (8, 10))
    slots = [{"type": "image", "width": 10, "height": 8, "source_files": [{"file_name": name}], **slot}]
    item = {"name": name, "path": path, "slots": slots}
    file.write_text(json.dumps({"version": "2.0", "item": item, "annotations": annotations}))
    return file


def test_sample_is_the_mask_of_darwin():
    labels = darwin.read(SAMPLES / "darwin")
    assert labels.names == ("car", "road", "sky") and not labels.is_complete and not labels.notes
    found = label_map(labels, names=["sky", "road", "car"])
    # darwin-py 3.6.3: edges belong to objects, those on the right and below, and those of the hole.
    assert [(found == class_id).sum() for class_id in (0, 1, 2, 255)] == [660, 667, 259, 814]
    assert not ((found != TRUTH) & (found == 255)).any()


EXPORT = """
from pathlib import Path
import numpy as np
from PIL import Image
from darwin.exporter.formats.mask import export
from darwin.utils import parse_darwin_json
export([parse_darwin_json(file, 0) for file in sorted(Path("in").glob("*.json"))], Path("out"), "index")
for file in sorted(Path("out", "masks").glob("*.png")):
    print(np.array(Image.open(file)).tolist())
"""


@pytest.mark.network
def test_pixels_are_those_of_darwin(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(40):
        annotations = []
        for name in random.choice(["a", "b", "c"], 6):
            paths = random.uniform(-3, 12, (random.integers(1, 3), 5, 2)).round(1)
            first = paths[0].min(0)
            box = dict(zip("xywh", [*first, *(paths[0].max(0) - first)]))
            annotations.append(
                {**polygon(str(name), *paths.tolist()), "bounding_box": box, "id": "1", "slot_names": []}
            )
        write(tmp_path / "in" / f"{number:02}.json", annotations, f"{number:02}.png", slot_name="0")
    labels = darwin.read(tmp_path / "in")
    lines = run_with(["darwin-py==3.6.3", "upolygon==0.2.3"], EXPORT, tmp_path).splitlines()
    for number, line in enumerate(lines):
        found = label_map(labels, number, names=["background", "a", "b", "c"], background="background")
        assert (found == np.array(json.loads(line))).all()


def test_later_objects_lie_on_top_and_holes_have_edges(tmp_path):
    file = write(tmp_path / "a.json", [polygon("b", SQUARE), polygon(" a ", *HOLED)])
    labels = darwin.read(file)
    assert labels.names == ("a", "b")
    found = label_map(labels)
    assert [(found == class_id).sum() for class_id in (0, 1, 255)] == [80 - 9, 2, 7]


def test_points_outside_are_moved_into_the_picture(tmp_path):
    file = write(tmp_path / "a.json", [polygon("a", [(-5, -5), (50, -5), (50, 50), (-5, 50)]), polygon("b", SQUARE)])
    assert (label_map(darwin.read(file)) == 0).sum() == 80 - 12


def test_ellipses_are_drawn(tmp_path):
    ellipse = {"center": {"x": 5, "y": 4}, "radius": {"x": 1, "y": 3}, "angle": np.pi / 2}
    file = write(tmp_path / "a.json", [{"name": "a", "ellipse": ellipse}, polygon("b", [(0, 0), (1, 0), (0, 1)])])
    found = label_map(darwin.read(file)) == 0
    assert found[4, 2:9].all() and found.any(0).sum() == 7 and found.any(1).sum() == 3  # it lies on its side


def test_masks_are_those_of_the_layer(tmp_path):
    layer = {"dense_rle": [0, 10, 2, 3, 1, 7, 0, 60], "mask_annotation_ids_mapping": {"x": 1, "y": 2}}
    annotations = [{"id": key, "name": name, "mask": {}} for key, name in (("x", "road"), ("y", "car"))]
    file = write(tmp_path / "a.json", [*annotations, {"id": "z", "name": "__raster_layer__", "raster_layer": layer}])
    found = label_map(darwin.read(file))
    assert (found[1] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]).all() and (found != 255).sum() == 10
    layer["dense_rle"][-1] = 59
    write(file, [*annotations, {"name": "", "raster_layer": layer}])
    with pytest.raises(ValueError, match="its `dense_rle` has 79 pixels in all instead of 80; export it again"):
        darwin.read(file)
    layer["dense_rle"][-1] = 60
    write(file, [annotations[0], {"name": "", "raster_layer": layer}])
    with pytest.raises(ValueError, match="must have an annotation of each mask, but y has none"):
        darwin.read(file)


def test_objects_without_pixels_are_left_out_and_noted(tmp_path):
    box = {"name": "c", "bounding_box": {"x": 1, "y": 1, "w": 2, "h": 2}}
    others = [box, {"name": "d", "line": {"path": []}, **box}, {"name": "night", "tag": {}}]
    labels = darwin.read(write(tmp_path / "a.json", [polygon("a", SQUARE), *others]))
    assert labels.names == ("a",)
    assert labels.notes == (
        "As in Darwin's own masks, some objects are left out: 1 of type bounding_box, 1 of type line.",
    )
    with pytest.raises(
        ValueError, match="must have polygons or masks, got 1 of type bounding_box; convert them to polygons"
    ):
        darwin.read(write(tmp_path / "a.json", [box]))


def test_release_of_a_data_set(tmp_path):
    for release in ("latest", "old"):
        folder = tmp_path / "releases" / release / "annotations"
        folder.mkdir(parents=True)
        write(folder / "a.json", [polygon(release, SQUARE)], "a.png", "/day")
        (folder / "a.png").unlink()
        (folder / ".v7").mkdir()
        (folder / ".v7" / "metadata.json").write_text('{"version": "1", "item": [], "slots": [], "classes": []}')
    photos = [add_photo(tmp_path / "images" / folder / "a.png") for folder in ("day", "night")]
    for place in (tmp_path, tmp_path / "releases" / "latest" / "annotations"):
        labels = darwin.read(place)
        assert labels.names == ("latest",) and [one.photo for one in labels.photos] == photos[:1]
        assert darwin.find(place)


def test_photo_has_the_ending_of_its_source(tmp_path):
    file = write(tmp_path / "a.json", [], source_files=[{"file_name": "DSC01.jpeg"}])
    add_photo(tmp_path / "a.jpeg")
    assert darwin.read(file).photos[0].photo.name == "a.jpeg"


def test_other_files_are_not_ours():
    assert not any(darwin.find(SAMPLES / sample) for sample in ("coco_datumaro", "supervisely", "yolo", "truth.png"))


@pytest.mark.parametrize(
    "slot, message",
    [
        ({"type": "video"}, "must be of one picture, got 1 slots of type video; export pictures alone"),
        ({"height": None}, "must have height and width of its picture, and has none; export it again"),
    ],
)
def test_error_when_there_is_no_picture(slot, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        darwin.read(write(tmp_path / "a.json", [], **slot))


def test_error_when_an_object_has_frames(tmp_path):
    with pytest.raises(ValueError, match="must be of one picture, but a has frames; export pictures alone"):
        darwin.read(write(tmp_path / "a.json", [{"name": "a", "frames": {}}]))
