import json

import numpy as np
import pytest
from mask_samples import SAMPLES, label_maps, write, write_palette

from offseg_hf.data.formats import colours
from offseg_hf.data.labels import read_colour_table

SKY, ROAD, BLACK = (70, 130, 180), (128, 64, 128), (0, 0, 0)
TABLES = {
    "labelmap.txt": "sky:70,130,180::\nroad:128,64,128::\nbackground:0,0,0::\n",
    "class_dict.csv": "name,r,g,b\nsky,70,130,180\nroad,128,64,128\nVoid,0,0,0\n",
    "dataset_meta.json": json.dumps(
        {
            "labels": ["background", "sky", "road"],
            "label_map": {"0": "background", "1": "sky", "2": "road"},
            "segmentation_colors": [BLACK, SKY, ROAD],
        }
    ),
}


def write_masks(folder, mask, photos="train", masks="train_labels", ending="_L"):
    write(folder / photos / "a.png", np.zeros((*np.shape(mask)[:2], 3)))
    write(folder / masks / f"a{ending}.png", mask)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("photos", "masks", "ending"), [("train", "train_labels", "_L"), ("images", "masks", ""), (".", ".", "_mask")]
)
def test_colours_are_read_by_a_table_in_any_layout(tmp_path, table, photos, masks, ending):
    write_masks(tmp_path, [[SKY, ROAD, BLACK]], photos, masks, ending)
    assert not colours.find(tmp_path)
    (tmp_path / table).write_text(TABLES[table])
    assert colours.find(tmp_path)
    assert label_maps(colours.read(tmp_path), ["road", "sky"])["a.png"][1].tolist() == [[1, 0, 255]]


@pytest.mark.parametrize("split", ["train", "val"])
def test_split_is_that_of_the_folder(tmp_path, split):
    write_masks(tmp_path, [[SKY, ROAD]], split, f"{split}_labels")
    (tmp_path / "class_dict.csv").write_text(TABLES["class_dict.csv"])
    assert [photo.split for photo in colours.read(tmp_path).photos] == [{"val": "validation"}.get(split, split)]


@pytest.mark.parametrize("table", ["class_names.txt", "codes.txt"])
@pytest.mark.parametrize("is_palette", [False, True])
def test_names_alone_are_those_of_the_ids(tmp_path, table, is_palette):
    write_masks(tmp_path, [[0, 1, 2, 255]])
    if is_palette:
        write_palette(tmp_path / "train_labels" / "a_L.png", [[0, 1, 2, 255]], {1: SKY})
    (tmp_path / table).write_text("_background_\nsky\nroad\n")
    assert label_maps(colours.read(tmp_path), ["road", "sky"])["a.png"][1].tolist() == [[255, 1, 0, 255]]


def test_names_may_begin_with_minus_1(tmp_path):
    write_masks(tmp_path, [[0, 1, 255]])
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\nsky\n")  # labelme's labels.txt
    labels = colours.read(tmp_path)
    assert labels.names == ("_background_", "sky", "__ignore__")
    label_map = label_maps(labels, ["sky", "_background_"], background="_background_")["a.png"][1]
    assert label_map[0, :2].tolist() == [1, 0]


def test_greys_are_colours_when_the_table_has_greys_only(tmp_path):
    write_masks(tmp_path, [[0, 128, 255]])
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,128,128,128\nroad,255,255,255\nVoid,0,0,0\n")
    assert label_maps(colours.read(tmp_path), ["sky", "road"])["a.png"][1].tolist() == [[255, 0, 1]]


def test_error_names_the_colour_when_the_table_lacks_it(tmp_path):
    write_masks(tmp_path, [[SKY, ROAD, (1, 2, 3)]])
    (tmp_path / "class_dict.csv").write_text(TABLES["class_dict.csv"])
    with pytest.raises(
        ValueError, match=r"train_labels/a_L.png` must .*, but 1 pixels have the colour #010203; add it"
    ):
        label_maps(colours.read(tmp_path), ["sky", "road"])


def test_persons_own_table_names_the_colours(tmp_path):
    write_masks(tmp_path, [[SKY, ROAD, BLACK]], "images", "masks", "")
    (tmp_path / "table.json").write_text('{"#4682b4": "sky", "128,64,128": "road", "#000000": null}')
    table = read_colour_table(str(tmp_path / "table.json"), {0: "road", 1: "sky"})
    labels = colours.read_with_colours(tmp_path, table)
    assert label_maps(labels, ["road", "sky"])["a.png"][1].tolist() == [[1, 0, 255]]


def test_black_class_is_told_since_it_may_be_what_nobody_labelled(tmp_path):
    write_masks(tmp_path, [[SKY, BLACK]])
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,70,130,180\nroad,0,0,0\ncar,1,1,1\n")
    labels = colours.read(tmp_path)
    assert [note.split(",")[0] for note in labels.notes] == ["Black means road in these masks"]
    found = label_maps(labels, ["sky", "car"], label_table={"road": None})  # the remedy
    assert found["a.png"][1].tolist() == [[0, 255]]


def test_lossy_masks_are_refused(tmp_path):
    write(tmp_path / "images" / "a.png", np.zeros((8, 8, 3)))
    write(tmp_path / "masks" / "a.jpg", np.zeros((8, 8, 3)))
    (tmp_path / "class_dict.csv").write_text(TABLES["class_dict.csv"])
    with pytest.raises(ValueError, match=r"masks/a.jpg` must hold ids bit for bit, but is a lossy JPEG"):
        colours.read(tmp_path)


@pytest.mark.parametrize("sample", ["voc", "camvid", "darwin_index", "roboflow_by_hand", "mmseg_by_hand"])
def test_folders_of_others_are_not_taken(sample):
    assert not colours.find(SAMPLES / sample)
