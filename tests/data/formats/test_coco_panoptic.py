import json

import numpy as np
import pytest
from label_samples import SAMPLES, add_photo, label_map
from PIL import Image

from offseg_hf.data.formats import coco, coco_panoptic

CLASSES = [{"id": 70_000, "name": "car", "isthing": 1}, {"id": 3, "name": "road", "isthing": 0}]


def write(folder, name="panoptic_train", photo="a.png", maps="annotations", **changes):
    """A JSON, a photo of 2×3 pixels, and its PNG with the ids 0 to 2, 300 and 70,000."""
    add_photo(folder / "images" / photo, (2, 3))
    segments = [(300, 70_000), (1, 3), (70_000, 3), (2, 70_000)]
    ids = np.array([[0, 1, 2], [300, 70_000, 0]])
    colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    (folder / maps / name).mkdir(parents=True)
    Image.fromarray(colours).save(folder / maps / name / "a.png")
    annotation = {
        "image_id": "x",
        "file_name": "a.png",
        "segments_info": [{"id": one, "category_id": category, "iscrowd": 1} for one, category in segments],
    }
    document = {
        "images": [{"id": "x", "file_name": photo, "height": 2, "width": 3}],
        "categories": CLASSES,
        "annotations": [annotation],
        **changes,
    }
    file = folder / "annotations" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document))
    return file


@pytest.mark.parametrize("maps", ["annotations", "", "masks"])
def test_segments_have_classes_and_black_has_none(maps, tmp_path):
    file = write(tmp_path, maps=maps)
    for place in (tmp_path, file, file.parent):
        assert coco_panoptic.find(place) and not coco.find(place)
        labels = coco_panoptic.read(place)
        assert labels.names == ("car", "road", "unlabelled") and labels.unlabelled == "unlabelled"
        assert label_map(labels).tolist() == [[255, 1, 0], [0, 1, 255]]
        (photo,) = labels.photos  # its name is that of the PNG
        assert (photo.photo.parent.name, photo.split, photo.size) == ("images", "train", (2, 3))
    assert label_map(labels, background="sky").tolist() == [[2, 1, 0], [0, 1, 2]]


def test_splits_are_those_of_files(tmp_path):
    write(tmp_path, "panoptic_val2017", "val2017/a.png")
    write(tmp_path, "panoptic_train2017", "train2017/a.png")
    for name in ("val2017", "train2017"):
        file = tmp_path / "annotations" / f"panoptic_{name}.json"
        file.write_text(file.read_text().replace(f"{name}/a.png", "a.png"))
    labels = coco_panoptic.read(tmp_path)
    assert [(one.photo.parent.name, one.split) for one in labels.photos] == [
        ("train2017", "train"),
        ("val2017", "validation"),
    ]


def test_photo_without_segments_is_kept(tmp_path):
    file = write(tmp_path)
    document = json.loads(file.read_text())
    add_photo(tmp_path / "images" / "b.png", (2, 3))
    document["images"].append({"id": 2, "file_name": "b.png"})
    file.write_text(json.dumps(document))
    assert coco_panoptic.read(tmp_path).photos[1].shapes == ()


def segments(*pairs):
    infos = [{"id": number, "category_id": category} for number, category in pairs]
    return {"image_id": "x", "file_name": "a.png", "segments_info": infos}


@pytest.mark.parametrize(
    "annotations, message",
    [
        ([segments((1, 9))], "`category_id` 9 of annotation 1 is not among its categories"),
        ([segments((1, 3), (1, 3))], "must have segments with ids of their own from 1 on, but a.png has 1 twice"),
        ([segments((0, 3))], "a.png has 0 twice or for what is not labelled; export it again"),
        ([segments((1, 3)), segments()], "must have one annotation per photo, but a.png has two; remove one"),
        ([{**segments(), "image_id": 5}], "`image_id` 5 of annotation None is not among its images"),
    ],
)
def test_error_when_the_file_contradicts_itself(annotations, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        coco_panoptic.read(write(tmp_path, annotations=annotations))


def test_error_when_a_pixel_has_no_segment(tmp_path):
    labels = coco_panoptic.read(write(tmp_path, annotations=[segments((1, 3))]))
    with pytest.raises(
        ValueError, match=r"`panoptic_train\.json, a\.png` must hold what its table names, but 1 pixels"
    ):
        label_map(labels)


def test_error_when_the_maps_are_not_there(tmp_path):
    file = write(tmp_path)
    (file.parent / "panoptic_train" / "a.png").rename(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError, match=r"names the photo a\.png, and there is no a\.png below"):
        coco_panoptic.read(file)
    (file.parent / "panoptic_train").rmdir()
    with pytest.raises(
        FileNotFoundError, match="must have its PNG files in a folder panoptic_train, and there is none"
    ):
        coco_panoptic.read(file)


def test_other_files_are_not_ours():
    samples = ("coco_datumaro", "coco_supervision", "darwin", "supervisely", "yolo")
    assert not any(coco_panoptic.find(SAMPLES / sample) for sample in samples)
