"""Label Studio's exports: the sample of its own SDK, and what its interface writes beyond that."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_venv import run_with

from offseg_hf.data.formats import label_studio
from offseg_hf.data.formats.drawing import DrawnMask

SAMPLE = Path(__file__).parent / "samples" / "label_studio"
TRUTH = np.array(Image.open(SAMPLE.parent / "truth.png"))
# Three values of 4 channels: a run of 5 zeros, 3 single values 0, 0, 7, and a run of 4 times 9 (values of 8 bits,
# lengths of 3, 4, 8 or 16), written by hand.
RUNS = "00000000000000000000000000001100001110010001101111111"
RUNS += "1001000000000000001000000000000000000000011110001100001001"


def polygon(label, left, top, right, bottom, size=(40, 60), **others):
    """A box as a polygon, in pixels."""
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    points = [[x / size[1] * 100, y / size[0] * 100] for x, y in corners]
    return region("polygonlabels", {"points": points, "closed": True, "polygonlabels": [label]}, size, **others)


def region(kind, value, size=(40, 60), **others):
    result = {"type": kind, "from_name": "tag", "to_name": "image", "image_rotation": 0, "value": value}
    return {**result, "original_height": size[0], "original_width": size[1], **others}


def task(*results, image="/data/local-files/?d=photos/a.jpg", **others):
    annotation = {"id": 1, "completed_by": 1, "result": list(results), "was_cancelled": False}
    return {"id": 1, "annotations": [annotation], "predictions": [], "data": {"image": image}, **others}


def write(folder, *tasks, photos=("a.jpg",), file="export.json"):
    for photo in photos:
        (folder / photo).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(folder / photo)
    (folder / file).write_text(json.dumps(tasks))
    return folder / file


def drawn(labels):
    return DrawnMask(labels.photos[0], {"sky": 0, "road": 1, "car": 2}).draw()


def packed(bits):
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def test_sample_with_brushes_is_the_scene():
    labels = label_studio.read(SAMPLE / "mixed.json")
    assert labels.names == ("car", "road", "sky") and not labels.is_complete and not labels.notes
    assert labels.photos[0].source == "mixed.json, task 1" and labels.photos[0].size == (40, 60)
    np.testing.assert_array_equal(drawn(labels), TRUTH)


def test_sample_with_polygons_is_the_scene_without_the_hole():
    found = drawn(label_studio.read(SAMPLE / "polys.json"))
    is_hole = np.zeros(TRUTH.shape, bool)
    is_hole[25:32, 15:25] = True
    np.testing.assert_array_equal(found, np.where(is_hole, 1, TRUTH))


def test_find_knows_a_folder_and_a_file(tmp_path):
    assert label_studio.find(SAMPLE) and label_studio.find(SAMPLE / "mixed.json")
    assert not label_studio.find(SAMPLE.parent / "labelme") and not label_studio.find(SAMPLE / "a.jpg")
    coco = {"info": {"version": "1"}, "images": [], "annotations": [{"segmentation": [[1, 2]]}], "categories": []}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    assert not label_studio.find(tmp_path)
    assert label_studio.find(write(tmp_path / "deep", {"id": 1, "annotations": [], "data": {"image": "a.jpg"}}))


def test_brush_is_decoded_by_hand(tmp_path):
    value = {"format": "rle", "rle": packed(RUNS), "brushlabels": ["car"]}
    labels = label_studio.read(write(tmp_path, task(region("brushlabels", value, (1, 3)))))
    assert drawn(labels).tolist() == [[255, 2, 2]]


@pytest.mark.parametrize(
    "rle, size, found",
    [
        (packed(RUNS), (1, 4), "12 values, and the picture 16"),
        (packed(RUNS[:-20]), (1, 3), "end too early|reshape|broadcast"),
        ([], (1, 3), "end too early"),
    ],
)
def test_damaged_brush_is_an_error(rle, size, found, tmp_path):
    value = {"format": "rle", "rle": rle, "brushlabels": ["car"]}
    labels = label_studio.read(write(tmp_path, task(region("brushlabels", value, size))))
    with pytest.raises(
        ValueError, match=rf"`export\.json, task 1` must hold pixels that can .* object 1, car, .*({found})"
    ):
        drawn(labels)


@pytest.mark.network
def test_brushes_are_decoded_as_by_label_studio(tmp_path):
    draw = random.Random(0)
    masks = []
    for height, width in ((1, 1), (3, 5), (40, 60), (300, 301)):
        for share in (0.0, 0.02, 0.5, 1.0):
            mask = np.array([draw.random() < share for _ in range(height * width)]).reshape(height, width)
            masks.append(mask if height < 100 else np.sort(mask, axis=0))
    np.savez(tmp_path / "masks.npz", *masks)
    code = """
import json, numpy as np
from label_studio_sdk.converter.brush import decode_rle, encode_rle, mask2rle
masks = np.load("masks.npz")
found = [mask2rle(masks[name].astype(np.uint8) * 255) for name in masks]
noise = np.random.default_rng(0).integers(0, 3, (20, 30, 4)) * 100
found.append(encode_rle(noise.ravel()))
json.dump(found, open("rle.json", "w"))
np.savez("decoded.npz", *[decode_rle(rle) for rle in found])
"""
    run_with(["label-studio-sdk==2.1.2"], code, tmp_path)
    sizes = [mask.shape for mask in masks] + [(20, 30)]
    decoded = np.load(tmp_path / "decoded.npz")
    for name, rle, size in zip(decoded, json.loads((tmp_path / "rle.json").read_text()), sizes):
        found = label_studio._decode((bytes(rle), *size))
        np.testing.assert_array_equal(found, decoded[name].reshape(*size, 4)[..., 3] > 0)


def test_rectangle_is_turned_clockwise_round_its_top_left_corner(tmp_path):
    value = {"x": 50.0, "y": 25.0, "width": 20.0, "height": 10.0, "rotation": 90, "rectanglelabels": ["car"]}
    found = drawn(label_studio.read(write(tmp_path, task(region("rectanglelabels", value)))))
    expected = np.full((40, 60), 255)
    expected[10:22, 26:30] = 2  # 12 × 4 pixels from (30, 10), now to the left and down
    np.testing.assert_array_equal(found, expected)


def test_region_drawn_on_a_turned_picture_is_one_of_the_picture_as_it_is_stored(tmp_path):
    found = drawn(label_studio.read(write(tmp_path, task(polygon("car", 2, 3, 9, 8, image_rotation=90)))))
    assert (found == 2).sum() == 35 and (found[3:8, 2:9] == 2).all()


def test_ellipse_is_turned_round_its_centre(tmp_path):
    value = {"x": 50.0, "y": 50.0, "radiusX": 20.0, "radiusY": 10.0, "rotation": 30, "ellipselabels": ["car"]}
    found = drawn(label_studio.read(write(tmp_path, task(region("ellipselabels", value)))))
    y, x = np.mgrid[:40, :60] + 0.5
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    along, across = (x - 30) * cos + (y - 20) * sin, (y - 20) * cos - (x - 30) * sin
    assert ((found == 2) != ((along / 12) ** 2 + (across / 4) ** 2 <= 1)).sum() <= 6  # at the rim


def test_later_regions_are_on_top(tmp_path):
    results = [polygon("sky", 0, 0, 20, 20), polygon("road", 5, 5, 20, 20), polygon("sky", 10, 10, 20, 20)]
    found = drawn(label_studio.read(write(tmp_path, task(*results))))
    assert found[4, 4] == 0 and found[6, 6] == 1 and found[12, 12] == 0


def test_geometry_and_label_may_be_results_of_their_own(tmp_path):
    whole = polygon("car", 3, 4, 9, 8)
    points = {"points": whole["value"]["points"], "closed": True}
    results = [
        {**whole, "id": "a", "type": "polygon", "value": points},
        {**whole, "id": "a", "type": "labels", "value": {**points, "labels": ["car"]}},
        {**whole, "id": "a", "type": "choices", "value": {**points, "choices": ["red"]}},
        {"id": "b", "type": "choices", "to_name": "image", "from_name": "weather", "value": {"choices": ["rain"]}},
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
    ]
    labels = label_studio.read(write(tmp_path, task(*results)))
    assert labels.names == ("car",) and len(labels.photos[0].shapes) == 1
    assert (drawn(labels) == 2).sum() == 24


def test_keypoints_are_left_out_with_a_note(tmp_path):
    value = {"x": 1, "y": 2, "width": 0.5, "keypointlabels": ["hand"]}
    labels = label_studio.read(write(tmp_path, task(region("keypointlabels", value), polygon("car", 0, 0, 9, 9))))
    assert labels.names == ("car",) and len(labels.photos[0].shapes) == 1
    assert labels.notes == ("keypoints left out, since they hold no pixels: 1",)


def annotated(*annotations):
    named = [
        {"id": number, "result": [polygon(label, 0, 0, 9, 9)], **others}
        for number, (label, others) in enumerate(annotations)
    ]
    return {"id": 1, "annotations": named, "data": {"image": "a.jpg"}}


def test_newest_submitted_annotation_counts(tmp_path):
    annotations = [
        ("sky", {"created_at": "2026-01-01T00:00:00Z"}),
        ("road", {"created_at": "2026-01-03T00:00:00Z"}),
        ("car", {"created_at": "2026-01-04T00:00:00Z", "was_cancelled": True}),
    ]
    labels = label_studio.read(write(tmp_path, annotated(*annotations)))
    assert labels.names == ("road",)
    assert labels.notes == ("tasks with several annotations, of which the ground truth was taken, else the newest: 1",)


def test_ground_truth_counts_more_than_the_newest(tmp_path):
    annotations = [
        ("sky", {"created_at": "2026-01-01T00:00:00Z", "ground_truth": True}),
        ("road", {"created_at": "2026-01-03T00:00:00Z", "ground_truth": False}),
    ]
    assert label_studio.read(write(tmp_path, annotated(*annotations))).names == ("sky",)


def test_tasks_without_a_submitted_annotation_are_left_out_and_empty_ones_kept(tmp_path):
    tasks = [
        task(image="a.jpg"),
        {
            "id": 2,
            "annotations": [],
            "data": {"image": "b.jpg"},
            "predictions": [{"result": [polygon("sky", 0, 0, 9, 9)]}],
        },
        annotated(("car", {"was_cancelled": True})),
    ]
    labels = label_studio.read(write(tmp_path, *tasks))
    assert [one.photo.name for one in labels.photos] == ["a.jpg"] and labels.photos[0].shapes == ()
    assert labels.notes == ("tasks left out, since no annotation was submitted: 2",)


@pytest.mark.parametrize(
    "image, photo",
    [
        ("/data/local-files/?d=photos%2Fmy%20town%2Fa.jpg", "my town/a.jpg"),
        ("/data/local-files/?d=C%3A%5Cphotos%5Ca.jpg", "a.jpg"),
        ("https://host/bucket/my%20town/a%C3%A4.jpg?X-Amz-Signature=1%2F2", "my town/aä.jpg"),
        ("s3://bucket/deep/a.jpg", "images/a.jpg"),
        ("/data/upload/3/0a1b2c3d-a.jpg", "a.jpg"),
        ("/data/upload/3/0a1b2c3d-a.jpg", "upload/3/0a1b2c3d-a.jpg"),
        ("/data/upload/3/0a1b2c3d-my%20town.jpg", "my town.jpg"),
        ("/data/upload/3/0a1b2c3d-IMG_001_1.jpg", "my photos/IMG 001 (1).jpg"),
        ("0a1b2c3d-a.jpg", "0a1b2c3d-a.jpg"),
    ],
)
def test_photo_is_found_by_its_address(image, photo, tmp_path):
    others = ("other/b.jpg",)
    labels = label_studio.read(write(tmp_path, task(image=image), photos=(photo, *others)))
    assert labels.photos[0].photo == tmp_path / photo


def test_error_when_an_upload_may_be_one_of_two_photos(tmp_path):
    file = write(tmp_path, task(image="/data/upload/3/0a1b2c3d-a_1.jpg"), photos=("a (1).jpg", "a 1.jpg"))
    with pytest.raises(FileNotFoundError, match=r"task 1` names the photo .*a_1\.jpg, and there is no a_1\.jpg below"):
        label_studio.read(file)
    (tmp_path / "a 1.jpg").rename(tmp_path / "a_1.jpg")
    assert label_studio.read(file).photos[0].photo.name == "a_1.jpg"


def test_uploads_with_the_same_name_are_an_error(tmp_path):
    tasks = [task(image="/data/upload/3/0a1b2c3d-a.jpg"), {**task(image="/data/upload/3/4e5f6a7b-a.jpg"), "id": 2}]
    with pytest.raises(
        ValueError, match=r"`export\.json, task 2` must be the only labels of .*, but `export\.json, tas"
    ):
        label_studio.read(write(tmp_path, *tasks))
    names = ("upload/0a1b2c3d-a.jpg", "upload/4e5f6a7b-a.jpg")  # as Label Studio's own folder has them
    assert len(label_studio.read(write(tmp_path, *tasks, photos=names)).photos) == 2


@pytest.mark.parametrize(
    "data",
    [
        {"img": "a.jpg", "text": "What is b.jpg?", "number": 3},
        {"image": "a.jpg", "thumbnail": "b.jpg"},
        {"pic": "b.jpg", "thumbnail": "b.jpg", "left": "a.jpg"},
    ],
)
def test_photo_is_found_among_the_data(data, tmp_path):
    given = task(polygon("car", 0, 0, 9, 9, to_name="left" if "left" in data else "canvas"), data=data)
    labels = label_studio.read(write(tmp_path, given, photos=("a.jpg", "b.jpg")))
    assert labels.photos[0].photo.name == "a.jpg"


@pytest.mark.parametrize("data, found", [({"x": "a.jpg", "y": "b.jpg"}, "x, y"), ({"text": "a"}, "none")])
def test_error_when_the_data_do_not_tell_the_photo(data, found, tmp_path):
    with pytest.raises(
        ValueError, match=rf"task 1` must have one image file among its data, and has {found} \(data: "
    ):
        label_studio.read(write(tmp_path, task(data=data)))


def test_folder_may_have_a_file_for_each_task_or_for_each_annotation(tmp_path):
    (tmp_path / "1.json").write_text(json.dumps({**task(polygon("sky", 0, 0, 9, 9), image="a.jpg"), "id": 1}))
    whole = {"id": 2, "data": {"image": "b.jpg"}}
    for number, label in ((7, "car"), (8, "road")):
        annotation = {"id": number, "result": [polygon(label, 0, 0, 9, 9)], "created_at": f"2026-01-0{number}"}
        (tmp_path / f"{number}.json").write_text(json.dumps({**annotation, "was_cancelled": False, "task": whole}))
    write(tmp_path, photos=("a.jpg", "b.jpg"), file="none.json")
    assert label_studio.find(tmp_path)
    labels = label_studio.read(tmp_path)
    assert [(one.photo.name, one.shapes[0].label) for one in labels.photos] == [("a.jpg", "sky"), ("b.jpg", "road")]


def test_json_min_is_an_error(tmp_path):
    value = polygon("car", 0, 0, 9, 9)["value"]
    item = {"image": "a.jpg", "id": 1, "label": [{**value, "original_width": 60}], "annotator": 1, "annotation_id": 1}
    file = write(tmp_path, item)
    assert label_studio.find(file)
    with pytest.raises(
        ValueError, match=r'export\.json` must be an export as "JSON", and is one as "JSON-MIN", which'
    ):
        label_studio.read(file)


def test_error_when_a_file_is_damaged(tmp_path):
    (tmp_path / "export.json").write_text('[{"data": {')
    with pytest.raises(ValueError, match=r"export\.json` must be JSON, but cannot be read"):
        label_studio.read(tmp_path)


@pytest.mark.parametrize(
    "result, found",
    [
        (
            region("vectorlabels", {"vertices": [], "vectorlabels": ["car"]}, id="r"),
            "vectorlabels is no polygon, brush",
        ),
        (region("polygonlabels", {"points": [1, 2], "polygonlabels": ["car"]}, id="r"), "car, cannot "),
        (region("ellipselabels", {"radiusX": 1, "ellipselabels": ["car"]}, id="r"), r"car, cannot \(KeyError: 'x'\)"),
        (region("brushlabels", {"rle": [300], "brushlabels": ["car"]}, id="r"), "car, cannot .*range"),
    ],
)
def test_error_when_a_region_cannot_be_drawn(result, found, tmp_path):
    with pytest.raises(
        ValueError, match=rf"`export\.json, task 1` must have regions that can be .* (region r, )?{found}"
    ):
        label_studio.read(write(tmp_path, task(result)))


@pytest.mark.parametrize("labels, found", [(["car", "road"], "car, road"), ([], "none")])
def test_error_when_a_region_has_not_one_label(labels, found, tmp_path):
    value = {**polygon("car", 0, 0, 9, 9)["value"], "polygonlabels": labels}
    with pytest.raises(
        ValueError, match=rf"task 1` must have one label .* region r, a polygonlabels, has {found}; corr"
    ):
        label_studio.read(write(tmp_path, task(region("polygonlabels", value, id="r"))))


def test_error_when_a_task_has_several_pictures(tmp_path):
    results = [polygon("car", 0, 0, 9, 9, to_name=name) for name in ("left", "right")]
    with pytest.raises(
        ValueError, match=r"task 1` must have its regions on one picture, and has them on 2 .*make a task"
    ):
        label_studio.read(write(tmp_path, task(*results)))


def test_error_when_the_photo_is_missing(tmp_path):
    file = write(tmp_path, task(image="/data/upload/3/0a1b2c3d-b.jpg"))
    with pytest.raises(FileNotFoundError, match=r"`export\.json, task 1` names the photo .*b\.jpg, and there is no "):
        label_studio.read(file)
    shutil.copy(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert label_studio.read(file).photos[0].photo.name == "b.jpg"


def test_find_knows_a_file_that_begins_with_a_long_brush(tmp_path):
    value = {"format": "rle", "rle": [0] * 50_000, "brushlabels": ["car"]}
    raw = [{"id": 1, "annotations": [{"id": 1, "result": [{"value": value}]}], "data": {"image": "a.jpg"}}]
    json_min = [{"image": "a.jpg", "id": 1, "label": [value], "annotator": 1, "annotation_id": 1}]
    for content in (raw, json_min):
        (tmp_path / "export.json").write_text(json.dumps(content))
        assert label_studio.find(tmp_path)
