import numpy as np
import pytest
from mask_samples import SAMPLES, TRUTH, label_maps, write

from offseg_hf.data.formats import roboflow_masks


def write_split(folder, table, mask=((0, 1, 2),)):
    folder.mkdir(parents=True)
    (folder / "_classes.csv").write_text(table)
    write(folder / f"{folder.name}_jpg.rf.0a1b.jpg", np.zeros((1, 3, 3)))
    write(folder / f"{folder.name}_jpg.rf.0a1b_mask.png", mask)


@pytest.mark.parametrize("place", [".", "train"])
def test_sample_is_read_by_its_table(place):
    assert roboflow_masks.find(SAMPLES / "roboflow_by_hand" / place)
    labels = roboflow_masks.read(SAMPLES / "roboflow_by_hand" / place)
    assert labels.names == ("background", "sky", "road", "car", "void")
    [(name, (split, label_map))] = label_maps(labels).items()
    assert (name, split) == ("a_jpg.rf.0123.jpg", "train") and np.array_equal(label_map, TRUTH)


def test_each_split_has_its_own_table(tmp_path):
    write_split(tmp_path / "train", "Pixel Value, Class\r\n0, background\r\n1, sky\r\n2, road\r\n")
    write_split(tmp_path / "valid", "Pixel Value, Class\n0, background\n1, road\n2, sky\n")
    found = label_maps(roboflow_masks.read(tmp_path), ["sky", "road"])
    assert {split: label_map.tolist() for split, label_map in found.values()} == {
        "train": [[255, 0, 1]],
        "validation": [[255, 1, 0]],
    }


def test_other_table_of_this_name_is_no_mask_format(tmp_path):
    write_split(tmp_path / "train", "filename, car, dog\na.jpg, 1, 0\n")  # Roboflow's multi-label classification
    assert not roboflow_masks.find(tmp_path)


def test_error_names_the_table_when_it_has_no_numbers(tmp_path):
    write_split(tmp_path / "train", "Pixel Value, Class\nzero, background\n")
    with pytest.raises(ValueError, match=r"_classes.csv` must have whole numbers as Pixel Value, got 'zero'; export"):
        roboflow_masks.read(tmp_path)


@pytest.mark.parametrize(
    "line, found",
    [
        ("1, road", r"_classes.csv` must have each Pixel Value once, got 1 twice; export"),
        ("99999999999999999999, road", r"must have whole numbers as Pixel Value, got '99999999999999999999'"),
        ("2,", r"_classes.csv` must have Pixel Value, Class in each line, got '2,'; correct it"),
        ("2", r"_classes.csv` must have Pixel Value, Class in each line, got '2'; correct it"),
    ],
)
def test_error_when_a_line_of_the_table_is_wrong(line, found, tmp_path):
    write_split(tmp_path / "train", f"Pixel Value, Class\n0, background\n1, sky\n , \n{line}\n")
    with pytest.raises(ValueError, match=found):
        roboflow_masks.read(tmp_path)


def test_error_names_the_id_when_the_table_lacks_it(tmp_path):
    write_split(tmp_path / "train", "Pixel Value, Class\n0, background\n1, sky\n3, road\n")
    with pytest.raises(ValueError, match=r"train_jpg.rf.0a1b_mask.png` must hold what its table names, but 1 pixels"):
        label_maps(roboflow_masks.read(tmp_path), ["sky", "road"])
