"""The benchmarks from each place that their data can be in: official folder, Parquet shards, the Hub."""

import io
import json
import os
import subprocess
import sys
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from hub_double import HubDouble
from PIL import Image

from offseg_hf.data import TrainTransform, evaluation_dataset, training_dataset
from offseg_hf.data.presets import PRESETS
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor

# Stored ids in a row of a mask, and what they are in training: 0…K−1, and 255 for what is not labelled.
STORED = {
    "ade20k": ([0, 1, 2, 13, 83, 127, 149, 150], [255, 0, 1, 12, 82, 126, 148, 149]),
    "cityscapes": ([0, 3, 7, 8, 11, 26, 29, 33], [255, 255, 0, 1, 2, 13, 255, 18]),
    "coco_stuff": ([0, 10, 12, 24, 26, 91, 181, 255], [0, 10, 11, 23, 24, 80, 170, 255]),
    "pascal_context": ([0, 1, 2, 3, 30, 57, 58, 59], [255, 0, 1, 2, 29, 56, 57, 58]),
}
TRAIN_IDS = {
    "cityscapes": ([0, 1, 2, 13, 17, 18, 255, 255], "_gtFine_labelTrainIds.png"),
    "coco_stuff": ([0, 10, 11, 24, 80, 82, 170, 255], "_labelTrainIds.png"),
}
PLACES = {  # of the photo and of the label map of one example of the training split
    "ade20k": ("images/training/ADE_train_1.jpg", "annotations/training/ADE_train_1.png"),
    "cityscapes": ("leftImg8bit/train/ulm/ulm_1_leftImg8bit.png", "gtFine/train/ulm/ulm_1_gtFine_labelIds.png"),
    "coco_stuff": ("images/train2017/000000000009.jpg", "annotations/train2017/000000000009.png"),
    "pascal_context": ("JPEGImages/2008_000002.jpg", "SegmentationClassContext/2008_000002.png"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def mask_of(row):
    return Image.fromarray(np.tile(np.array(row, np.uint8), (8, 1)))


def png(image):
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def write_folder(folder, name, row, ending=None):
    """The official folder of a data set with one example, each of whose mask's rows is `row`."""
    image, mask = PLACES[name]
    mask = mask.removesuffix("_gtFine_labelIds.png").removesuffix(".png") + ending if ending else mask
    for path, content in ((image, Image.new("RGB", (8, 8))), (mask, mask_of(row))):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        content.save(folder / path)
    if name == "pascal_context":
        (folder / "ImageSets" / "SegmentationContext").mkdir(parents=True)
        (folder / "ImageSets" / "SegmentationContext" / "train.txt").write_text("2008_000002\n")


def shard(row, image_column="image", mask_column="annotation"):
    """The bytes of a Parquet file with one example."""
    columns = {image_column: Image.new("RGB", (8, 8)), mask_column: mask_of(row)}
    rows = {column: [{"bytes": png(image), "path": None}] for column, image in columns.items()}
    features = datasets.Features(dict.fromkeys(columns, datasets.Image()))
    file = io.BytesIO()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    return file.getvalue()


def evaluated(name, split="train", **arguments):
    """The first row of the labels of the first example."""
    preset = PRESETS[name]
    processor = OffSegImageProcessor(do_reduce_labels=preset.reduce_labels)
    arguments = {"image_processor": processor, "num_labels": len(preset.class_names), **arguments}
    return next(iter(evaluation_dataset(name, split, **arguments)))["labels"][0].tolist()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_labels_are_classes_when_read_from_the_official_folder(tmp_path, name, streaming):
    stored, expected = STORED[name]
    write_folder(tmp_path / "data", name, stored)
    assert evaluated(name, data_dir=str(tmp_path / "data"), streaming=streaming) == expected


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_labels_are_classes_when_read_from_shards_of_original_masks(tmp_path, name, streaming):
    stored, expected = STORED[name]
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(shard(stored))
    assert evaluated(name, data_dir=str(tmp_path), streaming=streaming) == expected


@pytest.mark.parametrize("name", TRAIN_IDS)
def test_labels_stay_as_they_are_when_files_hold_train_ids(tmp_path, name):
    row, ending = TRAIN_IDS[name]
    write_folder(tmp_path / "data", name, row, ending)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "train.parquet").write_bytes(shard(row))
    assert evaluated(name, data_dir=str(tmp_path / "data")) == row
    assert evaluated(name, data_dir=str(tmp_path / "shards")) == row


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_labels_are_classes_when_training(tmp_path, name, streaming):
    stored, expected = STORED[name]
    write_folder(tmp_path / "data", name, stored)
    preset = PRESETS[name]
    transform = TrainTransform((8, 8), (8, 8), (1, 1), 1, 0, False)
    examples = training_dataset(
        name,
        "train",
        data_dir=str(tmp_path / "data"),
        image_processor=OffSegImageProcessor(do_reduce_labels=preset.reduce_labels),
        transform=transform,
        num_labels=len(preset.class_names),
        streaming=streaming,
    )
    labels = next(iter(examples))["labels"]
    assert labels.dtype == torch.int64 and labels.tolist() == [expected] * 8


def test_given_table_says_what_ids_mean_when_there_is_one(tmp_path):
    (tmp_path / "train.parquet").write_bytes(shard([0, 7, 7, 8, 9, 9, 9, 9]))
    data = evaluation_dataset(
        str(tmp_path / "train.parquet"),
        "train",
        image_processor=OffSegImageProcessor(),
        num_labels=3,
        label_table={0: 255, 7: 1, 8: 0, 9: 2},
    )
    assert data[0]["labels"][0].tolist() == [255, 1, 1, 0, 2, 2, 2, 2]


def test_given_table_wins_over_what_a_preset_says(tmp_path):
    write_folder(tmp_path, "ade20k", [0, 1, 2, 2, 2, 2, 2, 2])
    processor, table = OffSegImageProcessor(), {0: 0, 1: 1, 2: 255}
    arguments = {"image_processor": processor, "num_labels": 2, "data_dir": str(tmp_path), "label_table": table}
    assert evaluated("ade20k", **arguments) == [0, 1] + [255] * 6


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({1: 3}, r"must map to the ids of 3 classes, or to 255, got \[3\]; correct it, or `num_labels`"),
        ({0: 255, 1: 255}, r"must map to the ids of 3 classes, or to 255, got \[\]; correct it"),
        ({0: 255, 1: 255, 7: 0}, r"must give classes to the ids of the masks, got \[0, 1\] in the first ones"),
    ],
)
def test_error_shows_the_classes_when_a_given_table_does_not_fit(tmp_path, table, message):
    (tmp_path / "train.parquet").write_bytes(shard([0, 0, 0, 0, 1, 1, 1, 1]))
    arguments = {"image_processor": OffSegImageProcessor(), "num_labels": 3, "label_table": table}
    with pytest.raises(ValueError, match=f"`label_table` {message}"):
        evaluation_dataset(str(tmp_path), "train", **arguments)


def test_error_names_the_mask_when_a_later_one_has_other_ids(tmp_path):
    folder = tmp_path / "data" / "annotations" / "training"
    for number in range(18):
        write_folder(tmp_path / "data", "ade20k", [0, 5, 6, 7, 8, 9, 10, 11])
        for path in ("images/training/ADE_train_1.jpg", "annotations/training/ADE_train_1.png"):
            old = tmp_path / "data" / path
            old.rename(old.with_stem(f"ADE_train_{number + 10}"))
    mask_of([0, 5, 6, 7, 8, 9, 151, 255]).save(folder / "ADE_train_27.png")
    data = evaluation_dataset(
        "ade20k",
        "train",
        data_dir=str(tmp_path / "data"),
        image_processor=OffSegImageProcessor(do_reduce_labels=True),
        num_labels=150,
    )
    assert data[16]["labels"].max() == 255
    with pytest.raises(ValueError, match=r"mask of .*_27.png` must hold ids that have a class, got \[151, 255\]"):
        data[17]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_labels": 151}, "`num_labels` must be 150 for ADE20K, got 151; take a model of as many classes"),
        (
            {"image_processor": OffSegImageProcessor()},
            "`do_reduce_labels` must be True for ADE20K, got False; leave --do_reduce_labels out",
        ),
        ({"label_table": {0: 0}}, "`do_reduce_labels` must be False with a `label_table`, .* got True; leave it out"),
    ],
)
def test_error_names_the_argument_when_it_contradicts_the_preset(tmp_path, arguments, message):
    write_folder(tmp_path, "ade20k", STORED["ade20k"][0])
    with pytest.raises(ValueError, match=message):
        evaluated("ade20k", data_dir=str(tmp_path), **arguments)


@pytest.mark.parametrize("streaming", [False, True])
def test_error_is_raised_when_nothing_is_labelled(tmp_path, streaming):
    write_folder(tmp_path, "cityscapes", [0, 1, 2, 3, 4, 5, 6, 29])
    message = (
        r"`masks` must have labelled pixels, got only \[0, 1, 2, 3, 4, 5, 6, 29\] in the first ones, all of which"
    )
    with pytest.raises(ValueError, match=message):
        evaluated("cityscapes", data_dir=str(tmp_path), streaming=streaming)


def test_error_names_the_remedy_when_masks_are_coloured(tmp_path):
    write_folder(tmp_path, "cityscapes", [7] * 8)
    colours = np.array(PRESETS["cityscapes"].palette[:8])[None].repeat(8, axis=0)
    Image.fromarray(colours).save(tmp_path / PLACES["cityscapes"][1])
    with pytest.raises(ValueError, match=r"`mask.* must hold one class id .*, but holds colours; map each colour to"):
        evaluated("cityscapes", data_dir=str(tmp_path))


# The Hub, whose clients read where it is when they are imported: one process of its own for all

READ = """
import json, sys
from offseg_hf.data import evaluation_dataset
from offseg_hf.data.presets import PRESETS
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor

for dataset, options in json.loads(sys.argv[1]):
    preset = PRESETS[dataset]
    processor = OffSegImageProcessor(do_reduce_labels=preset.reduce_labels)
    try:
        data = evaluation_dataset(dataset, image_processor=processor, num_labels=len(preset.class_names), **options)
        print([example["labels"][0].tolist() for example in data])
    except ValueError as error:
        print(error)
"""
REQUESTS = {
    "ade20k streamed": ("ade20k", {"split": "validation", "streaming": True}),
    "ade20k whole": ("ade20k", {"split": "validation", "data_dir": "zhoubolei/scene_parse_150"}),
    "ade20k, wrong split": ("ade20k", {"split": "dev"}),
    "full ade20k": ("ade20k", {"split": "train", "streaming": True, "data_dir": "1aurent/ADE20K"}),
    "coco_stuff streamed": ("coco_stuff", {"split": "validation", "streaming": True}),
    "coco_stuff whole": ("coco_stuff", {"split": "val"}),
    "cityscapes": ("cityscapes", {"split": "train", "streaming": True}),
    "another cityscapes": ("cityscapes", {"split": "train", "data_dir": "org/streets", "image_column": "view"}),
}


def fill(hub):
    """The repositories of the benchmarks in miniature, as they are laid out on the Hub."""
    script = {"scene_parse_150.py": b"raise ValueError", "README.md": b"ADE20K"}
    hub.create("zhoubolei/scene_parse_150", "datasets", files=script).convert_to_parquet(
        {
            "scene_parsing/train/0000.parquet": shard([0, *[1] * 7]),
            "scene_parsing/validation/0000.parquet": shard(STORED["ade20k"][0]),
            "instance_segmentation/validation/0000.parquet": shard([0, *[2] * 7]),
        }
    )
    rows = {
        "image": [{"bytes": png(Image.new("RGB", (8, 8))), "path": None}],
        "segmentations": [[{"bytes": png(Image.new("RGB", (8, 8), (90, 2, 0))), "path": None}]],
    }
    features = datasets.Features(image=datasets.Image(), segmentations=datasets.List(datasets.Image()))
    file = io.BytesIO()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    hub.create("1aurent/ADE20K", "datasets", files={"data/train-00000-of-00001.parquet": file.getvalue()})
    card = (
        b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n"
        b"  - split: val\n    path: data/val-*\n---\n"
    )
    files = {
        "README.md": card,
        "data/train-00000-of-00001.parquet": shard([0, *[171] * 7], mask_column="mask"),
        "data/val-00000-of-00001.parquet": shard(STORED["coco_stuff"][0], mask_column="mask"),
    }
    hub.create("GATE-engine/COCOStuff164K", "datasets", files=files)
    for repo_id, image_column in (("Chris1/cityscapes", "image"), ("org/streets", "view")):
        content = shard(STORED["cityscapes"][0], image_column, "semantic_segmentation")
        hub.create(repo_id, "datasets", files={"data/train-00000-of-00001.parquet": content})


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Name of a request → the labels' first rows, or the error."""
    with HubDouble() as hub:
        fill(hub)
        environment = os.environ | hub.environment(tmp_path_factory.mktemp("hub-home"), token=None)
        command = [sys.executable, "-c", READ, json.dumps(list(REQUESTS.values()))]
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(zip(REQUESTS, output.splitlines(), strict=True))


def test_ade20k_is_read_from_what_the_hub_has_converted(answers):
    assert answers["ade20k streamed"] == answers["ade20k whole"] == str([STORED["ade20k"][1]])
    message = "must be one of the splits of zhoubolei/scene_parse_150 (train, validation), got 'dev'"
    assert message in answers["ade20k, wrong split"]


def test_coco_stuff_is_read_from_the_hub_whose_split_is_called_val(answers):
    assert answers["coco_stuff streamed"] == answers["coco_stuff whole"] == str([STORED["coco_stuff"][1]])


def test_cityscapes_is_read_from_its_repository_or_another(answers):
    assert answers["cityscapes"] == answers["another cityscapes"] == str([STORED["cityscapes"][1]])


def test_error_says_what_the_full_ade20k_is(answers):
    message = "`mask_column` must hold one mask per example, but segmentations holds lists of images, as in the f"
    assert message in answers["full ade20k"]


def test_a_mask_is_checked_where_it_is_decoded_however_late_it_comes(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder / "train").mkdir(parents=True)
    for number in range(18):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / f"{number:02}.png")
        Image.new("L", (8, 8), 9 if number == 17 else number % 3).save(
            tmp_path / "masks" / "train" / f"{number:02}.png"
        )
    source = {"image_processor": OffSegImageProcessor(), "num_labels": 3}
    message = r"`mask of example.*17\.png` must hold ids that have a class, got \[9\]"
    for streaming in (False, True):
        transform = TrainTransform(crop_size=(8, 8), resize=(8, 8))
        train = training_dataset(str(tmp_path), "train", transform=transform, streaming=streaming, **source)
        with pytest.raises(ValueError, match=message):
            list(islice(train, 18))
        with pytest.raises(ValueError, match=message):
            list(evaluation_dataset(str(tmp_path), "train", streaming=streaming, **source))
