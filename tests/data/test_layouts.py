"""Miniature trees in the layouts that the official downloads unpack to."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from offseg_hf.data.sources import load_segmentation_dataset

CITIES = ("aachen/aachen_000000_000019", "bochum/bochum_000000_000313")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def write_ade20k(folder):
    for split, names in (("training", ("ADE_train_00000002", "ADE_train_00000001")), ("validation", ("ADE_val_1",))):
        for name in names:
            write(folder / "images" / split / f"{name}.jpg")
            write(folder / "annotations" / split / f"{name}.png")
    (folder / "objectInfo150.txt").write_text("Idx")
    (folder / "sceneCategories.txt").write_text("ADE_train_00000001 airport_terminal")


def write_cityscapes(folder, endings=("labelIds",)):
    for split in ("train", "val"):
        for name in CITIES:
            write(folder / "leftImg8bit" / split / f"{name}_leftImg8bit.png")
            for ending in ("color", "instanceIds", *endings):
                write(folder / "gtFine" / split / f"{name}_gtFine_{ending}.png")
            (folder / "gtFine" / split / f"{name}_gtFine_polygons.json").write_text("{}")


def write_coco_stuff(folder, images="images", masks="annotations", endings=("",)):
    for split, names in (("train2017", ("000000000009", "000000000025")), ("val2017", ("000000000139",))):
        for name in names:
            write(folder / images / split / f"{name}.jpg")
            for ending in endings:
                write(folder / masks / split / f"{name}{ending}.png")


def write_pascal_context(folder):
    for name in ("2008_000002", "2008_000003", "2010_000001"):
        write(folder / "JPEGImages" / f"{name}.jpg")
        write(folder / "SegmentationClassContext" / f"{name}.png")
    write(folder / "JPEGImages" / "2007_000027.jpg")  # VOC has photos without such labels
    lists = folder / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2010_000001\n2008_000002\n")
    (lists / "val.txt").write_text("2008_000003\n")


def names(data):
    return [tuple("/".join(Path(example[name]["path"]).parts[-2:]) for name in ("image", "mask")) for example in data]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("root", ["", "ADEChallengeData2016"])
def test_ade20k_is_read_in_its_official_layout(tmp_path, root, streaming):
    write_ade20k(tmp_path / "ade" / root)
    data = load_segmentation_dataset("ade20k", "train", data_dir=str(tmp_path / "ade"), streaming=streaming)
    assert names(data) == [
        ("training/ADE_train_00000001.jpg", "training/ADE_train_00000001.png"),
        ("training/ADE_train_00000002.jpg", "training/ADE_train_00000002.png"),
    ]
    validation = load_segmentation_dataset("ade20k", "val", data_dir=str(tmp_path / "ade"), streaming=streaming)
    assert names(validation) == [("validation/ADE_val_1.jpg", "validation/ADE_val_1.png")]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("endings", "ending"),
    [
        (("labelIds",), "labelIds"),
        (("labelTrainIds",), "labelTrainIds"),
        (("labelTrainIds", "labelIds"), "labelIds"),
    ],
)
def test_cityscapes_is_read_in_its_official_layout(tmp_path, endings, ending, streaming):
    write_cityscapes(tmp_path / "city", endings)
    data = load_segmentation_dataset("cityscapes", "validation", data_dir=tmp_path / "city", streaming=streaming)
    assert names(data) == [(f"{name}_leftImg8bit.png", f"{name}_gtFine_{ending}.png") for name in CITIES]
    assert all("/val/" in example["mask"]["path"] for example in data)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("images", "masks", "endings", "ending"),
    [
        ("images", "annotations", ("",), ""),
        ("images", "annotations", ("", "_labelTrainIds"), ""),
        ("images", "annotations", ("_labelTrainIds",), "_labelTrainIds"),
        ("images", "stuffthingmaps", ("",), ""),
        ("", "stuffthingmaps", ("",), ""),
    ],
)
def test_coco_stuff_is_read_in_its_official_layouts(tmp_path, images, masks, endings, ending, streaming):
    write_coco_stuff(tmp_path / "coco", images, masks, endings)
    data = load_segmentation_dataset("coco_stuff", "train", data_dir=str(tmp_path / "coco"), streaming=streaming)
    assert names(data) == [
        (f"train2017/{name}.jpg", f"train2017/{name}{ending}.png") for name in ("000000000009", "000000000025")
    ]
    validation = load_segmentation_dataset("coco_stuff", "val", data_dir=str(tmp_path / "coco"), streaming=streaming)
    assert names(validation) == [("val2017/000000000139.jpg", f"val2017/000000000139{ending}.png")]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("root", ["", "VOC2010", "VOCdevkit/VOC2010"])
def test_pascal_context_is_read_in_its_official_layout(tmp_path, root, streaming):
    write_pascal_context(tmp_path / "voc" / root)
    data = load_segmentation_dataset("pascal_context", "train", data_dir=str(tmp_path / "voc"), streaming=streaming)
    assert names(data) == [
        (f"JPEGImages/{name}.jpg", f"SegmentationClassContext/{name}.png") for name in ("2008_000002", "2010_000001")
    ]
    validation = load_segmentation_dataset("pascal_context", "val", data_dir=str(tmp_path / "voc"))
    assert [image for image, _ in names(validation)] == ["JPEGImages/2008_000003.jpg"]


def test_plain_layout_is_read_for_a_preset_when_its_official_one_is_not_there(tmp_path):
    write(tmp_path / "images" / "train" / "1.jpg")
    write(tmp_path / "masks" / "train" / "1.png")
    data = load_segmentation_dataset("cityscapes", "train", data_dir=str(tmp_path))
    assert names(data) == [("train/1.jpg", "train/1.png")]


def test_error_names_the_files_when_a_label_map_is_missing(tmp_path):
    write_ade20k(tmp_path)
    (tmp_path / "annotations" / "training" / "ADE_train_00000001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"split training, but 1 of 2 have .*: ADE_train_00000001; unpack"):
        load_segmentation_dataset("ade20k", "train", data_dir=str(tmp_path))


def test_error_names_the_files_when_a_listed_one_is_missing(tmp_path):
    write_pascal_context(tmp_path)
    (tmp_path / "JPEGImages" / "2008_000003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"split val, but 1 of 1 have .*: 2008_000003; unpack the official"):
        load_segmentation_dataset("pascal_context", "validation", data_dir=str(tmp_path))


def test_error_lists_the_splits_when_the_official_folder_lacks_one(tmp_path):
    write_coco_stuff(tmp_path)
    with pytest.raises(ValueError, match=r"`split` must be one of the splits of .* \(train, validation\), got 'test'"):
        load_segmentation_dataset("coco_stuff", "test", data_dir=str(tmp_path))


def test_error_shows_the_official_layout_when_a_folder_has_another(tmp_path):
    write(tmp_path / "leftImg8bit" / "train" / "1_leftImg8bit.png")
    with pytest.raises(
        ValueError, match=r"`data_dir` must be the official folder of Cityscapes \(leftImg8bit/.* and gtFine/.*neither"
    ):
        load_segmentation_dataset("cityscapes", "train", data_dir=str(tmp_path))


def write_pairs(folder, photos, masks):
    for name in photos:
        write(folder / "images" / "train" / name)
    for name in masks:
        write(folder / "masks" / "train" / name)


def test_photo_and_mask_are_paired_when_names_differ_in_unicode_form(tmp_path):
    write_pairs(tmp_path, ["caf\u00e9.png"], ["cafe\u0301.png"])
    data = load_segmentation_dataset(str(tmp_path), "train")
    assert Path(data[0]["image"]["path"]).name == "caf\u00e9.png"
    assert Path(data[0]["mask"]["path"]).name == "cafe\u0301.png"


def test_photos_and_masks_without_a_partner_are_counted_together(tmp_path):
    write_pairs(tmp_path, ["a.png", "b.png"], ["c.png", "d.png"])
    with pytest.raises(FileNotFoundError, match=r"of 2 photos and 2 masks 4 have no partner: .*a.png"):
        load_segmentation_dataset(str(tmp_path), "train")


def test_files_that_are_not_read_are_named_where_partners_are_missing(tmp_path):
    write_pairs(tmp_path, ["a.png"], [])
    (tmp_path / "masks" / "train").mkdir(parents=True)
    (tmp_path / "masks" / "train" / "a.npy").touch()
    message = (
        r"of 1 photos and 0 masks 1 have no partner: .*a.png \(files that end in .npy are no pictures that are read"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_segmentation_dataset(str(tmp_path), "train")


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".jp2", ".tga"])
def test_photos_of_rarer_formats_are_found(tmp_path, suffix):
    write_pairs(tmp_path, ["a.png"], ["a.png"])
    (tmp_path / "images" / "train" / "a.png").rename(tmp_path / "images" / "train" / f"a{suffix}")
    assert len(load_segmentation_dataset(str(tmp_path), "train")) == 1


@pytest.mark.parametrize("argument", ["image_column", "mask_column"])
def test_error_when_a_folder_without_a_table_is_asked_for_a_column(tmp_path, argument):
    write_pairs(tmp_path, ["a.png"], ["a.png"])
    with pytest.raises(ValueError, match=rf"`{argument}` must be left out for .*no metadata\.jsonl.*got nope"):
        load_segmentation_dataset(str(tmp_path), "train", **{argument: "nope"})
    assert len(load_segmentation_dataset(str(tmp_path), "train")) == 1
