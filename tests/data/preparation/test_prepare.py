"""Shards of image files: what they hold, that they are whole, and what is refused."""

import json
import multiprocessing
import threading
import time
import tracemalloc

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_folders import SMALL, rows, single_spaced, write_example, write_official
from PIL import Image

from offseg_hf.data import load_segmentation_dataset
from offseg_hf.data.preparation import prepare_dataset, prepared_files
from offseg_hf.data.preparation.shards import _write_shard, plan_shards

LABELS = {0: "sky", 1: "road", 2: "car"}


def contents(folder):
    """Name → content of the files of a folder."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


# What shards hold


def test_files_are_kept_bit_for_bit_and_each_is_in_one_shard(prepared):
    stored = rows(prepared / "out")
    assert sorted(row["id"] for row in stored) == [f"{index:02d}" for index in range(13)]
    for row in stored:
        assert row["image"]["bytes"] == (prepared / "source" / "images/train" / f"{row['id']}.jpg").read_bytes()
        assert row["mask"]["bytes"] == (prepared / "source" / "masks/train" / f"{row['id']}.png").read_bytes()
        assert (row["image"]["path"], row["mask"]["path"]) == (f"{row['id']}.jpg", f"{row['id']}.png")
    assert sorted(row["id"] for row in rows(prepared / "out", "validation")) == ["0", "1", "2"]


def test_id_is_the_path_below_the_common_folder_when_photos_lie_in_several(source, tmp_path):
    write_example(source, "validation", "other/0")
    prepare_dataset(source, tmp_path / "out", ["validation"])
    names = ["other/0", "street/0", "street/1", "street/2"]
    assert sorted(row["id"] for row in rows(tmp_path / "out", "validation")) == names


def test_columns_are_images_and_shards_are_files_when_streamed(prepared):
    files = str(prepared / "out" / "train-*.parquet")
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    image, text = datasets.Image(), datasets.Value("string")
    assert stream.features == {"id": text, "image": image, "mask": image}
    num_files = len(list((prepared / "out").glob("train-*")))
    assert stream.n_shards == num_files > 1
    groups = [pq.read_metadata(file).num_row_groups for file in (prepared / "out").glob("train-*")]
    assert stream.reshard().n_shards == sum(groups) > num_files


@pytest.mark.parametrize("streaming", [False, True])
def test_shards_are_read_as_the_folder_is(prepared, streaming):
    data = load_segmentation_dataset(str(prepared / "out"), "val", streaming=streaming)
    files = sorted((prepared / "source" / "masks/validation/street").iterdir())
    assert sorted(row["mask"]["bytes"] for row in data) == sorted(file.read_bytes() for file in files)


def test_folder_is_a_data_set_with_its_splits(prepared):
    data = datasets.load_dataset(str(prepared / "out"))
    assert {split: len(part) for split, part in data.items()} == {"train": 13, "validation": 3}
    assert data["train"][0]["image"].size == (24, 16)


def test_shards_and_row_groups_stay_within_their_bounds_and_shards_are_of_one_length(prepared):
    record = json.loads((prepared / "out" / "preparation.json").read_text())
    files = sorted((prepared / "out").glob("train-*.parquet"))
    lengths = []
    for file in files:
        parquet = pq.ParquetFile(file)
        groups = [parquet.read_row_group(index).to_pylist() for index in range(parquet.num_row_groups)]
        sizes = [[len(row["image"]["bytes"] + row["mask"]["bytes"]) for row in group] for group in groups]
        assert sum(map(sum, sizes)) <= 6000
        assert all(sum(group) <= 2500 or len(group) == 1 for group in sizes) and len(groups) > 1
        lengths.append(parquet.metadata.num_rows)
    assert max(lengths) - min(lengths) <= 1
    assert files[0].name == f"train-00000-of-{len(files):05d}.parquet"
    assert record["splits"]["train"]["num_shards"] == len(files)
    assert record["splits"]["train"]["num_bytes"] == sum(file.stat().st_size for file in files)


def test_row_group_has_at_most_100_rows_when_these_are_small(tmp_path):
    for index in range(120):
        write_example(tmp_path / "source", "train", str(index), size=(2, 2))
    prepare_dataset(tmp_path / "source", tmp_path / "out", ["train"])
    metadata = pq.read_metadata(tmp_path / "out" / "train-00000-of-00001.parquet")
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [100, 20]


def test_memory_is_bounded_by_row_groups_when_a_shard_is_large(tmp_path):
    for index in range(40):
        write_example(tmp_path / "source", "train", str(index), size=(150, 200), quality=100)  # 65 kB
    settings = {"seed": 0, "max_shard_size": 10**9, "max_row_group_size": 200_000}
    pairs = [
        (photo, tmp_path / f"source/masks/train/{photo.stem}.png") for photo in tmp_path.glob("source/images/*/*")
    ]
    (shard,) = plan_shards(tmp_path, "train", pairs, tmp_path, settings)
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        _write_shard(shard)
        python = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert shard.path.stat().st_size > 2_400_000
    assert python < 800_000 and pool.max_memory() < 1_000_000


@pytest.mark.parametrize("num_examples", [1, 2, 50, 51, 52, 103, 130])
def test_no_shard_is_empty_when_each_holds_one_example(tmp_path, num_examples):
    pairs = [(tmp_path / f"{index}.jpg", tmp_path / f"{index}.png") for index in range(num_examples)]
    for photo, mask in pairs:
        photo.write_bytes(bytes(50))
        mask.write_bytes(bytes(10))
    settings = {"seed": 0, "max_shard_size": 100, "max_row_group_size": 100}
    shards = plan_shards(tmp_path, "train", pairs, tmp_path, settings)
    assert [len(shard.examples) for shard in shards] == [1] * num_examples
    assert {shard.plan["num_shards"] for shard in shards} == {num_examples}


# Order


def test_shards_are_the_same_whatever_the_number_of_processes(source, tmp_path):
    prepare_dataset(source, tmp_path / "one", num_proc=1, **SMALL)
    prepare_dataset(source, tmp_path / "three", num_proc=3, **SMALL)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_order_is_random_and_another_with_another_seed(source, tmp_path):
    orders = []
    for seed in (0, 1):
        prepare_dataset(source, tmp_path / str(seed), ["train"], seed=seed, **SMALL)
        orders.append([row["id"] for row in rows(tmp_path / str(seed))])
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    assert sorted(orders[0]) not in orders


# Going on


def test_whole_shards_are_not_written_again_and_the_result_is_the_same(source, output):
    whole = contents(output)
    lost = output / "train-00001-of-00003.parquet"
    for name in (lost.name, "preview.jpg", "preparation.json", "README.md"):
        (output / name).unlink()
    (output / ".unfinished-1-train-00001-of-00003.parquet").write_bytes(b"PAR1")
    kept = [file for file in output.iterdir() if not file.name.startswith(".")]
    times = [file.stat().st_mtime_ns for file in kept]
    prepare_dataset(source, output, **SMALL)
    assert contents(output) == whole
    assert len(kept) == 3 and times == [file.stat().st_mtime_ns for file in kept]


def test_nothing_is_written_when_all_is_there(source, tmp_path):
    prepare_dataset(source, tmp_path / "out", id2label=LABELS)
    (tmp_path / "out" / "README.md").write_text("A card that a person has changed.")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    prepare_dataset(source, tmp_path / "out", id2label=LABELS)
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "its seed is 0, not 1"),
        ({"max_shard_size": 5000}, "its max_shard_size is 6000, not 5000"),
        ({"max_row_group_size": "1MB"}, "its max_row_group_size is 2500, not 1000000"),
        ({"splits": ["validation"]}, "its split is 'train'"),
    ],
)
def test_another_plan_is_refused_when_shards_are_there(source, output, changed, message):
    (output / "train-00000-of-00003.parquet").unlink()
    with pytest.raises(FileExistsError, match=rf"`output` must be new, .* of another one \({message}\); name another"):
        prepare_dataset(source, output, **{**SMALL, **changed})


def test_another_source_is_refused_when_shards_are_there(source, output):
    (source / "masks/train/03.png").write_bytes((source / "masks/train/04.png").read_bytes() + b"\0")
    with pytest.raises(FileExistsError, match="the names or sizes of the source's files have changed"):
        prepare_dataset(source, output, **SMALL)


@pytest.mark.parametrize("name", ["README.md", "train-00000-of-00001.parquet", "notes.txt"])
def test_other_files_are_refused_and_left(source, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"`output` must be new, empty, or hold .* but .*{name} is none; name"):
        prepare_dataset(source, tmp_path / "out")
    assert contents(tmp_path / "out") == {name: b"mine"}


def test_another_preparation_is_replaced_when_asked(source, tmp_path):
    prepare_dataset(source, tmp_path / "out", seed=1, name="Old", **SMALL)
    prepare_dataset(source, tmp_path / "out", overwrite=True)
    prepare_dataset(source, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_another_record_is_refused_when_the_shards_are_the_same(source, tmp_path):
    prepare_dataset(source, tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"`output` must not hold another record, .*preparation.json differs in"):
        prepare_dataset(source, tmp_path / "out", id2label=LABELS)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_prepared_files_are_what_was_written_and_nothing_else(source, tmp_path, labels):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".env").write_text("TOKEN=secret")
    prepare_dataset(source, tmp_path / "out", id2label=labels, **SMALL)
    files = prepared_files(tmp_path / "out")
    assert set(files) == {*(tmp_path / "out").iterdir()} - {tmp_path / "out" / ".env"}
    assert len(files) == len(set(files))
    files[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"`output` must be .* lacks {files[1].name}; run the same"):
        prepared_files(tmp_path / "out")


def test_error_names_the_record_when_there_is_no_preparation(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`output` must be .* there is no .*preparation.json; prepare"):
        prepared_files(tmp_path)


# Verification


def test_labels_are_counted(tmp_path):
    for name, ids in (("a", [[0, 0, 1]]), ("b", [[0, 255, 255]])):
        write_example(tmp_path / "source", "train", name, size=(1, 3))
        Image.fromarray(np.array(ids, np.uint8)).save(tmp_path / f"source/masks/train/{name}.png")
    record = prepare_dataset(tmp_path / "source", tmp_path / "out", ["train"], id2label=LABELS)
    found = record["splits"]["train"]
    assert found["pixels"] == {"0": 3, "1": 1, "255": 2}
    assert found["pictures"] == {"0": 2, "1": 1, "255": 1}
    assert (found["num_examples"], found["skipped"]) == (2, {})
    assert json.loads((tmp_path / "out" / "preparation.json").read_text()) == record
    card = single_spaced(tmp_path / "out" / "README.md")
    assert (
        "| 0 | sky | 50.000 | 2 |\n| 1 | road | 16.667 | 1 |\n| 2 | car | 0.000 | 0 |\n| 255 | | 33.333 | 1 |" in card
    )


def test_mask_of_the_upright_photo_fits_when_the_photo_is_turned_by_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_example(tmp_path / "source", "train", "turned", exif=exif)
    Image.new("L", (16, 24)).save(tmp_path / "source/masks/train/turned.png")
    assert prepare_dataset(tmp_path / "source", tmp_path / "out", ["train"])["splits"]["train"]["num_examples"] == 1


@pytest.fixture
def broken(source):
    """Of 13 examples, one with half a photo, one with a text as mask, one with a mask of another size."""
    photo = source / "images/train/01.jpg"
    photo.write_bytes(photo.read_bytes()[:700])
    (source / "masks/train/05.png").write_text("no picture")
    Image.new("L", (24, 15)).save(source / "masks/train/07.png")
    return source


def test_broken_files_are_counted_and_named_before_anything_is_done(broken, tmp_path):
    with pytest.raises(ValueError, match=r"`dataset` must hold whole photos, .* but 3 of 13 examples are") as error:
        prepare_dataset(broken, tmp_path / "out", ["train"], num_proc=2, **SMALL)
    first, *details = str(error.value).split("\n  ")
    assert first.endswith("repair them, or pass --skip_broken to leave them out:")
    assert details[0].startswith("`images/train/01.jpg` must be a whole image, but decoding it stopped with")
    assert details[1].startswith("`masks/train/05.png` must be an image file, but Pillow raises")
    assert details[2].startswith("`masks/train/07.png` must have the size of its image, 16 x 24 pixels")
    assert len(details) == 3
    names = [file.name for file in (tmp_path / "out").iterdir()]
    assert not {"preparation.json", "README.md"} & set(names)
    assert not {"01", "05", "07"} & {row["id"] for row in rows(tmp_path / "out")}


def test_only_the_first_broken_files_are_listed(source, tmp_path):
    for mask in (source / "masks/train").iterdir():
        mask.write_text("no picture")
    with pytest.raises(ValueError, match="13 of 13 examples are broken") as error:
        prepare_dataset(source, tmp_path / "out", ["train"])
    assert len(str(error.value).split("\n  ")) == 1 + 5 + 1 and str(error.value).endswith("…")


def test_broken_examples_are_left_out_and_recorded_when_asked(broken, tmp_path):
    with pytest.raises(ValueError, match="3 of 13 examples are broken"):
        prepare_dataset(broken, tmp_path / "out", ["train"], **SMALL)
    record = prepare_dataset(broken, tmp_path / "out", ["train"], skip_broken=True, **SMALL)
    assert record["splits"]["train"]["num_examples"] == 10 == len(rows(tmp_path / "out"))
    assert list(record["splits"]["train"]["skipped"]) == ["01", "05", "07"]
    assert str(broken) not in json.dumps(record)
    assert "| train | 10 (3 broken ones left out) |" in single_spaced(tmp_path / "out" / "README.md")
    with pytest.raises(ValueError, match="3 of 13 examples are broken"):
        prepare_dataset(broken, tmp_path / "out", ["train"], **SMALL)


def test_split_is_refused_when_nothing_is_left_of_it(source, tmp_path):
    for mask in (source / "masks/validation/street").iterdir():
        mask.write_text("no picture")
    with pytest.raises(ValueError, match="`dataset` must hold at least one whole example of validation; all of them"):
        prepare_dataset(source, tmp_path / "out", ["validation"], skip_broken=True)


def test_ids_are_checked_when_classes_are_named(source, tmp_path):
    with pytest.raises(ValueError, match=r"`masks` must hold ids up to 1 for 2 classes, got 0, 1, 2"):
        prepare_dataset(source, tmp_path / "out", id2label={0: "sky", 1: "road"})
    assert not (tmp_path / "out" / "preparation.json").exists()
    prepare_dataset(source, tmp_path / "out", id2label={0: "sky", 1: "road"}, reduce_labels=True)  # shards stay


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_shard_size": "much"}, "`max_shard_size` must be a positive size such as 500MB, .* got 'much'"),
        ({"max_row_group_size": 0}, "`max_row_group_size` must be a positive size such as 500MB, .* got 0"),
        (
            {"max_shard_size": "1KB"},
            r"`max_shard_size` must hold the largest example of train, .* bytes, got 1,000; r",
        ),
        ({"num_proc": 0}, "`num_proc` must be at least 1, got 0"),
        ({"splits": ["../train"]}, "`splits` must be names of letters, digits and '_', got '../train'"),
        ({"splits": ["test"]}, r"`split` must be one of the splits of .* \(train, validation\), got 'test'"),
        ({"data_dir": "x"}, "`data_dir` must be given for ade20k, .* and only for these, got 'x' for "),
    ],
)
def test_argument_is_named_when_it_is_wrong(source, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_dataset(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_folder_of_a_known_data_set_must_be_given(tmp_path):
    with pytest.raises(ValueError, match=r"`data_dir` must be given for ade20k, .* got None for coco_stuff"):
        prepare_dataset("coco_stuff", tmp_path / "out")


def test_source_must_be_a_folder_of_image_files(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="`dataset` must be a folder of photos and masks, and there is no"):
        prepare_dataset(tmp_path / "nowhere", tmp_path / "out")
    prepare_dataset(source, tmp_path / "out")
    with pytest.raises(ValueError, match=r"`dataset` must be a folder of photos and masks, but .* has Parquet files"):
        prepare_dataset(tmp_path / "out", tmp_path / "again")


def test_output_must_lie_outside_of_the_source(source):
    with pytest.raises(ValueError, match=r"`output` must lie outside of the source .*, got .*; name another folder"):
        prepare_dataset(source, source / "shards")


def test_photos_must_have_different_names(tmp_path):
    for ending in ("jpg", "png"):
        write_official(tmp_path / "source" / f"1.{ending}", [1])
    lines = [{"image_file_name": f"1.{ending}", "mask_file_name": "1.png"} for ending in ("jpg", "png")]
    (tmp_path / "source" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match="`dataset` must hold photos of different names, but train has 1 twice"):
        prepare_dataset(tmp_path / "source", tmp_path / "out", ["train"])


def test_killed_process_is_named_and_the_work_goes_on_later(source, tmp_path):
    for index in range(300):
        write_example(source, "train", f"more-{index}", size=(64, 64))

    def kill_a_worker():
        while not multiprocessing.active_children() or not list((tmp_path / "out").glob("*.parquet")):
            time.sleep(0.001)
        multiprocessing.active_children()[0].kill()

    threading.Thread(target=kill_a_worker).start()
    with pytest.raises(
        RuntimeError, match="`num_proc` processes must fit into memory, and one of them was killed; run"
    ):
        prepare_dataset(source, tmp_path / "out", ["train"], num_proc=2, max_shard_size="100KB")
    prepare_dataset(source, tmp_path / "out", ["train"], max_shard_size="100KB")
    assert len({row["id"] for row in rows(tmp_path / "out")}) == 313 == len(rows(tmp_path / "out"))
