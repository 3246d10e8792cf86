"""A data set that needs no download: small drawn street scenes with exact masks, for the quickstart and for tests."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from offseg_hf.data.scenes.street_painter import SCENE_LABELS, SCENE_PALETTE, StreetPainter
from offseg_hf.files import whole_folder

__all__ = ["SCENE_LABELS", "SCENE_PALETTE", "draw_scene", "write_scenes"]


def draw_scene(seed: int | Sequence[int], size: tuple[int, int] = (128, 192)) -> tuple[Image.Image, np.ndarray]:
    """A street scene and its mask, the same for the same seed and size.

    Colours, light, weather and camera are random, and colours overlap between classes: the shapes have to be learnt.

    Args:
        seed (`int` or sequence of `int`): what the scene is drawn from.
        size (`tuple[int, int]`): height and width in pixels, at least 32 each.

    Returns:
        `tuple[PIL.Image.Image, np.ndarray]`: the RGB picture, and its mask, `uint8` of shape (height, width): indices
        into `SCENE_LABELS`, and 255 for the poles of signs, which belong to no class.

    Raises:
        ValueError: if a side of `size` is below 32 pixels.
    """
    height, width = size
    if min(height, width) < 32:
        raise ValueError(
            f"`size` must be at least 32 pixels high and wide, got {height}x{width}: ask for a larger one."
        )
    return StreetPainter(np.random.default_rng(seed), height, width).paint()


def write_scenes(
    folder: str | Path,
    num_train: int = 480,
    num_validation: int = 60,
    size: tuple[int, int] = (128, 192),
    seed: int = 0,
    num_shards: int = 4,
) -> Path:
    """Writes scenes as Parquet shards, `train-00000-of-00004.parquet` and so on, that `datasets` reads as they are.

    Each row holds an `image` (JPEG) and a `mask` (PNG of class ids). The validation split is one file. The folder
    appears once all its files are complete.

    Args:
        folder (`str` or `Path`): a folder that does not exist yet, or is empty.
        num_train (`int`): number of training scenes, at least `num_shards`.
        num_validation (`int`): number of validation scenes, at least 1; none of them is a training scene.
        size (`tuple[int, int]`): height and width in pixels, at least 32 each.
        seed (`int`): what the scenes are drawn from.
        num_shards (`int`): number of files of the training split.

    Returns:
        `Path`: the folder.

    Raises:
        FileExistsError: if the folder holds anything.
        ValueError: if there are fewer scenes than files, or a side of `size` is below 32 pixels.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"`folder` must be new or empty, and {folder} is not: name another one or remove it.")
    if not 1 <= num_shards <= num_train or num_validation < 1:
        raise ValueError(
            "`num_train` must be at least `num_shards`, and that and `num_validation` at least 1, got "
            f"{num_train}, {num_shards} and {num_validation}: ask for more scenes or fewer shards."
        )
    with whole_folder(folder) as unfinished:
        for shard in range(num_shards):
            seeds = [(seed, 0, index) for index in range(shard, num_train, num_shards)]
            _write_shard(unfinished / f"train-{shard:05d}-of-{num_shards:05d}.parquet", seeds, size)
        seeds = [(seed, 1, index) for index in range(num_validation)]
        _write_shard(unfinished / "validation-00000-of-00001.parquet", seeds, size)
    return folder


def _write_shard(path, seeds, size):
    """Draws one scene per seed into one Parquet file."""
    import pyarrow.parquet as pq  # here, since who draws scenes alone does not need to wait for them to load
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    columns = {"image": [], "mask": []}
    for seed in seeds:
        image, mask = draw_scene(seed, size)
        columns["image"].append({"bytes": _encoded(image, "JPEG", quality=92), "path": None})
        columns["mask"].append({"bytes": _encoded(Image.fromarray(mask), "PNG"), "path": None})
    features = Features({"image": ImageFeature(), "mask": ImageFeature()})
    # Not `to_parquet`, which shows a progress bar for each file.
    pq.write_table(Dataset.from_dict(columns, features=features).with_format("arrow")[:], path)


def _encoded(image, image_format, **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()
