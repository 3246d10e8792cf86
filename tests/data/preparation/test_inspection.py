"""What is looked at before shards are written: the preview, and which photos are set aside for validation."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from offseg_hf.data.preparation import prepare_dataset, prepared_files

LABELS = {0: "sky", 1: "road", 2: "car"}


@pytest.fixture
def photos(tmp_path):
    """Twelve photos of four videos, three nearly the same frames of each; a car in two of the videos."""
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for kind in ("images/train", "masks/train"):
        (folder / kind).mkdir(parents=True)
    for video in range(4):
        view = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 64))
        for frame in range(3):
            view.save(folder / f"images/train/v{video}_{frame}.jpg", quality=70 + 10 * frame)
            mask = np.zeros((64, 96), np.uint8)
            mask[32:] = 1
            if video < 2:
                mask[40:50, 10 : 20 + frame] = 2
            Image.fromarray(mask).save(folder / f"masks/train/v{video}_{frame}.png")
    return folder


def ids(folder, split):
    return sorted(datasets.load_dataset("parquet", data_files=str(folder / f"{split}-*.parquet"), split="train")["id"])


def test_near_duplicates_stay_in_one_split_and_each_class_is_in_both(photos, tmp_path):
    record = prepare_dataset(photos, tmp_path / "out", id2label=LABELS, validation_fraction=0.25, seed=3)
    train, validation = (ids(tmp_path / "out", split) for split in ("train", "validation"))
    assert len(train) == 9 and len(validation) == 3
    assert len({name[:2] for name in validation}) == 1 and validation[0][:2] in ("v0", "v1")
    assert record["splits"]["validation"]["pictures"]["2"] == 3
    again = prepare_dataset(photos, tmp_path / "again", id2label=LABELS, validation_fraction=0.25, seed=3)
    assert ids(tmp_path / "again", "validation") == validation
    assert again["validation_fraction"] == 0.25


def test_photos_of_a_group_stay_together(photos, tmp_path):
    prepare_dataset(photos, tmp_path / "out", id2label=LABELS, validation_fraction=0.5, group_by=r"v[02]|v[13]")
    assert {name[:2] for name in ids(tmp_path / "out", "validation")} not in ({"v0"}, {"v1"}, {"v2"}, {"v3"})


def test_preview_is_drawn_and_published_with_the_shards(photos, tmp_path):
    record = prepare_dataset(photos, tmp_path / "out", ["train"], id2label=LABELS)
    with Image.open(tmp_path / "out" / "preview.jpg") as preview:
        assert preview.width == 1600
    assert record["statistics"]["classes"]["car"]["photos"] == 6
    assert tmp_path / "out" / "preview.jpg" in prepared_files(tmp_path / "out")
    assert "(preview.jpg)" in (tmp_path / "out" / "README.md").read_text()


def test_nothing_but_the_preview_is_written_when_it_alone_is_asked_for(photos, tmp_path):
    prepare_dataset(photos, tmp_path / "out", ["train"], id2label=LABELS, only_preview=True)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["preview.jpg"]
    prepare_dataset(photos, tmp_path / "out", ["train"], id2label=LABELS)  # goes on in the same folder
    assert (tmp_path / "out" / "README.md").exists()


def test_no_preview_is_drawn_when_it_is_not_wanted(photos, tmp_path):
    prepare_dataset(photos, tmp_path / "out", ["train"], id2label=LABELS, preview=False)
    assert not (tmp_path / "out" / "preview.jpg").exists()


def test_classes_without_names_go_by_their_ids_and_are_in_both_splits_too(photos, tmp_path):
    shown = prepare_dataset(photos, tmp_path / "shown", ["train"], only_preview=True)
    assert list(shown["classes"]) == ["id 0", "id 1", "id 2"] and shown["classes"]["id 2"]["photos"] == 6
    record = prepare_dataset(photos, tmp_path / "out", validation_fraction=0.25, seed=3)
    assert record["splits"]["validation"]["pictures"]["2"] == 3
    assert record["id2label"] is None and (tmp_path / "out" / "preview.jpg").exists()


def test_broken_photos_are_told_by_name_though_they_are_passed_over_in_the_preview(photos, tmp_path):
    (photos / "images/train/v0_0.jpg").write_text("no photo")
    with pytest.raises(ValueError, match=r"1 of 12 examples are broken.*\n.*v0_0\.jpg"):
        prepare_dataset(photos, tmp_path / "out", ["train"], id2label=LABELS)
    record = prepare_dataset(photos, tmp_path / "out", ["train"], id2label=LABELS, skip_broken=True)
    assert record["splits"]["train"]["num_examples"] == 11


def test_error_before_any_work_when_the_folder_holds_something_else(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine\.txt is none; name another folder"):
        prepare_dataset(photos, tmp_path / "out", ["train"], id2label=LABELS)
    assert not (tmp_path / "out" / "preview.jpg").exists()


def test_error_when_there_is_a_validation_split_already(photos, tmp_path):
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (photos / kind / "validation").mkdir()
        (photos / kind / f"train/v0_0.{suffix}").rename(photos / kind / f"validation/v0_0.{suffix}")
    with pytest.raises(ValueError, match=r"`validation_fraction` must be left out where .* already, and 1 such were"):
        prepare_dataset(photos, tmp_path / "out", id2label=LABELS, validation_fraction=0.1)
    prepare_dataset(photos, tmp_path / "out", id2label=LABELS)
    assert ids(tmp_path / "out", "validation") == ["v0_0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 2.0, "id2label": LABELS}, r"`validation_fraction` must lie between 0 and 1, got 2"),
        ({"validation_fraction": 0.01, "id2label": LABELS}, r"0\.01 of 12 photos is 0"),
        ({"validation_fraction": 0.2, "id2label": LABELS, "group_by": "("}, r"`group_by`"),
        ({"validation_fraction": 0.2, "id2label": LABELS, "splits": ["val"]}, r"`splits` must be left out with"),
    ],
)
def test_error_when_what_is_asked_for_cannot_be_had(photos, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_dataset(photos, tmp_path / "out", **{"splits": None, **options})
    assert not (tmp_path / "out" / "README.md").exists()


def test_record_is_json(photos, tmp_path):
    record = prepare_dataset(photos, tmp_path / "out", id2label=LABELS, validation_fraction=0.25)
    assert json.loads((tmp_path / "out" / "preparation.json").read_text()) == json.loads(json.dumps(record))


@pytest.mark.parametrize("options", [{"only_preview": True, "splits": ["train"]}, {"validation_fraction": 0.2}])
def test_error_says_how_to_learn_why_nothing_can_be_read(photos, tmp_path, options):
    for file in (photos / "images/train").iterdir():
        file.write_text("no photo")
    with pytest.raises(
        ValueError, match=r"all others cannot; prepare without `--validation_fraction` and `--only_pre"
    ):
        prepare_dataset(photos, tmp_path / "out", id2label=LABELS, **options)
    with pytest.raises(ValueError, match=r"12 of 12 examples are broken"):
        prepare_dataset(photos, tmp_path / "out", ["train"], id2label=LABELS)
