"""CVAT's XML: Datumaro's sample, and what CVAT itself writes beyond that."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_venv import run_with

from offseg_hf.data.formats import cvat
from offseg_hf.data.formats.drawing import DrawnMask

SAMPLE = Path(__file__).parent / "samples" / "cvat"
NAMES = ("sky", "road", "car")
META = """<meta><project><name>p</name><tasks><task><name>t</name></task></tasks><labels>
  <label><name>road</name><color>#ff0000</color><type>any</type><attributes/></label>
  <label><name>car</name><type>mask</type><attributes>
    <attribute><name>red</name><input_type>checkbox</input_type></attribute></attributes></label>
  <label><name>night</name><type>tag</type></label>
  <label><name>body</name><type>skeleton</type></label>
  <label><name>hand</name><type>points</type><parent>body</parent></label>
</labels></project></meta>"""


def write(folder, *images, meta=META, file="annotations.xml", photos=("images/a.png",)):
    for photo in photos:
        (folder / photo).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(folder / photo)
    text = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  '
    (folder / file).write_text(f"{text}{meta}\n{''.join(images)}</annotations>\n", encoding="utf-8")
    return folder


def image(*shapes, name="a.png", subset=""):
    return f'<image id="0" name="{name}"{subset} width="60" height="40">{"".join(shapes)}</image>'


def box(label="car", area=(2, 3, 6, 5), **others):
    values = dict(zip(("xtl", "ytl", "xbr", "ybr"), area), **others)
    attributes = " ".join(f'{key}="{value}"' for key, value in values.items())
    return f'<box label="{label}" {attributes}/>'


def draw(labels, number=0):
    ids = {name: class_id for class_id, name in enumerate(labels.names)}
    return DrawnMask(labels.photos[number], ids).draw()


def drawn(folder):
    return draw(cvat.read(folder))


def test_sample_is_the_scene():
    labels = cvat.read(SAMPLE)
    assert labels.names == NAMES and labels.is_complete and not labels.notes
    assert labels.photos[0].source == "train.xml, a.jpg" and labels.photos[0].split == "train"
    np.testing.assert_array_equal(draw(labels), np.array(Image.open(SAMPLE.parent / "truth.png")))


def test_find_knows_a_folder_a_nested_one_and_a_file(tmp_path):
    assert cvat.find(SAMPLE) and cvat.find(SAMPLE / "train.xml")
    assert not cvat.find(SAMPLE.parent / "labelme") and not cvat.find(SAMPLE / "images" / "a.jpg")
    write(tmp_path / "job_1")
    assert cvat.find(tmp_path)
    (tmp_path / "voc" / "Annotations").mkdir(parents=True)
    (tmp_path / "voc" / "Annotations" / "a.xml").write_text("<annotation><object/></annotation>")
    assert not cvat.find(tmp_path / "voc")


def test_classes_are_those_of_the_project_that_hold_pixels(tmp_path):
    labels = cvat.read(write(tmp_path, image()))
    assert labels.names == ("road", "car") and labels.is_complete


def test_classes_that_no_list_has_come_last(tmp_path):
    labels = cvat.read(write(tmp_path, image(box("tree"), box("bus"))))
    assert labels.names == ("road", "car", "bus", "tree") and not labels.is_complete


def test_shapes_are_drawn_by_their_z_order_and_then_by_that_of_the_file(tmp_path):
    write(tmp_path, image(box("car", z_order=1), box("road", z_order=-2), box("road"), box("car", (4, 3, 9, 5))))
    found = drawn(tmp_path)
    assert (found[3:5, 2:9] == 1).all()
    write(tmp_path, image(box("car"), box("road", (4, 3, 9, 5))))
    assert (drawn(tmp_path)[3:5, 4:9] == 0).all()


def test_box_is_turned_clockwise_round_its_middle(tmp_path):
    write(tmp_path, image(box(area=(10, 10, 20, 14), rotation=90.0)))
    assert sorted(map(tuple, np.argwhere(drawn(tmp_path) == 1).tolist())) == [
        (y, x) for y in range(7, 17) for x in range(13, 17)
    ]
    write(tmp_path, image(box(area=(10, 15, 30, 17), rotation=45.0)))
    found = drawn(tmp_path) == 1
    assert found[22, 26] and found[10, 14] and not found[10, 26]  # from the top left to the bottom right


def test_ellipse_is_turned_round_its_centre(tmp_path):
    shape = '<ellipse label="car" cx="30.00" cy="20.00" rx="12.00" ry="4.00"{}/>'
    y, x = np.mgrid[:40, :60] + 0.5
    for rotation, degrees in (("", 0), (' rotation="30.00"', 30)):
        write(tmp_path, image(shape.format(rotation)))
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        along, across = (x - 30) * cos + (y - 20) * sin, (y - 20) * cos - (x - 30) * sin
        expected = (along / 12) ** 2 + (across / 4) ** 2 <= 1
        assert ((drawn(tmp_path) == 1) != expected).sum() <= 6  # at the rim


def test_mask_is_runs_along_the_rows_of_zeros_first(tmp_path):
    write(tmp_path, image('<mask label="car" rle="0, 2, 1,3" left="57" top="38" width="3" height="2" z_order="0"/>'))
    assert np.argwhere(drawn(tmp_path) == 1).tolist() == [[38, 57], [38, 58], [39, 57], [39, 58], [39, 59]]


@pytest.mark.parametrize("rle", ["1, 2", "0, 7", "-1, 7", "0, 6000000000000"])
def test_mask_of_another_number_of_pixels_is_an_error(rle, tmp_path):
    write(tmp_path, image(f'<mask label="car" rle="{rle}" left="0" top="0" width="3" height="2"/>'))
    with pytest.raises(ValueError, match=r"`annotations\.xml, a\.png` must hold pixels that can be decoded, but"):
        drawn(tmp_path)


def test_what_holds_no_pixels_is_left_out_with_a_note(tmp_path):
    points = '<points label="car" points="1,1;2,2"/>'
    labels = cvat.read(
        write(tmp_path, image('<tag label="night"/>', points, points, '<polyline label="road" points="1,1"/>'))
    )
    assert labels.photos[0].shapes == () and labels.names == ("road", "car")
    assert labels.notes == (
        "points left out, since they hold no pixels: 2",
        "polyline left out, since they hold no pixels: 1",
    )


def test_images_without_shapes_are_kept(tmp_path):
    write(tmp_path, image(box()), image(name="b.png"), photos=("images/a.png", "images/b.png"))
    assert [(one.photo.name, len(one.shapes)) for one in cvat.read(tmp_path).photos] == [("a.png", 1), ("b.png", 0)]


def test_splits_are_the_subsets(tmp_path):
    names = ("images/Train/a.png", "images/Validation/a.png", "images/default/b.png", "images/Test/cam 1/a.png")
    images = [image(subset=f' subset="{subset}"') for subset in ("Train", "Validation")]
    images += [image(name="b.png", subset=' subset="default"'), image(name="cam 1/a.png", subset=' subset="Test"')]
    labels = cvat.read(write(tmp_path, *images, photos=names))
    assert {f"{one.photo.relative_to(tmp_path)}": one.split for one in labels.photos} == dict(
        zip(names, ("train", "validation", "train", "test"))
    )


def test_files_are_the_splits_where_their_names_are(tmp_path):
    write(tmp_path, image(), file="train.xml")
    write(tmp_path, image(name="b.png"), file="val.xml", photos=("images/b.png",))
    write(tmp_path, image(name="c.png"), file="task 5.xml", photos=("images/c.png",))
    assert [one.split for one in cvat.read(tmp_path).photos] == ["train", "validation", "train"]


def test_file_of_a_video_is_an_error(tmp_path):
    write(tmp_path, '<track id="0" label="car"><box frame="0" xtl="1" ytl="1" xbr="2" ybr="2"/></track>')
    assert cvat.find(tmp_path)
    with pytest.raises(
        ValueError, match=r'annotations\.xml` must have shapes on images, .* as "CVAT for images 1\.1"'
    ):
        cvat.read(tmp_path)


def test_file_that_declares_entities_is_an_error(tmp_path):
    write(tmp_path, image(), meta=META)
    text = (tmp_path / "annotations.xml").read_text()
    text = text.replace("<annotations>", '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]>\n<annotations>', 1)
    (tmp_path / "annotations.xml").write_text(text.replace("<name>p<", "<name>&d;<"))
    with pytest.raises(
        ValueError, match=r"annotations\.xml` must be an XML file as CVAT writes it, but it declares a"
    ):
        cvat.read(tmp_path)


def test_error_when_a_file_is_damaged(tmp_path):
    (tmp_path / "annotations.xml").write_text("<annotations><meta>")
    with pytest.raises(ValueError, match=r"annotations\.xml` must be an XML file as CVAT writes it, but no element"):
        cvat.read(tmp_path)


@pytest.mark.parametrize(
    "shape, found",
    [
        ('<polygon label="car" points="1,1;2,x"/>', "ValueError: could not convert"),
        ('<polygon label="car" points="1,1,1;2,2,2;3,3,3"/>', "a polygon has points that are no pairs"),
        ('<box label="car" xtl="1"/>', "KeyError: 'ytl'"),
        ('<polygon points="1,1;2,2;3,3"/>', "KeyError: 'label'"),
        ('<blob label="car"/>', "it has a shape blob"),
        (
            '<mask label="car" rle="0,1" left="0" top="0" width="99999" height="99999"/>',
            "99999 x 99999 pixels does not",
        ),
    ],
)
def test_error_when_a_shape_is_not_cvats(shape, found, tmp_path):
    write(tmp_path, image(shape))
    with pytest.raises(ValueError, match=rf"`annotations\.xml, a\.png` must have sizes and shapes as CVAT .*{found}"):
        cvat.read(tmp_path)


def test_error_when_the_photo_is_missing(tmp_path):
    write(tmp_path, image(name="b.png"))
    with pytest.raises(FileNotFoundError, match=r"`annotations\.xml, b\.png` names the photo b\.png, and there is no"):
        cvat.read(tmp_path)


def test_error_when_two_files_have_the_same_image(tmp_path):
    write(tmp_path, image())
    shutil.copy(tmp_path / "annotations.xml", tmp_path / "backup.xml")
    with pytest.raises(
        ValueError, match=r"`backup\.xml, a\.png` must be the only labels of .*, but `annotations\.xml,"
    ):
        cvat.read(tmp_path)


@pytest.mark.network
def test_datumaro_reads_the_same(tmp_path):
    mask = '<mask label="car" rle="1, 2, 3" left="40" top="30" width="3" height="2" z_order="0"/>'
    polygon = '<polygon label="road" points="1.30,2.70;20.55,1.50;14.20,12.90" z_order="1"/>'
    meta = META.replace("<tasks><task><name>t</name></task></tasks>", "").replace("project>", "task>")
    write(tmp_path, image(mask, polygon, box(area=(10.4, 5.6, 30.5, 9.2), z_order=2)), meta=meta)
    code = """
import numpy as np
from datumaro import Dataset
item = next(iter(Dataset.import_from("annotations.xml", "cvat")))
ids = np.full((40, 60), 255, np.uint8)
for one in sorted(item.annotations, key=lambda one: one.z_order):
    if one.type.name == "mask":
        ids[one.image.astype(bool)] = one.label
    else:
        from pycocotools import mask
        points = one.points if one.type.name == "polygon" else one.as_polygon()
        points = [round(float(value), 2) for value in points]  # Datumaro's have 32 bits, CVAT's own 64
        ids[mask.decode(mask.frPyObjects([points], 40, 60))[..., 0] > 0] = one.label
np.save("ids.npy", ids)
"""
    run_with(["datumaro==1.13.12", "pycocotools==2.0.11"], code, tmp_path)
    np.testing.assert_array_equal(drawn(tmp_path), np.load(tmp_path / "ids.npy"))
