import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from offseg_hf.data.formats.refusals import refuse_mask, refuse_masks
from offseg_hf.data.labels import audited_label_table
from offseg_hf.data.sources import load_segmentation_dataset
from offseg_hf.models.image_processing_offseg import read_mask


def ids(*values, size=(8, 8)):
    """A mask of a few ids in stripes."""
    return np.resize(np.array(values, np.uint8), size)


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "options", "format"),
    [
        ("a.jpg", {}, "JPEG"),
        ("a.webp", {"quality": 100}, "WEBP"),
        ("a.webp", {"quality": 100, "exif": Image.Exif()}, "WEBP"),
        ("a.tif", {"compression": "jpeg"}, "TIFF"),
    ],
)
def test_mask_is_refused_when_it_was_compressed_with_loss(tmp_path, name, options, format):
    mask = write(tmp_path / name, Image.fromarray(ids(0, 1, 2)).convert("RGB"), **options)
    with pytest.raises(
        ValueError, match=f"{name}` must hold ids bit for bit, but is a lossy {format}, .* as PNG again"
    ):
        refuse_masks([mask])
    with pytest.raises(ValueError, match=f"`mask` must hold ids bit for bit, but is a lossy {format}"):
        refuse_mask({"bytes": mask.read_bytes(), "path": None})


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.webp", {"lossless": True}), ("a.tif", {}), ("a.tif", {"compression": "tiff_lzw"})],
)
def test_mask_passes_when_it_is_lossless(tmp_path, name, options):
    picture = Image.fromarray(ids(0, 1, 2))
    mask = write(tmp_path / name, picture.convert("RGB") if name == "a.webp" else picture, **options)
    refuse_masks([mask])
    assert np.array_equal(read_mask(mask), ids(0, 1, 2))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_mask_is_refused_when_its_object_is_in_the_alpha_channel(tmp_path, mode):
    picture = Image.new(mode, (8, 8), (255,) * len(mode))
    picture.putalpha(Image.fromarray(ids(0, 255)))
    with pytest.raises(ValueError, match=r"a.png` must hold an id for each pixel, but only its alpha .* one mask per"):
        refuse_masks([write(tmp_path / "a.png", picture)])


def test_mask_passes_when_its_alpha_channel_is_full(tmp_path):
    mask = write(tmp_path / "a.png", Image.fromarray(ids(0, 1, 2)).convert("RGBA"))
    refuse_masks([mask])
    assert np.array_equal(read_mask(mask), ids(0, 1, 2))


@pytest.mark.parametrize("folder", ["a_json", "a"])
def test_labelmes_exported_masks_are_refused_since_each_has_numbers_of_its_own(tmp_path, folder):
    mask = write(tmp_path / folder / "label.png", ids(0, 1))
    (tmp_path / folder / "label_names.txt").write_text("_background_\ncar\n")
    with pytest.raises(ValueError, match=r"label.png` must have the same ids .* labelme_export_json .* JSON files as"):
        refuse_masks([mask])


@pytest.mark.parametrize(
    "name", ["SegmentationObject/a.png", "gtFine/train/a_gtFine_instanceIds.png", "instance/a.png"]
)
def test_masks_are_refused_when_their_name_says_that_they_number_objects(tmp_path, name):
    with pytest.raises(ValueError, match=r"must hold ids of classes, but by its name it numbers objects; take the"):
        refuse_masks([write(tmp_path / name, ids(0, 1, 2))])


def test_masks_are_refused_when_each_counts_its_own_objects(tmp_path):
    masks = [write(tmp_path / f"{count}.png", ids(*range(count))) for count in (40, 7, 64)]
    with pytest.raises(ValueError, match="the first ones hold all numbers up to 39, 6, 63, as masks of instances do"):
        refuse_masks(masks)


@pytest.mark.parametrize("found", [[(0, 1), (0, 1, 2)], [(3, 30), (0, 1, 2)], [tuple(range(40))] * 2])
def test_masks_pass_when_their_ids_may_be_classes(tmp_path, found):
    refuse_masks([write(tmp_path / f"{number}.png", ids(*values)) for number, values in enumerate(found)])


def test_colours_are_refused_with_the_table_that_is_missing(tmp_path):
    pixels = np.array([[(70, 130, 180), (0, 0, 0)], [(128, 64, 128), (0, 0, 0)]], np.uint8)
    masks = [write(tmp_path / f"{name}.png", pixels) for name in "ab"]
    with pytest.raises(
        ValueError,
        match=r'a.png` must .* holds colours \(#000000, #4682b4, #804080\); .*as in {"#804080": "sky", "#0000',
    ):
        refuse_masks(masks)


def test_colours_are_refused_when_they_are_ids_of_segments(tmp_path):
    random = np.random.default_rng(0)
    masks = [write(tmp_path / f"{name}.png", random.integers(0, 255, (8, 8, 3), np.uint8)) for name in "ab"]
    with pytest.raises(ValueError, match=r"a.png` must .* has colours of its own, as panoptic and instance masks do"):
        refuse_masks(masks)


def test_colours_are_those_of_classes_when_they_come_again(tmp_path):
    colours = [[(9 * number, 0, 1), (9 * number + 9, 0, 1)] for number in range(16)]  # none is in all masks
    masks = [write(tmp_path / f"{number}.png", np.array([pair], np.uint8)) for number, pair in enumerate(colours)]
    with pytest.raises(
        ValueError, match=r"0.png` must .* but holds colours \(#000001, #090001, .*, …\); say what each"
    ):
        refuse_masks(masks)


def test_damaged_masks_are_left_to_whoever_reads_them(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    refuse_masks([tmp_path / "a.png"])


def test_folder_of_lossy_masks_is_refused_when_it_is_opened(tmp_path):
    write(tmp_path / "images" / "a.jpg", ids(0))
    write(tmp_path / "masks" / "a.jpg", ids(0, 1))
    with pytest.raises(ValueError, match=r"masks/a.jpg` must hold ids bit for bit, but is a lossy JPEG"):
        load_segmentation_dataset(str(tmp_path), "train")


def test_labelmes_exported_folders_are_refused_by_name(tmp_path):
    write(tmp_path / "a_json" / "img.png", ids(0))
    write(tmp_path / "a_json" / "label.png", ids(0, 1))
    (tmp_path / "a_json" / "label_names.txt").write_text("_background_\ncar\n")
    with pytest.raises(
        ValueError, match=r"a_json/label.png` must have the same ids in every photo, but labelme_export"
    ):
        load_segmentation_dataset(str(tmp_path), "train")


def test_labelmes_exported_masks_are_refused_when_a_table_names_them(tmp_path):
    write(tmp_path / "a_json" / "img.png", ids(0))
    write(tmp_path / "a_json" / "label.png", ids(0, 1))
    line = '{"file_name": "a_json/img.png", "mask_file_name": "a_json/label.png"}'
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(ValueError, match="but labelme_export_json numbers the classes of each photo anew"):
        load_segmentation_dataset(str(tmp_path), "train")


def test_darwins_masks_of_instances_are_refused_by_name(tmp_path):
    write(tmp_path / "images" / "a.png", ids(0))
    write(tmp_path / "masks" / "a_00000.png", ids(0, 255))
    (tmp_path / "instance_mask_annotations.csv").write_text("image_id,mask_id,class_name\na,a_00000,car\n")
    with pytest.raises(ValueError, match="has Darwin's masks of instances; export semantic_mask_index or Darwin JSON"):
        load_segmentation_dataset(str(tmp_path), "train")


def test_vocs_masks_of_objects_alone_are_refused(tmp_path):
    write(tmp_path / "JPEGImages" / "a.jpg", ids(0))
    write(tmp_path / "SegmentationObject" / "a.png", ids(0, 1))
    with pytest.raises(
        ValueError, match="has SegmentationObject alone, which numbers objects; export SegmentationClass"
    ):
        load_segmentation_dataset(str(tmp_path), "train")


def test_masks_without_a_file_are_refused_when_they_are_audited():
    file = io.BytesIO()
    Image.fromarray(ids(0, 1)).save(file, "JPEG")
    data = datasets.Dataset.from_dict({"mask": [{"bytes": file.getvalue(), "path": None}]})
    with pytest.raises(ValueError, match="`mask` must hold ids bit for bit, but is a lossy JPEG"):
        audited_label_table(data, "somewhere", 2)


def test_masks_of_the_tools_themselves_are_the_remedy(tmp_path):
    masks = tmp_path / "SegmentationClass" / "a.png", tmp_path / "gtFine" / "a_gtFine_labelIds.png"
    refuse_masks([write(Path(mask), ids(0, 1, 2)) for mask in masks])
