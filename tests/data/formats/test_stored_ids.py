"""That ids come out of mask files as they were stored, in all kinds of TIFF and PNG that Pillow opens."""

import datasets
import numpy as np
import pytest
from mask_samples import SAMPLES, TRUTH
from PIL import Image, TiffImagePlugin

from offseg_hf.data.examples import PrepareExample
from offseg_hf.data.formats.refusals import refuse_masks
from offseg_hf.data.formats.table import FORMATS
from offseg_hf.data.labels import LabelTable, audited_label_table
from offseg_hf.data.sources import load_segmentation_dataset
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor, read_mask

IDS = [[0, 300], [65535, 7]]


def test_ids_in_mmsegmentations_folders_are_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = load_segmentation_dataset(str(SAMPLES / "mmseg_by_hand"), "train")
    table = audited_label_table(data, str(SAMPLES / "mmseg_by_hand"), 3)
    assert np.array_equal(table(read_mask(data[0]["mask"])), TRUTH)


@pytest.mark.parametrize("name", FORMATS)
def test_files_and_folders_of_ids_alone_have_no_table(name):
    places = SAMPLES / "truth.png", SAMPLES / "mmseg_by_hand", SAMPLES / "nowhere"
    assert not any(FORMATS[name].find(place) for place in places)


@pytest.mark.parametrize(
    ("dtype", "compression"),
    [
        ("<u2", None),
        (">u2", None),
        ("<i4", None),
        ("<u2", "tiff_lzw"),
        ("<i4", "tiff_adobe_deflate"),
        ("<u2", "packbits"),
    ],
)
def test_ids_beyond_8_bits_come_out_of_tiff(tmp_path, dtype, compression):
    Image.fromarray(np.array(IDS, dtype)).save(tmp_path / "a.tif", compression=compression)
    refuse_masks([tmp_path / "a.tif"])
    assert read_mask(str(tmp_path / "a.tif")).tolist() == IDS
    Image.new("RGB", (2, 2)).save(tmp_path / "photo.png")
    prepare = PrepareExample(OffSegImageProcessor(size=4), label_table=LabelTable({0: 0, 300: 1, 65535: 255, 7: 2}))
    example = prepare({"image": str(tmp_path / "photo.png"), "mask": str(tmp_path / "a.tif")})
    assert example["labels"].tolist() == [[0, 1], [255, 2]]


def test_ids_come_out_of_geotiff(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[33550] = 12  # ModelPixelScale, in doubles
    tags[33550] = (0.5, 0.5, 0.0)
    tags[42113] = "255"  # GDAL_NODATA
    picture = Image.fromarray(np.array([[0, 255], [2, 1]], np.uint8))
    picture.save(tmp_path / "a.tif", tiffinfo=tags, compression="tiff_lzw")
    assert read_mask(str(tmp_path / "a.tif")).tolist() == [[0, 255], [2, 1]]


def test_error_is_raised_when_a_tiff_has_floats(tmp_path):
    Image.fromarray(np.array(IDS, np.float32)).save(tmp_path / "a.tif")
    refuse_masks([tmp_path / "a.tif"])  # read_mask tells of it
    with pytest.raises(
        ValueError, match=r"a.tif` must hold integer class ids, but holds float32; convert it to uint8"
    ):
        read_mask(str(tmp_path / "a.tif"))
