import shutil

import numpy as np
import pytest
from mask_samples import SAMPLES, STRIPES, label_maps, stripes

from offseg_hf.data.formats import cityscapes, kitti, voc

SAMPLE = SAMPLES / "kitti_datumaro"


def test_sample_of_datumaro_is_refused_since_the_first_class_is_where_nothing_is_labelled():
    assert kitti.find(SAMPLE) and not cityscapes.find(SAMPLE)
    with pytest.raises(
        ValueError, match=r"must begin with the background, but begins with sky, .* as COCO, CVAT or VOC"
    ):
        kitti.read(SAMPLE)
    assert voc.read(SAMPLES / "voc_datumaro")  # the same work, by the remedy


@pytest.mark.parametrize("folder", ["semantic", "semantic_rgb"])
def test_masks_are_read_when_the_first_class_is_the_background(tmp_path, folder):
    shutil.copytree(SAMPLE, tmp_path / "kitti")
    table = tmp_path / "kitti" / "label_colors.txt"
    table.write_text(table.read_text().replace("sky", "background"))
    if folder == "semantic":
        for colours in (tmp_path / "kitti").glob("*/semantic_rgb"):
            shutil.rmtree(colours)
    found = label_maps(kitti.read(tmp_path / "kitti"), ["road", "car"])
    assert found.keys() == {f"{name}.png" for name in STRIPES if name != "empty"}
    for photo, (split, label_map) in found.items():
        expected = stripes(photo.removesuffix(".png"))
        assert split == ("train" if photo in ("a.png", "b.png") else "validation")
        assert np.array_equal(label_map, np.select([expected == 1, expected == 2], [0, 1], 255))
