"""Names of splits and columns, in all the spellings that data sets have for them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

SPLIT_SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
IMAGE_NAMES = ("image", "images", "img", "photo", "picture", "pixel_values")
MASK_NAMES = (
    *("mask", "masks", "annotation", "annotations", "label", "labels", "label_map", "seg_map", "segmentation_map"),
    *("segmentation", "segmentation_mask", "semantic_segmentation", "semantic_mask", "ground_truth", "gt"),
)


def canonical_split(name: str) -> str:
    """`train`, `validation` or `test` for any of their spellings; another name as it is."""
    for canonical, spellings in SPLIT_SPELLINGS.items():
        if name.lower() in spellings:
            return canonical
    return name


def choose_split(by_split: Mapping[str, Value], split: str, dataset: str | Path) -> Value:
    """The value of a split in a dictionary, under whichever spelling it is there; `dataset` is what errors name."""
    if split in by_split:
        return by_split[split]
    same = [value for name, value in by_split.items() if canonical_split(name) == canonical_split(split)]
    if len(same) != 1:
        known = ", ".join(sorted(by_split)) or "none"
        raise ValueError(f"`split` must be one of the splits of {dataset} ({known}), got {split!r}.")
    return same[0]


def choose_columns(
    candidates: Sequence[str], columns: Sequence[str], image_column: str | None, mask_column: str | None
) -> tuple[str, str]:
    """The names of the photos' and of the masks' column.

    Args:
        candidates (`list[str]`): columns that hold image files; their names tell where nothing is given.
        columns (`list[str]`): all columns, of which the given ones must be.
        image_column (`str`, *optional*), mask_column (`str`, *optional*): the given ones.

    Returns:
        `tuple[str, str]`

    Raises:
        ValueError: a given column does not exist, both are the same, or the names do not tell.
    """
    chosen = {}
    for argument, given, names in (
        ("image_column", image_column, IMAGE_NAMES),
        ("mask_column", mask_column, MASK_NAMES),
    ):
        if given is not None and given not in columns:
            raise ValueError(f"`{argument}` must be one of the columns {', '.join(columns)}, got {given!r}.")
        fitting = [given] if given is not None else [name for name in candidates if name.lower() in names]
        if len(fitting) != 1:
            found = f"{' and '.join(fitting)} could be" if fitting else "no image column's name tells"
            raise ValueError(
                f"`{argument}` must be given as --{argument} NAME for this data set, with the columns "
                f"{', '.join(columns)}: {found} the {'photos' if argument == 'image_column' else 'masks'}."
            )
        chosen[argument] = fitting[0]
    if chosen["image_column"] == chosen["mask_column"]:
        raise ValueError(f"`mask_column` must differ from `image_column`, got {chosen['mask_column']!r} for both.")
    return chosen["image_column"], chosen["mask_column"]
