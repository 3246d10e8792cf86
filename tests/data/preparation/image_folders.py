"""Small folders of image files, and what is read of their preparation."""

import re

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

SMALL = {"max_shard_size": 6000, "max_row_group_size": 2500}  # for examples of about 1 kB


def write_example(folder, split, name, size=(16, 24), **options):
    """A noisy JPEG of (height, width) and its mask of three ids."""
    rng = np.random.default_rng(list(name.encode()))
    for kind in ("images", "masks"):
        (folder / kind / split / name).parent.mkdir(parents=True, exist_ok=True)
    photo = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    photo.save(folder / "images" / split / f"{name}.jpg", **options)
    mask = Image.fromarray(rng.integers(0, 3, size, dtype=np.uint8))
    mask.save(folder / "masks" / split / f"{name}.png")


def write_official(path, values, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([values], np.uint8)).convert(mode).save(path)


def rows(output, split="train"):
    """The rows of a split as they are stored, in their order."""
    return [row for file in sorted(output.glob(f"{split}-*.parquet")) for row in pq.read_table(file).to_pylist()]


def single_spaced(path):
    """A text file's content without the spaces by which the columns of its tables line up."""
    return re.sub(" +", " ", path.read_text())
