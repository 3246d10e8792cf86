import shutil

import numpy as np
import pytest
from mask_samples import SAMPLES, STRIPES, label_maps, stripes, write

from offseg_hf.data.formats import cityscapes

SAMPLE = SAMPLES / "cityscapes_datumaro"


def check(labels):
    found = label_maps(labels)
    assert found.keys() == {f"{name}_leftImg8bit.png" for name in STRIPES if name != "empty"}
    for photo, (split, label_map) in found.items():
        name = photo.removesuffix("_leftImg8bit.png")
        assert split == ("train" if name in "ab" else "validation")
        assert np.array_equal(label_map, stripes(name))


def test_sample_of_datumaro_is_read_by_its_colours():
    assert cityscapes.find(SAMPLE)
    check(cityscapes.read(SAMPLE))


def test_masks_of_ids_are_read_when_there_are_no_colours(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "city")
    for mask in (tmp_path / "city").rglob("*_color.png"):
        mask.unlink()
    check(cityscapes.read(tmp_path / "city"))


def test_photos_may_lie_in_imgs_fine(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "city")
    (tmp_path / "city" / "imgsFine").mkdir()
    (tmp_path / "city" / "leftImg8bit").rename(tmp_path / "city" / "imgsFine" / "leftImg8bit")
    check(cityscapes.read(tmp_path / "city"))


def test_error_names_the_mask_when_its_photo_is_not_there(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "city")
    shutil.rmtree(tmp_path / "city" / "leftImg8bit" / "val")
    with pytest.raises(FileNotFoundError, match=r"c d_gtFine_color.png` must have its photo, .* put the photos into"):
        cityscapes.read(tmp_path / "city")


def test_official_folder_has_no_table(tmp_path):
    write(tmp_path / "leftImg8bit" / "train" / "aachen" / "1_leftImg8bit.png", [[0]])
    write(tmp_path / "gtFine" / "train" / "aachen" / "1_gtFine_color.png", [[(0, 0, 0)]])
    assert not cityscapes.find(tmp_path)
