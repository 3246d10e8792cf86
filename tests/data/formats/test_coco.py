import json

import numpy as np
import pytest
from label_samples import SAMPLES, TRUTH, add_photo, label_map
from tool_venv import run_with

from offseg_hf.data.formats import coco
from offseg_hf.data.formats.run_lengths import decode_run_lengths
from offseg_hf.data.formats.table import FORMATS

SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]
CAR_AND_ROAD = ((7, "road"), (70_000, "car"))


def annotation(segmentation, category_id=7, image_id=1, **more):
    return {"id": 5, "image_id": image_id, "category_id": category_id, "segmentation": segmentation, **more}


def write(file, annotations, categories=CAR_AND_ROAD, images=((1, "a.png"),), size=(8, 10)):
    """A COCO JSON, with its photos beside it, or in `images` beside its folder `annotations`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    photos = file.parents[1] / "images" if file.parent.name == "annotations" else file.parent
    for _, name in images:
        add_photo(photos / name.replace("\\", "/"), size)
    sizes = {"height": size[0], "width": size[1]}
    listed = [{"id": image_id, "file_name": name, **sizes} for image_id, name in images]
    classes = [{"id": category_id, "name": name} for category_id, name in categories]
    file.write_text(json.dumps({"images": listed, "categories": classes, "annotations": annotations}))
    return file


def change(file, function):
    document = json.loads(file.read_text())
    function(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize("sample", ["coco_datumaro", "coco_supervision"])
def test_samples_are_the_truth(sample):
    labels = coco.read(SAMPLES / sample)
    assert labels.names == ("sky", "road", "car") and labels.is_complete
    assert (label_map(labels) == TRUTH).all()
    (photo,) = labels.photos
    assert photo.photo.name == "a.jpg" and photo.size == (40, 60) and photo.split == "train"


def test_outlines_through_centres_of_pixels_are_told_by_areas_and_noted():
    labels = coco.read(SAMPLES / "coco_supervision")
    assert labels.notes == (
        "The areas in ann.json tell that its outlines go through the outermost pixels, so these belong to objects.",
    )
    assert not coco.read(SAMPLES / "coco_datumaro").notes


@pytest.mark.parametrize(
    "area, num_pixels", [(None, 12), (12, 12), (11, 12), (20, 20), (4 * 3, 12), (15, 12), (17, 20)]
)
def test_area_tells_whether_edges_are_inside(area, num_pixels, tmp_path):
    file = write(tmp_path / "a.json", [annotation([SQUARE], area=area), annotation([[8, 6, 9, 7, 9, 6]], 70_000)])
    assert (label_map(coco.read(file)) == 0).sum() == num_pixels


def test_area_of_the_box_tells_nothing(tmp_path):
    file = write(tmp_path / "a.json", [annotation([[0, 0, 4, 0, 4, 4]], area=16, bbox=[0, 0, 4, 4])])
    assert not coco.read(file).notes


def test_format_is_in_the_table_and_finds_its_own_samples_only():
    assert FORMATS["coco"].find(SAMPLES / "coco_datumaro")
    for sample in ("coco_datumaro/annotations", "coco_datumaro/annotations/instances_train.json", "coco_supervision"):
        assert coco.find(SAMPLES / sample)
    assert not any(coco.find(SAMPLES / sample) for sample in ("darwin", "supervisely", "yolo", "truth.png"))


def test_later_objects_lie_on_top_and_crowds_are_objects(tmp_path):
    whole = [0, 0, 10, 0, 10, 8, 0, 8]
    file = write(tmp_path / "a.json", [annotation([whole]), annotation([SQUARE], 70_000, iscrowd=1)])
    change(file, lambda document: document["annotations"].append(annotation([[3, 2, 4, 2, 4, 3, 3, 3]])))
    found = label_map(coco.read(file))
    assert [(found == class_id).sum() for class_id in (0, 1, 255)] == [80 - 12 + 1, 12 - 1, 0]


# Columns of 8: two pixels from (x 0, y 1) on, and the last pixel of column 9; the text is pycocotools'.
@pytest.mark.parametrize("counts", [[1, 2, 76, 1], "12\\2O"])
def test_run_lengths(counts, tmp_path):
    file = write(tmp_path / "a.json", [annotation({"counts": counts, "size": [8, 10]}, iscrowd=1)])
    inside = np.zeros((8, 10), bool)
    inside[1:3, 0] = inside[7, 9] = True
    assert ((label_map(coco.read(file)) == 0) == inside).all()


ENCODE = """
import json
import numpy as np
from pycocotools import mask
random = np.random.default_rng(0)
for number in range(200):
    pixels = np.asfortranarray(random.uniform(size=random.integers(1, 90, 2)) < random.uniform(0, 1.1), np.uint8)
    print(json.dumps([mask.encode(pixels)["counts"].decode(), pixels.tolist()]))
"""


@pytest.mark.network
def test_run_lengths_are_those_of_pycocotools(tmp_path):
    for line in run_with(["pycocotools==2.0.11", "numpy"], ENCODE, tmp_path).splitlines():
        text, pixels = json.loads(line)
        assert (decode_run_lengths((text, np.shape(pixels))) == np.array(pixels)).all()


def test_photo_without_a_size_has_that_of_its_mask(tmp_path):
    file = write(tmp_path / "a.json", [annotation({"counts": [79, 1], "size": [8, 10]})])
    change(file, lambda document: [document["images"][0].pop(key) for key in ("height", "width")])
    assert coco.read(file).photos[0].size == (8, 10)
    change(file, lambda document: document.update(annotations=[annotation([SQUARE])]))
    assert coco.read(file).photos[0].size is None
    assert (label_map(coco.read(file)) == 0).sum() == 12


def test_empty_run_lengths_points_and_lines_have_no_pixels(tmp_path):
    annotations = [annotation({"counts": counts, "size": [8, 10]}) for counts in ("", [])]
    annotations += [annotation([[3, 3]], bbox=[3, 3, 1, 1]), annotation([[1, 1, 5, 5]], bbox=[1, 1, 4, 4])]
    labels = coco.read(write(tmp_path / "a.json", annotations))
    assert labels.photos[0].shapes == ()


@pytest.mark.parametrize("box, pixels", [([9, 7, 0, 0], [(7, 9)]), ([1, 2, 2, 0], [(2, 1), (2, 2), (2, 3)])])
def test_row_of_pixels_has_a_box_that_ends_at_its_last(box, pixels, tmp_path):
    for segmentation in ([], [box[:2]]):
        file = write(tmp_path / "a.json", [annotation(segmentation, bbox=box, area=len(pixels))])
        assert list(zip(*np.nonzero(label_map(coco.read(file)) == 0))) == pixels


def test_flat_and_several_outlines(tmp_path):
    file = write(tmp_path / "a.json", [annotation(SQUARE), annotation([SQUARE, [8, 0, 10, 0, 10, 2, 8, 2]], 70_000)])
    assert (label_map(coco.read(file)) == 1).sum() == 12 + 4


def test_splits_are_those_of_files_and_classes_those_of_all(tmp_path):
    write(tmp_path / "annotations" / "instances_train2017.json", [annotation([SQUARE])], images=[(1, "b.png")])
    write(
        tmp_path / "annotations" / "instances_val2017.json", [annotation([SQUARE], 1)], [(1, "tree")], [(1, "a.png")]
    )
    (tmp_path / "annotations" / "captions_val2017.json").write_text('{"images": [], "annotations": []}')
    write(tmp_path / "annotations" / "person_keypoints_val2017.json", [annotation(None)])
    labels = coco.read(tmp_path)
    assert labels.names == ("road", "car", "tree")
    assert [(photo.photo.name, photo.split) for photo in labels.photos] == [
        ("a.png", "validation"),
        ("b.png", "train"),
    ]
    assert labels.photos[0].source == "instances_val2017.json, a.png"
    (alone,) = coco.read(tmp_path / "annotations" / "instances_val2017.json").photos
    assert alone.split == "validation"


def test_splits_of_roboflow_are_folders_and_its_heading_is_no_class(tmp_path):
    categories = [(0, "things"), (1, "car"), (2, "road")]
    for folder in ("train", "valid", "test"):
        file = write(tmp_path / folder / "_annotations.coco.json", [annotation([SQUARE], 2)], categories)
        change(file, lambda document: [one.update(supercategory="things") for one in document["categories"][1:]])
    labels = coco.read(tmp_path)
    assert labels.names == ("car", "road")
    assert [photo.split for photo in labels.photos] == ["test", "train", "validation"]
    assert [photo.photo.parent.name for photo in labels.photos] == ["test", "train", "valid"]
    change(file, lambda document: document["annotations"].append(annotation([SQUARE], 0)))
    assert coco.read(tmp_path).names == ("things", "car", "road")


def test_photos_of_one_name_are_those_of_the_split(tmp_path):
    for split in ("train", "val"):
        add_photo(tmp_path / "images" / split / "a.png")
        write(tmp_path / "annotations" / f"instances_{split}.json", [], images=[])
        change(
            tmp_path / "annotations" / f"instances_{split}.json",
            lambda document: document["images"].append({"id": "x", "file_name": "a.png"}),
        )
    assert [(one.photo.parent.name, one.split) for one in coco.read(tmp_path).photos] == [
        ("train", "train"),
        ("val", "validation"),
    ]


def test_names_of_photos_may_be_addresses(tmp_path):
    add_photo(tmp_path / "images" / "train" / "my photo.png")
    addresses = "https://host/x/my%20photo.png?token=1", "/data/local-files/?d=photos%2Fmy photo.png", "my%20photo.png"
    for name in addresses:
        file = write(tmp_path / "annotations" / "instances_train.json", [], images=[])
        change(file, lambda document, name=name: document["images"].append({"id": 1, "file_name": name}))
        assert coco.read(tmp_path).photos[0].photo.name == "my photo.png"


def test_photos_without_objects_and_paths_of_windows(tmp_path):
    write(tmp_path / "a.json", [], images=[(1, "day\\a.png"), ("2", "night\\a.png")])
    labels = coco.read(tmp_path)
    assert [photo.photo for photo in labels.photos] == [tmp_path / "day" / "a.png", tmp_path / "night" / "a.png"]
    assert all(photo.shapes == () for photo in labels.photos)


@pytest.mark.parametrize(
    "function, message",
    [
        (
            lambda d: d.pop("annotations"),
            "must have a list `annotations`, each with image_id, got None; export objects",
        ),
        (
            lambda d: d["images"][0].pop("file_name"),
            "must have a list `images`, each with id and file_name, got {'id'",
        ),
        (lambda d: d["categories"][1].update(name="road"), "has 'road' with id 7 and 'road' with id 70000; rename"),
        (lambda d: d["categories"][1].update(id=7), "has 'road' with id 7 and 'car' with id 7; rename or renumber"),
        (lambda d: d["images"].append({"id": 1, "file_name": "b.png"}), "a.png and b.png both have 1; renumber one"),
        (lambda d: d["images"].append({"id": 2, "file_name": "a.png"}), r"must be the only labels of .*a\.png, but"),
        (
            lambda d: d["annotations"][0].update(image_id=9),
            "`image_id` 9 of annotation 5 is not among its images; add",
        ),
        (lambda d: d["annotations"][0].update(category_id=0), "`category_id` 0 of annotation 5 is not among its cat"),
        (
            lambda d: d["annotations"][0].update(segmentation=[]),
            "annotation 5, road, of a.png has a box or points alone;",
        ),
        (lambda d: d["annotations"][0].pop("segmentation"), "export segmentation, or remove what has none"),
        (
            lambda d: d["annotations"][0].update(segmentation=[[1, 2, 3]]),
            r"outlines x, y, x, y, …, but .* is \[1, 2, 3\]",
        ),
        (lambda d: d["annotations"][0].update(segmentation=[[float("nan")] * 6]), r"is \[nan, nan"),
        (
            lambda d: d["annotations"][0].update(segmentation={"counts": [80], "size": [10, 8]}),
            r"annotation 5, road, of a.png, has a mask with `size` \[10, 8\], and the photo's height and wid",
        ),
        (
            lambda d: d["annotations"][0].update(segmentation={"counts": [70], "size": [8, 10]}),
            "has `counts` of 70 pixels in all instead of 80; export it again",
        ),
    ],
)
def test_error_when_the_file_contradicts_itself(function, message, tmp_path):
    file = write(tmp_path / "a.json", [annotation([SQUARE], bbox=[2, 1, 4, 3])])
    change(file, function)
    with pytest.raises(ValueError, match=message):
        coco.read(file)


@pytest.mark.parametrize("counts", ["12\\2o", "12\\2N", "é", "oooooooooooo0"])
def test_error_when_text_of_run_lengths_is_damaged(counts, tmp_path):
    file = write(tmp_path / "a.json", [annotation({"counts": counts, "size": [8, 10]})])
    with pytest.raises(
        ValueError, match=r"`a.json, a.png` must hold pixels that can be decoded, but those of its obj"
    ):
        label_map(coco.read(file))


def test_error_when_the_file_is_cut_off(tmp_path):
    file = write(tmp_path / "a.json", [annotation([SQUARE])])
    file.write_text(file.read_text()[:-2])
    with pytest.raises(ValueError, match=r"a\.json` must be JSON, but cannot be read \(.*\); export it again"):
        coco.read(file)


def test_error_when_a_photo_is_not_there(tmp_path):
    file = write(tmp_path / "a.json", [])
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError, match=r"`a\.json` names the photo a\.png"):
        coco.read(file)


def test_one_json_per_photo_is_not_ours(tmp_path):
    for number in range(13):
        write(tmp_path / f"{number}.json", [])
    assert not coco.find(tmp_path)
    (tmp_path / "12.json").rename(tmp_path / "instances_default.json")
    assert coco.find(tmp_path)
