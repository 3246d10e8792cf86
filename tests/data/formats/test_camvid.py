import numpy as np
import pytest
from mask_samples import SAMPLES, STRIPES, TRUTH, label_maps, stripes, write

from offseg_hf.data.formats import camvid

OFFICIAL = "64 128 64\t\tAnimal\n128 128 128\t\tSky\n128 64 128\tRoad\n0 0 0\t\tVoid\n"
SKY, ROAD, VOID = (128, 128, 128), (128, 64, 128), (0, 0, 0)


def test_sample_of_datumaro_is_read_by_its_colours():
    assert camvid.find(SAMPLES / "camvid")
    labels = camvid.read(SAMPLES / "camvid")
    assert labels.names == ("background", "sky", "road", "car", "void")  # black is not in its table
    [(name, (split, label_map))] = label_maps(labels).items()
    assert (name, split) == ("a.jpg", "train") and np.array_equal(label_map, TRUTH)


def test_vocs_colours_from_1_are_taken_when_the_table_has_names_alone():
    found = label_maps(camvid.read(SAMPLES / "camvid_datumaro"))
    assert found.keys() == {f"{name}.jpg" for name in STRIPES}  # one is listed without a mask, one has a blank
    for name in STRIPES:
        split, label_map = found[f"{name}.jpg"]
        assert split == ("train" if name in "ab" else "validation")
        assert np.array_equal(label_map, stripes(name))


@pytest.mark.parametrize("names", ["background\nsky\nroad\n", "sky\nroad\nbackground\n", "sky\nroad\n"])
def test_background_is_0_wherever_names_without_colours_have_it(tmp_path, names):
    (tmp_path / "label_colors.txt").write_text(names)
    write(tmp_path / "train" / "a.jpg", np.zeros((1, 3, 3)))
    write(tmp_path / "trainannot" / "a.png", [[0, 1, 2]])
    assert label_maps(camvid.read(tmp_path), ["sky", "road"])["a.jpg"][1].tolist() == [[255, 0, 1]]


@pytest.mark.parametrize(
    ("photos", "masks", "ending"),
    [("701_StillsRaw_full", "LabeledApproved_full", "_L"), ("images", "labels", "_P"), ("train", "trainannot", "")],
)
def test_published_colours_are_read_in_folders_that_pair(tmp_path, photos, masks, ending):
    (tmp_path / "label_colors.txt").write_text(OFFICIAL)
    write(tmp_path / photos / "0001TP_006690.png", np.zeros((1, 3, 3)))
    write(tmp_path / masks / f"0001TP_006690{ending}.png", [[SKY, ROAD, VOID]])
    assert camvid.find(tmp_path)
    labels = camvid.read(tmp_path)
    assert label_maps(labels, ["Road", "Sky", "Animal"])["0001TP_006690.png"][1].tolist() == [[1, 0, 255]]


@pytest.mark.parametrize("root", ["/SegNet/CamVid/", "", "C:\\data\\", "./"])
def test_lists_may_name_files_of_another_computer(tmp_path, root):
    (tmp_path / "label_colors.txt").write_text(OFFICIAL)
    for split in ("train", "val"):
        write(tmp_path / split / "a.png", np.zeros((1, 1, 3)))
        write(tmp_path / f"{split}annot" / "a.png", [[SKY]])
        (tmp_path / f"{split}.txt").write_text(f"{root}{split}/a.png {root}{split}annot/a.png\n")
    (tmp_path / "notes.txt").write_text("two words\nand some more\n")
    photos = camvid.read(tmp_path).photos
    assert [(photo.photo.relative_to(tmp_path).as_posix(), photo.source, photo.split) for photo in photos] == [
        ("train/a.png", "trainannot/a.png", "train"),
        ("val/a.png", "valannot/a.png", "validation"),
    ]


@pytest.mark.parametrize("missing", ["train/a.png", "trainannot/a.png"])
def test_error_names_the_list_when_a_file_is_not_there(tmp_path, missing):
    (tmp_path / "label_colors.txt").write_text(OFFICIAL)
    write(tmp_path / "train" / "a.png", np.zeros((1, 1, 3)))
    write(tmp_path / "trainannot" / "a.png", [[SKY]])
    (tmp_path / "train.txt").write_text("train/a.png trainannot/a.png\n")
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"train.txt` names {missing}, and there is none below .*; put it th"):
        camvid.read(tmp_path)


def test_table_may_be_a_meta_file(tmp_path):
    (tmp_path / "dataset_meta.json").write_text(
        '{"labels": ["sky", "road"], "label_map": {"0": "sky", "1": "road"}, '
        '"segmentation_colors": [[128, 128, 128], [128, 64, 128]]}'
    )
    write(tmp_path / "train" / "a.jpg", np.zeros((1, 3, 3)))
    write(tmp_path / "trainannot" / "a.png", [[VOID, SKY, ROAD]])
    assert camvid.find(tmp_path)
    assert label_maps(camvid.read(tmp_path), ["sky", "road"])["a.jpg"][1].tolist() == [[255, 0, 1]]


@pytest.mark.parametrize("sample", ["cityscapes_datumaro", "kitti_datumaro", "voc", "roboflow_by_hand"])
def test_folders_of_others_are_no_camvid(sample):
    assert not camvid.find(SAMPLES / sample)
