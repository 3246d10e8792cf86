"""Damaged files of each tool: one sentence that names the file, and the object in it."""

import json
import shutil

import numpy as np
import pytest
from mask_samples import SAMPLES

from offseg_hf.data import open_labelled_dataset
from offseg_hf.data.formats import coco, coco_files
from offseg_hf.data.formats.damage import naming, read_json, read_text
from offseg_hf.data.formats.records import LabelledPhoto, Polygon

FILES = {
    "coco": ("coco_datumaro", "annotations/instances_train.json"),
    "darwin": ("darwin", "a.json"),
    "labelme": ("labelme", "a.json"),
    "label-studio": ("label_studio", "mixed.json"),
    "supervisely": ("supervisely", "ds1/ann/a.jpg.json"),
}
WRONG = (None, "", -1, "x", 10**30, float("nan"), [], {}, [[]])


def places(content, path=()):
    """The paths to all that a document has."""
    items = content.items() if isinstance(content, dict) else enumerate(content[:3])
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def changed(content, path, *value):
    """A document with another value, or none, at a path."""
    content = part = json.loads(json.dumps(content))
    for key in path[:-1]:
        part = part[key]
    if value:
        part[path[-1]] = value[0]
    else:
        del part[path[-1]]
    return content


def copy_sample(format, folder):
    sample, name = FILES[format]
    shutil.copytree(SAMPLES / sample, folder / "labels")
    if format == "label-studio":
        (folder / "labels" / "polys.json").unlink()
    return folder / "labels", folder / "labels" / name


@pytest.mark.parametrize("format", FILES)
def test_whatever_is_wrong_is_read_or_one_sentence(format, tmp_path):
    place, file = copy_sample(format, tmp_path)
    content = json.loads(file.read_text())
    num_errors = 0
    for path in places(content):
        for value in [(), *((one,) for one in WRONG)]:
            file.write_text(json.dumps(changed(content, path, *value)))
            try:
                labelled = open_labelled_dataset(place, format=format)
                for mask in labelled.masks("train"):
                    mask.draw()
            except (FileNotFoundError, ValueError) as error:
                assert str(error).startswith("`"), (path, value)
                num_errors += 1
    assert num_errors > 100


@pytest.mark.parametrize(
    "format, path, value, found",
    [
        (
            "darwin",
            ("annotations", 0, "name"),
            (),
            r"a\.json` must be as .*, but its object 1 lacks 'name'; correct it",
        ),
        ("darwin", ("annotations", 0, "polygon", "paths", 0, 0, "x"), (None,), r"object 1 .*no pair of numbers"),
        ("supervisely", ("size",), ({},), r"a\.jpg\.json` must be as .*, but what is in it lacks 'height'"),
        ("supervisely", ("objects", 1, "bitmap"), (), r"a\.jpg\.json` must be as .*, but its object 2 lacks 'bitmap'"),
        ("labelme", ("shapes",), (), r"a\.json` must be as .*, but what is in it lacks 'shapes'"),
        (
            "labelme",
            ("imageHeight",),
            ("40",),
            r"a\.json` must have height and width .* whole pixels, got \('40', 60\)",
        ),
        ("darwin", ("item", "slots", 0, "height"), (-40,), r"must have height and width .*, got \(-40, 60\)"),
        ("coco", ("annotations",), ({},), r"instances_train\.json` must have a list `annotations`"),
        ("coco", ("categories", 0, "name"), (None,), r"instances_train\.json` must have a list `categories`"),
        ("coco", ("annotations", 0, "segmentation"), ("x",), r"annotation 1.*of a\.jpg, cannot be understood"),
        ("coco", ("annotations", 1, "segmentation", "counts"), (None,), r"`counts` is no list or text"),
        ("label-studio", (0, "annotations", 0, "result", 0, "value"), (None,), r"task .*`.*, but its region "),
        ("label-studio", (0, "annotations", 0, "result", 0, "value"), ({},), r"one label for each region, .*has none"),
    ],
)
def test_error_names_file_and_object(format, path, value, found, tmp_path):
    place, file = copy_sample(format, tmp_path)
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, *value)))
    with pytest.raises(ValueError, match=found):
        open_labelled_dataset(place, format=format)


def test_errors_that_name_a_file_stay_as_they_are():
    with pytest.raises(ValueError, match=r"^`b` must be whole$"), naming("a"):
        raise ValueError("`b` must be whole")
    with pytest.raises(FileNotFoundError, match=r"^gone$"), naming("a"):
        raise FileNotFoundError("gone")


def test_error_when_a_file_is_no_text_no_json_or_not_there(tmp_path):
    file = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match=r"a\.json` must say what the labels mean, and is not there; export"):
        read_text(file)
    file.write_bytes("ä".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json` must be text in UTF-8, but is not \(.*\); save it as UTF-8"):
        read_text(file)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json` must be JSON, but cannot be read \(.*\); export it again"):
        read_json(file)


@pytest.mark.parametrize("points", [[], [[1, 2, 3]], [[0, np.nan]], [[0, np.inf]], [[0, -1e300]]])
def test_error_when_an_outline_cannot_be_on_the_photo(points, tmp_path):
    shapes = (Polygon("car", (np.ones((3, 2)),)), Polygon("road", (np.array(points, float),)))
    with pytest.raises(
        ValueError, match=r"`a\.json` must have outlines .*, but its object 2, road, has no points, or"
    ):
        LabelledPhoto(tmp_path / "a.jpg", "a.json", shapes)


def test_error_when_an_object_has_no_name(tmp_path):
    with pytest.raises(
        ValueError, match=r"`a\.json` must have a name for the class .*, got ' ' for its object 1; give"
    ):
        LabelledPhoto(tmp_path / "a.jpg", "a.json", (Polygon(" ", (np.ones((3, 2)),)),))


@pytest.mark.parametrize("format", ["camvid", "cityscapes-masks", "darwin-masks", "kitti-masks", "voc", "yolo"])
def test_error_when_a_format_is_named_that_is_not_there(format, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^`.* must .*; (export|put)"):
        open_labelled_dataset(tmp_path, format=format)


def test_categories_in_the_middle_of_a_large_file_are_found(tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(5000)]
    annotation = {"id": 1, "image_id": 1, "category_id": 0, "segmentation": [[0, 0, 1, 0, 1, 1]]}
    document = {"images": images, "categories": [{"id": 0, "name": "car"}], "annotations": [annotation] * 2000}
    (tmp_path / "result.json").write_text(json.dumps(document))
    assert coco.find(tmp_path)
    assert coco_files.coco_files(tmp_path, "segments") == []
