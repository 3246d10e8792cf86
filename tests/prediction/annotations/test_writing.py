"""Label maps written as annotations are the same label maps when they are read again, by us and by the tools."""

import base64
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tool_venv import run_with

from offseg_hf.data.formats.drawing import DrawnMask
from offseg_hf.data.formats.table import FORMATS as READERS
from offseg_hf.prediction.annotations.writing import FORMATS, annotation_files, write_annotations

ID2LABEL = {0: "sky", 1: 'road & "way" <1>', 2: "Straße", 3: "never"}
RESULTS = {
    "coco": "annotations/instances_default.json",
    "cvat": "annotations.xml",
    "label-studio": "tasks.json",
    "labelme": ".",
}


def random_label_map(seed, height, width):
    """Blocks and single pixels of the first three classes, and pixels without a class."""
    draw = np.random.default_rng(seed)
    blocks = np.kron(draw.integers(0, 3, (-(-height // 7), -(-width // 5))), np.ones((7, 5), int))[:height, :width]
    noise = draw.random((height, width))
    return np.where(noise < 0.1, 255, np.where(noise < 0.2, 1, blocks)).astype(np.uint8)


def some_label_maps():
    uniform = np.full((300, 400), 2, np.uint8)  # runs of more than 65,536 values in Label Studio's
    return {
        "a.jpg": random_label_map(0, 40, 60),
        "town & <b>.png": random_label_map(1, 31, 17),
        "uniform.png": uniform,
        "nothing.png": np.full((3, 2), 255, np.uint8),
        "pixel.png": np.array([[255, 255], [255, 2]], np.uint8),
    }


def written(name, folder, label_maps=None):
    """Photos, and what is written of label maps beside them."""
    label_maps = label_maps or some_label_maps()
    for photo, label_map in label_maps.items():
        Image.fromarray(label_map).save(folder / photo)
    predictions = ((folder / photo, label_map) for photo, label_map in label_maps.items())
    return write_annotations(name, predictions, ID2LABEL, folder)


def submit_predictions(tasks):
    """What a person does in Label Studio who takes all predictions as they are."""
    content = json.loads(tasks.read_text(encoding="utf-8"))
    for number, task in enumerate(content):
        task.update(id=number, annotations=[{"id": number, "result": task["predictions"][0]["result"]}])
    tasks.write_text(json.dumps(content))


def decoded_coco(file):
    """The label maps of a COCO file of run lengths, by a slow walk along the columns."""
    content = json.loads(file.read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in content["categories"]}
    ids = {name: class_id for class_id, name in ID2LABEL.items()}
    label_maps = {}
    for image in content["images"]:
        label_map = np.full((image["height"], image["width"]), 255, np.uint8)
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                place, inside = 0, False
                for count in annotation["segmentation"]["counts"]:
                    for pixel in range(place, place + count) if inside else ():
                        column, row = divmod(pixel, image["height"])
                        assert label_map[row, column] == 255
                        label_map[row, column] = ids[names[annotation["category_id"]]]
                    place, inside = place + count, not inside
                assert place == label_map.size
        label_maps[image["file_name"]] = label_map
    return label_maps


@pytest.mark.parametrize("name", ["coco", "cvat", "label-studio", "labelme"])
def test_label_maps_are_read_again_as_they_were(name, tmp_path):
    result = written(name, tmp_path)
    assert result == tmp_path / RESULTS[name]
    if name == "label-studio":
        submit_predictions(result)
    assert READERS[name].find(result) and READERS[name].find(tmp_path)
    labels = READERS[name].read(result)
    class_ids = {label: class_id for class_id, label in ID2LABEL.items()}
    found = {one.photo.name: DrawnMask(one, class_ids).draw() for one in labels.photos}
    label_maps = some_label_maps()
    assert found.keys() == label_maps.keys()
    for photo, label_map in label_maps.items():
        np.testing.assert_array_equal(found[photo], label_map)
    if name != "label-studio":  # which keeps no list of classes
        assert labels.names == tuple(ID2LABEL.values()) and labels.is_complete


def test_coco_has_the_label_maps_in_runs_down_the_columns(tmp_path):
    file = written("coco", tmp_path)
    assert file == tmp_path / RESULTS["coco"]
    label_maps = some_label_maps()
    found = decoded_coco(file)
    assert found.keys() == label_maps.keys()
    for photo, label_map in label_maps.items():
        np.testing.assert_array_equal(found[photo], label_map)


def test_coco_counted_by_hand(tmp_path):
    file = written("coco", tmp_path, {"a.png": np.array([[255, 1, 1], [255, 255, 1], [0, 255, 1]], np.uint8)})
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["images"] == [{"id": 1, "file_name": "a.png", "height": 3, "width": 3}]
    assert [(one["id"], one["name"]) for one in content["categories"]] == [
        (class_id + 1, name) for class_id, name in ID2LABEL.items()
    ]
    sky, road = content["annotations"]
    assert sky["segmentation"] == {"size": [3, 3], "counts": [2, 1, 6]}
    assert sky["bbox"] == [0, 2, 1, 1] and sky["area"] == 1 and sky["category_id"] == 1
    assert road["segmentation"]["counts"] == [3, 1, 2, 3]
    assert road["bbox"] == [1, 0, 2, 3] and road["area"] == 4 and road["iscrowd"] == 0 and road["id"] == 2


def test_cvat_has_a_box_of_runs_along_the_rows(tmp_path):
    file = written("cvat", tmp_path, {"a.png": np.array([[255, 1, 1], [255, 255, 1], [0, 255, 1]], np.uint8)})
    road = ElementTree.parse(file).findall("image/mask")[1]
    assert road.get("label") == ID2LABEL[1] and road.get("rle") == "0, 2, 1, 1, 1, 1"
    assert [road.get(key) for key in ("left", "top", "width", "height")] == ["1", "0", "2", "3"]


def test_labelme_finds_the_photo_from_its_file(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "photos" / "a.jpg")
    label_map = np.zeros((2, 3), np.uint8)
    folder = write_annotations("labelme", [(tmp_path / "photos" / "a.jpg", label_map)], ID2LABEL, tmp_path / "json")
    content = json.loads((folder / "a.json").read_text(encoding="utf-8"))
    assert content["imagePath"] == "../photos/a.jpg" and content["imageData"] is None
    assert base64.b64decode(content["shapes"][0]["mask"])[:4] == b"\x89PNG"
    assert READERS["labelme"].read(folder).photos[0].photo.samefile(tmp_path / "photos" / "a.jpg")


def test_label_studio_gets_the_interface_of_its_tasks(tmp_path):
    tasks = json.loads(written("label-studio", tmp_path).read_text(encoding="utf-8"))
    interface = ElementTree.parse(tmp_path / "labeling_interface.xml")
    assert [label.get("value") for label in interface.iter("Label")] == list(ID2LABEL.values())
    result = tasks[0]["predictions"][0]["result"][0]
    (brush,), (image,) = interface.findall("BrushLabels"), interface.findall("Image")
    assert (result["from_name"], result["to_name"]) == (brush.get("name"), image.get("name"))
    assert brush.get("toName") == image.get("name") and image.get("value") == "$image"
    assert tasks[1]["data"]["image"] == f"/data/local-files/?d={tmp_path.name}/town%20%26%20%3Cb%3E.png"


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_written_where_a_prediction_fails(name, tmp_path):
    def predictions():
        yield tmp_path / "a.jpg", np.zeros((2, 3), np.uint8)
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        write_annotations(name, predictions(), ID2LABEL, tmp_path / "new")
    files = [file.name for file in (tmp_path / "new").rglob("*") if file.is_file()]
    assert files == (["a.json"] if name == "labelme" else [])


@pytest.mark.parametrize("name", FORMATS)
def test_no_predictions_give_a_file_without_photos(name, tmp_path):
    write_annotations(name, [], ID2LABEL, tmp_path)
    for file in tmp_path.rglob("*.json"):
        json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FORMATS)
def test_annotations_are_replaced_only_when_asked(name, tmp_path):
    written(name, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(FileExistsError, match=r"must not be there already; name another folder, or move it away\."):
        written(name, tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    write_annotations(name, [(tmp_path / "a.jpg", np.zeros((2, 3), np.uint8))], ID2LABEL, tmp_path, overwrite=True)
    files = annotation_files(name, tmp_path, [tmp_path / "a.jpg"], overwrite=True)
    assert all(file.exists() for file in files) and any(before[file] != file.read_bytes() for file in files)


def test_labelme_file_of_a_photo_is_not_replaced(tmp_path):
    (tmp_path / "a.json").write_text("work of hours")
    photo = tmp_path / "a.jpg"
    for function in (
        lambda: annotation_files("labelme", tmp_path, [photo]),
        lambda: write_annotations("labelme", [(photo, np.zeros((2, 3), np.uint8))], ID2LABEL, tmp_path),
    ):
        with pytest.raises(FileExistsError, match=r"a\.json` must not be there already; name another folder"):
            function()
    assert (tmp_path / "a.json").read_text() == "work of hours"


@pytest.mark.parametrize("name, other", [("coco", "B/A.jpg"), ("cvat", "b/a.jpg"), ("labelme", "a.png")])
def test_error_when_photos_have_the_same_name(name, other, tmp_path):
    photos = [tmp_path / "a.jpg", tmp_path / other]
    with pytest.raises(
        ValueError, match=r"`predictions` must be of photos with names of their own, and .*a\.jpg and "
    ):
        annotation_files(name, tmp_path, photos)
    with pytest.raises(ValueError, match=r"have the same; rename one, or write them into different folders\."):
        write_annotations(name, [(photo, np.zeros((2, 3), np.uint8)) for photo in photos], ID2LABEL, tmp_path)


def test_error_when_there_is_no_such_format(tmp_path):
    with pytest.raises(
        ValueError, match=r"`format_name` must be one of coco, cvat, label-studio, labelme, got 'yolo'"
    ):
        write_annotations("yolo", [], ID2LABEL, tmp_path)


READ_BY_TOOLS = {
    "coco": (
        ["pycocotools==2.0.11"],
        """
from pycocotools.coco import COCO
coco = COCO("annotations/instances_default.json")
for image in coco.loadImgs(coco.getImgIds()):
    ids = label_maps[image["file_name"]] = np.full((image["height"], image["width"]), 255, np.uint8)
    for one in coco.loadAnns(coco.getAnnIds(image["id"])):
        mask = coco.annToMask(one)
        ids[mask > 0] = one["category_id"] - 1
        assert mask.sum() == one["area"]
""",
    ),
    "labelme": (
        ["labelme==6.3.1"],
        """
import glob
from labelme._label_file import LabelFile
from labelme.utils import shapes_to_label
names = {name: number + 1 for number, name in enumerate(open("labels.txt", encoding="utf-8").read().splitlines())}
for file in glob.glob("*.json"):
    label_file = LabelFile(file)
    image = PIL.Image.open(label_file.image_path)
    ids, _ = shapes_to_label((image.height, image.width), label_file.shapes, names)
    label_maps[label_file.image_path] = (ids - 1).astype(np.uint8)
""",
    ),
    "label-studio": (
        ["label-studio-sdk==2.1.2", "pillow"],
        """
import urllib.parse
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface
tasks = json.load(open("tasks.json", encoding="utf-8"))
interface = LabelInterface(open("labeling_interface.xml", encoding="utf-8").read())
names = list(interface.get_control("tag").labels)
for task in tasks:
    mistakes = interface.validate_prediction(task["predictions"][0], return_errors=True)
    assert not mistakes, mistakes
    photo = urllib.parse.unquote(task["data"]["image"].split("/")[-1])
    ids = label_maps[photo] = np.full(PIL.Image.open(photo).size[::-1], 255, np.uint8)
    for one in task["predictions"][0]["result"]:
        assert (one["original_height"], one["original_width"]) == ids.shape
        mask = decode_rle(one["value"]["rle"]).reshape(*ids.shape, 4)[..., 3]
        ids[mask > 0] = names.index(one["value"]["brushlabels"][0])
""",
    ),
    "cvat": (
        ["datumaro==1.13.12"],
        """
from datumaro import Dataset
for item in Dataset.import_from("annotations.xml", "cvat"):
    ids = label_maps[item.media.path.split("/")[-1]] = np.full(item.media.size, 255, np.uint8)
    for one in item.annotations:
        ids[one.image.astype(bool)] = one.label
""",
    ),
}
READ_BY_TOOLS["coco by Datumaro"] = (
    ["datumaro==1.13.12"],
    """
import os, shutil
from datumaro import Dataset
os.makedirs("images/default")
for photo in [file for file in os.listdir(".") if file.endswith(("jpg", "png"))]:
    shutil.copy(photo, "images/default")
for item in Dataset.import_from(".", "coco_instances"):
    ids = label_maps[item.media.path.split("/")[-1]] = np.full(item.media.size, 255, np.uint8)
    for one in [one for one in item.annotations if one.type.name == "mask"]:
        ids[one.image.astype(bool)] = one.label
""",
)


@pytest.mark.network
@pytest.mark.parametrize("name", READ_BY_TOOLS)
def test_tools_read_the_label_maps_as_they_were(name, tmp_path):
    written(name.split()[0], tmp_path)
    packages, code = READ_BY_TOOLS[name]
    code = (
        f"import json\nimport numpy as np, PIL.Image\nlabel_maps = {{}}\n{code}\nnp.savez('found.npz', **label_maps)"
    )
    run_with([*packages, "pillow"], code, tmp_path)
    found, label_maps = np.load(tmp_path / "found.npz"), some_label_maps()
    assert set(found) == label_maps.keys()
    for photo, label_map in label_maps.items():
        np.testing.assert_array_equal(found[photo], label_map)
