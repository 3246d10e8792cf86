"""What the record and the card of a prepared data set say of its ids, and which data sets are known."""

import io

import numpy as np
import pytest
from huggingface_hub import DatasetCard
from image_folders import rows, single_spaced, write_example, write_official
from PIL import Image

from offseg_hf.data import load_segmentation_dataset
from offseg_hf.data.preparation import check_redistribution, prepare_dataset

LABELS = {0: "sky", 1: "road", 2: "car"}


def test_card_tells_the_hub_what_it_shows(source, tmp_path):
    prepare_dataset(source, tmp_path / "out", license="cc-by-4.0", name="Streets", repo_id="org/streets")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.pretty_name) == ("cc-by-4.0", "Streets")
    assert card.data.task_categories == ["image-segmentation"]
    paths = [{"split": split, "path": f"{split}-*.parquet"} for split in ("train", "validation")]
    assert card.data.configs == [{"config_name": "default", "data_files": paths}]
    assert 'load_dataset("org/streets", split="train", streaming=True)' in card.text


@pytest.mark.parametrize(
    ("options", "sentence", "row"),
    [
        ({}, "Masks hold ids whose names are not known.", "| 1 | |"),
        ({"id2label": LABELS}, "Masks hold class ids.", "| 1 | road |"),
        (
            {"id2label": {0: "sky", 1: "road"}, "reduce_labels": True},
            "Masks hold 0 where a pixel has no class, and the classes from 1.",
            "| 1 | sky |",
        ),
        (
            {"id2label": {0: "sky", 1: "road"}, "label_table": {0: 255, 1: 1, 2: 0}},
            "Masks hold ids that stand for classes.",
            "| 1 | road |",
        ),
    ],
)
def test_card_says_what_ids_mean(source, tmp_path, options, sentence, row):
    prepare_dataset(source, tmp_path / "out", ["train"], **options)
    card = single_spaced(tmp_path / "out" / "README.md")
    assert sentence in card and f"\n{row} " in card
    assert (tmp_path / "out" / "id2label.json").exists() == ("id2label" in options)


def test_id_of_a_single_class_is_1(tmp_path):
    write_example(tmp_path / "source", "train", "a", size=(1, 2))
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "source/masks/train/a.png")
    record = prepare_dataset(tmp_path / "source", tmp_path / "out", ["train"], id2label={0: "road"})
    assert record["class_ids"] == {"1": 0}


def test_ids_of_a_single_class_are_known_when_a_table_or_a_reduction_says_so(tmp_path):
    write_example(tmp_path / "source", "train", "a", size=(1, 2))
    Image.fromarray(np.array([[1, 2]], np.uint8)).save(tmp_path / "source/masks/train/a.png")
    for name, options in (("table", {"label_table": {1: 0, 2: 1}}), ("reduced", {"reduce_labels": True})):
        record = prepare_dataset(tmp_path / "source", tmp_path / name, ["train"], id2label={0: "road"}, **options)
        assert record["class_ids"] == {"2": 0}
        assert "\n| 2 | road | 50.000 | 1 |" in single_spaced(tmp_path / name / "README.md")


# Data sets that are known


def test_classes_of_ade20k_are_known(tmp_path):
    root = tmp_path / "download" / "ADEChallengeData2016"
    for split in ("training", "validation"):
        write_official(root / "images" / split / "ADE_1.jpg", [9, 9], "RGB")
        write_official(root / "annotations" / split / "ADE_1.png", [0, 150])
    record = prepare_dataset("ade20k", tmp_path / "out", data_dir=tmp_path / "download")
    assert (record["name"], record["license"]) == ("ADE20K", "other")
    assert record["class_ids"]["1"] == 0 and record["class_ids"]["150"] == 149 and "0" not in record["class_ids"]
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license_link == "https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/"
    text = single_spaced(tmp_path / "out" / "README.md")
    assert "\n| 1 | wall | 0.000 | 0 |" in text and "\n| 150 | flag | 50.000 | 1 |" in text
    data = load_segmentation_dataset("ade20k", "validation", data_dir=str(tmp_path / "out"))
    assert np.asarray(Image.open(io.BytesIO(data[0]["mask"]["bytes"]))).tolist() == [[0, 150]]


@pytest.fixture
def cityscapes(tmp_path):
    for split in ("train", "val"):
        write_official(tmp_path / f"cs/leftImg8bit/{split}/bern/bern_0_leftImg8bit.png", [9, 9, 9], "RGB")
        write_official(tmp_path / f"cs/gtFine/{split}/bern/bern_0_gtFine_labelIds.png", [7, 33, 4])
    return tmp_path / "cs"


def test_ids_of_cityscapes_stay_as_they_are_and_are_named(cityscapes, tmp_path):
    record = prepare_dataset("cityscapes", tmp_path / "out", data_dir=cityscapes)
    assert record["splits"]["train"]["pixels"] == {"4": 1, "7": 1, "33": 1}
    assert record["class_ids"]["7"] == 0 and record["class_ids"]["33"] == 18 and len(record["class_ids"]) == 19
    card = single_spaced(tmp_path / "out" / "README.md")
    assert "Masks hold labelIds that stand for classes." in card
    assert "\n| 4 | |" in card and "\n| 33 | bicycle |" in card
    assert rows(tmp_path / "out")[0]["mask"]["path"] == "bern_0_gtFine_labelIds.png"  # which tells how to read it


def test_other_ids_are_refused_when_the_data_set_is_known(cityscapes, tmp_path):
    write_official(cityscapes / "gtFine/train/bern/bern_0_gtFine_labelIds.png", [7, 99, 4])
    with pytest.raises(ValueError, match=r"`masks` must hold the ids of Cityscapes, labelIds .* got 4, 7, 33, 99"):
        prepare_dataset("cityscapes", tmp_path / "out", data_dir=cityscapes)


def test_cityscapes_is_not_published(cityscapes, tmp_path):
    message = "`repo_id` must be left out for Cityscapes, whose licence forbids to distribute its pictures and labels"
    with pytest.raises(PermissionError, match=message):
        check_redistribution("cityscapes")
    for kind, place in (("images", "leftImg8bit/train/bern"), ("masks", "gtFine/train/bern")):
        (tmp_path / "renamed" / kind).mkdir(parents=True)
        (file,) = (cityscapes / place).iterdir()
        (tmp_path / "renamed" / kind / "bern_0_leftImg8bit.png").write_bytes(file.read_bytes())
    with pytest.raises(PermissionError, match=message):
        prepare_dataset(tmp_path / "renamed", tmp_path / "out", ["train"], repo_id="org/streets")
    assert not (tmp_path / "out").exists()
