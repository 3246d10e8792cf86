import shutil

import numpy as np
import pytest
from mask_samples import SAMPLES, STRIPES, TRUTH, label_maps, stripes, write, write_palette

from offseg_hf.data.formats import voc
from offseg_hf.data.formats.mask_tables import voc_colour

SKY, ROAD = (70, 130, 180), (128, 64, 128)


def write_list(folder, name, *lines):
    file = folder / "ImageSets" / "Segmentation" / f"{name}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def folder(tmp_path):
    """Photos a, b and c, whose masks have sky on the left and road on the right."""
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nsky:70,130,180::\nroad:128,64,128\n")
    for name in "abc":
        write(tmp_path / "JPEGImages" / f"{name}.jpg", np.zeros((1, 2, 3)))
        write(tmp_path / "SegmentationClass" / f"{name}.png", [[SKY, ROAD]])
    return tmp_path


def test_sample_of_datumaro_is_read_by_its_colours():
    assert voc.find(SAMPLES / "voc")
    labels = voc.read(SAMPLES / "voc")
    assert labels.names == ("background", "sky", "road", "car", "void")
    [(name, (split, label_map))] = label_maps(labels).items()
    assert (name, split) == ("a.jpg", "train") and np.array_equal(label_map, TRUTH)


def test_background_is_a_class_when_it_is_named():
    label_map = label_maps(voc.read(SAMPLES / "voc"), ["sky", "road", "car", "background"], background="background")
    assert np.array_equal(label_map["a.jpg"][1], np.where(TRUTH == 255, 3, TRUTH))


def test_vocs_colours_are_taken_when_the_table_has_none():
    found = label_maps(voc.read(SAMPLES / "voc_datumaro"))
    assert found.keys() == {f"{name}.jpg" for name in STRIPES}  # one is listed without a mask, one in a sub-folder
    for name in STRIPES:
        split, label_map = found[f"{name}.jpg"]
        assert split == ("train" if name in "ab" else "validation")
        assert np.array_equal(label_map, stripes(name))


def test_colour_map_is_vocs():
    colours = [voc_colour(class_id) for class_id in (0, 1, 2, 3, 8, 15, 20, 255)]
    assert colours[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert colours[4:] == [(64, 0, 0), (192, 128, 128), (0, 64, 128), (224, 224, 192)]


def test_photos_of_trainval_count_once(folder):
    for split, names in (("train", "a"), ("val", "b"), ("trainval", "abc")):
        write_list(folder, split, *names)
    splits = {name: split for name, (split, _) in label_maps(voc.read(folder), ["sky", "road"]).items()}
    assert splits == {"a.jpg": "train", "b.jpg": "validation", "c.jpg": "train"}


@pytest.mark.parametrize(("name", "split"), [("test", "test"), ("default", "train"), ("Validation", "validation")])
def test_subset_is_the_split(folder, name, split):
    write_list(folder, name, "b")
    assert [(photo.photo.name, photo.split) for photo in voc.read(folder).photos] == [("b.jpg", split)]


def test_all_masks_are_training_when_there_is_no_list(folder):
    assert [(photo.photo.name, photo.split) for photo in voc.read(folder).photos] == [
        (f"{name}.jpg", "train") for name in "abc"
    ]


def test_masks_of_ids_are_read_by_the_lines_of_the_table(folder):
    write(folder / "SegmentationClass" / "a.png", [[1, 255]])
    assert label_maps(voc.read(folder), ["sky", "road"])["a.jpg"][1].tolist() == [[1, 255]]


def test_palette_masks_are_read_by_their_colours_and_not_their_ids(folder):
    write_palette(folder / "SegmentationClass" / "a.png", [[7, 3]], {7: SKY, 3: ROAD})
    assert label_maps(voc.read(folder), ["sky", "road"])["a.jpg"][1].tolist() == [[0, 1]]


def test_photos_may_lie_beside_the_folders(folder):
    for photo in (folder / "JPEGImages").iterdir():
        shutil.move(photo, folder / photo.name)
    (folder / "JPEGImages").rmdir()
    assert len(voc.read(folder).photos) == 3


def test_error_names_the_mask_when_its_photo_is_not_there(folder):
    (folder / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"`SegmentationClass/b.png` must have its photo, .*no b.jpg or .png"):
        voc.read(folder)


@pytest.mark.parametrize("parts", ["VOC2012", "VOCdevkit/VOC2012", "."])
def test_official_folder_has_the_official_names(tmp_path, parts):
    root = tmp_path / parts
    write(root / "JPEGImages" / "2007_000032.jpg", np.zeros((1, 3, 3)))
    palette = {class_id: voc_colour(class_id) for class_id in range(256)}
    write_palette(root / "SegmentationClass" / "2007_000032.png", [[1, 20, 255]], palette)
    write_palette(root / "SegmentationObject" / "2007_000032.png", [[1, 2, 255]], palette)
    write_list(root, "train", "2007_000032")
    assert voc.find(tmp_path)
    labels = voc.read(tmp_path)
    assert len(labels.names) == 22 and labels.names[:2] == ("background", "aeroplane")
    [(_, label_map)] = label_maps(labels, None).values()
    assert label_map.tolist() == [[0, 19, 255]]


def test_error_asks_for_the_table_when_names_are_not_vocs(folder):
    (folder / "labelmap.txt").rename(folder / "moved.txt")
    with pytest.raises(
        ValueError, match=r"must have a labelmap.txt that names the colours .*; take it from the export"
    ):
        voc.read(folder)
    (folder / "labelmap.txt").write_text("sky:70,130,180::\nroad:128,64,128::\n")
    assert label_maps(voc.read(folder), ["sky", "road"])["a.jpg"][1].tolist() == [[0, 1]]


def test_masks_of_labelme2voc_are_read_by_the_lines_of_their_names(tmp_path):
    (tmp_path / "class_names.txt").write_text("_background_\nsky\nroad\n")
    write(tmp_path / "JPEGImages" / "a.jpg", np.zeros((1, 4, 3)))
    write(tmp_path / "SegmentationClassVisualization" / "a.jpg", np.zeros((1, 4, 3)))
    palette = {class_id: voc_colour(class_id) for class_id in range(256)}
    write_palette(tmp_path / "SegmentationClassPNG" / "a.png", [[0, 1, 2, 255]], palette)
    labels = voc.read(tmp_path)
    assert label_maps(labels, ["road", "sky"])["a.jpg"][1].tolist() == [[255, 1, 0, 255]]


def test_folder_of_pascal_context_is_none_of_vocs(tmp_path):
    write(tmp_path / "JPEGImages" / "a.jpg", np.zeros((1, 2, 3)))
    write(tmp_path / "SegmentationClassContext" / "a.png", [[0, 1]])
    assert not voc.find(tmp_path)


def test_error_names_both_splits_when_a_photo_is_in_two(folder):
    write_list(folder, "train", "a", "b")
    write_list(folder, "val", "b", "c")
    with pytest.raises(ValueError, match=r"b\.png` must be in one split, and is listed in \w+ and in \w+; remove it"):
        voc.read(folder)
    write_list(folder, "val", "c")
    assert len(voc.read(folder).photos) == 3
