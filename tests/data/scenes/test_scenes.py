import io

import datasets
import numpy as np
import pytest
from PIL import Image

from offseg_hf.data.scenes.scenes import SCENE_LABELS, SCENE_PALETTE, draw_scene, write_scenes


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(seed, (64, 96)) for seed in range(24)]


def test_scene_is_the_same_for_the_same_seed():
    (first, first_mask), (second, second_mask) = draw_scene((3, 1), (48, 64)), draw_scene((3, 1), (48, 64))
    assert first.tobytes() == second.tobytes()
    np.testing.assert_array_equal(first_mask, second_mask)


def test_scene_is_another_for_another_seed():
    assert (draw_scene((3, 1), (48, 64))[1] != draw_scene((3, 2), (48, 64))[1]).any()


@pytest.mark.parametrize("size", [(32, 32), (47, 91), (130, 40)])
def test_scene_has_the_size_asked_for(size):
    image, mask = draw_scene(0, size)
    assert (image.height, image.width) == mask.shape == size
    assert (image.mode, mask.dtype) == ("RGB", np.uint8)


def test_scenes_hold_every_class_and_unlabelled_pixels(scenes):
    found = np.unique(np.stack([mask for _, mask in scenes]))
    assert found.tolist() == [*range(len(SCENE_LABELS)), 255]


def test_road_lies_below_the_sky(scenes):
    for _, mask in scenes:
        rows = [np.nonzero(mask == SCENE_LABELS.index(name))[0].mean() for name in ("sky", "road")]
        assert rows[0] < rows[1]


def test_colour_alone_does_not_tell_the_classes(scenes):
    pixels = np.concatenate([np.asarray(image).reshape(-1, 3) for image, _ in scenes]).astype(float)
    labels = np.concatenate([mask.ravel() for _, mask in scenes])
    means = np.stack([pixels[labels == index].mean(axis=0) for index in range(len(SCENE_LABELS))])
    nearest = np.linalg.norm(pixels[:, None] - means, axis=-1).argmin(axis=1)  # (N,)
    recalls = [np.mean(nearest[labels == index] == index) for index in range(len(SCENE_LABELS))]
    assert np.mean(recalls) < 0.4


def test_picture_shows_what_the_mask_says(scenes):
    inside, across = [], []
    for image, mask in scenes:
        step = np.abs(np.diff(np.asarray(image).astype(float), axis=1)).mean(axis=-1)  # between neighbours, (H, W - 1)
        is_edge = mask[:, 1:] != mask[:, :-1]
        across.append(step[is_edge].mean())
        inside.append(step[~is_edge].mean())
    assert np.mean(across) > 2 * np.mean(inside)


def test_palette_has_a_colour_for_each_class():
    assert len(set(SCENE_PALETTE)) == len(SCENE_LABELS)


def test_size_below_32_pixels_raises():
    with pytest.raises(ValueError, match="`size` must be at least 32 pixels high and wide, got 31x64"):
        draw_scene(0, (31, 64))


def test_write_scenes_names_shards_as_the_hub_does(tmp_path):
    folder = write_scenes(tmp_path / "scenes", num_train=5, num_validation=2, size=(32, 32), num_shards=2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "validation-00000-of-00001.parquet",
    ]


def test_written_shards_stream_with_pictures_and_exact_masks(tmp_path):
    folder = write_scenes(tmp_path / "scenes", num_train=3, num_validation=1, size=(32, 48), seed=7, num_shards=2)
    rows = list(datasets.load_dataset(str(folder), split="train", streaming=True))
    assert len(rows) == 3
    for row, index in zip(rows, (0, 2, 1)):  # scenes are dealt to the shards in turn
        image, mask = draw_scene((7, 0, index), (32, 48))
        np.testing.assert_array_equal(np.asarray(row["mask"]), mask)
        assert np.abs(np.asarray(row["image"]).astype(int) - np.asarray(image)).mean() < 10


def test_written_files_are_jpeg_and_png(tmp_path):
    folder = write_scenes(tmp_path / "scenes", num_train=1, num_validation=1, size=(32, 32), num_shards=1)
    row = next(iter(datasets.load_dataset(str(folder), split="validation", streaming=True).decode(False)))
    formats = [Image.open(io.BytesIO(row[column]["bytes"])).format for column in ("image", "mask")]
    assert formats == ["JPEG", "PNG"]


def test_no_validation_scene_is_a_training_scene(tmp_path):
    folder = write_scenes(tmp_path / "scenes", num_train=2, num_validation=2, size=(32, 32), num_shards=1)
    splits = datasets.load_dataset(str(folder)).with_format("numpy")
    for mask in splits["validation"]["mask"]:
        assert all((mask != other).any() for other in splits["train"]["mask"])


def test_write_scenes_fills_an_empty_folder(tmp_path):
    (tmp_path / "scenes").mkdir()
    assert write_scenes(tmp_path / "scenes", num_train=1, num_validation=1, size=(32, 32), num_shards=1).is_dir()


def test_write_scenes_leaves_a_filled_folder_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="`folder` must be new or empty"):
        write_scenes(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_write_scenes_leaves_nothing_when_it_fails(tmp_path):
    with pytest.raises(ValueError, match="`size`"):
        write_scenes(tmp_path / "scenes", num_train=2, size=(16, 16), num_shards=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("counts", [{"num_train": 3, "num_shards": 4}, {"num_validation": 0}, {"num_shards": 0}])
def test_fewer_scenes_than_files_raises(tmp_path, counts):
    with pytest.raises(ValueError, match="ask for more scenes or fewer shards"):
        write_scenes(tmp_path / "scenes", **counts)
