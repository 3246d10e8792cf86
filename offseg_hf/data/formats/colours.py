"""Photos and masks in any layout with a table of names beside them, or one that the person gives."""

from collections.abc import Mapping
from pathlib import Path

from offseg_hf.data.formats.mask_tables import (
    VOID,
    Colour,
    MaskTable,
    labels_of_masks,
    read_class_dict,
    read_dataset_meta,
    read_labelmap,
    read_names,
    split_of,
)
from offseg_hf.data.formats.records import Labels
from offseg_hf.data.layouts import find_folders, pair_files

# File → what reads it: CVAT's, Datumaro's, Kaggle's CamVid, labelme2voc's, fast.ai's CamVid.
TABLES = {
    "labelmap.txt": read_labelmap,
    "dataset_meta.json": read_dataset_meta,
    "class_dict.csv": read_class_dict,
    "class_names.txt": read_names,
    "codes.txt": read_names,
}


def find(place: Path) -> bool:
    """Whether a folder has photos and masks that pair, and a table of names.

    Args:
        place (`Path`): the folder.

    Returns:
        `bool`
    """
    return any((place / name).is_file() for name in TABLES) and bool(find_folders(place))


def read(place: Path) -> Labels:
    """What such a folder says.

    Args:
        place (`Path`): the folder.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]

    Raises:
        FileNotFoundError: a photo has no mask, or a mask no photo.
        ValueError: the table cannot be right.
    """
    file = next(place / name for name in TABLES if (place / name).is_file())
    return labels_of_masks(_masks(place), TABLES[file.name](file), place)


def read_with_colours(place: Path, colours: Mapping[Colour, str | None]) -> Labels:
    """What a folder of photos and coloured masks says by a table of one's own.

    Args:
        place (`Path`): the folder, in one of the usual layouts.
        colours (`dict`): (red, green, blue) → name of the class, or `None` for what is not labelled, see
            [`~offseg_hf.data.labels.read_colour_table`].

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]

    Raises:
        FileNotFoundError: a photo has no mask, or a mask no photo.
    """
    by_colour = {colour: VOID if name is None else name for colour, name in colours.items()}
    return labels_of_masks(_masks(place), MaskTable({}, by_colour), place)


def _masks(place):
    folders = find_folders(place)
    return [(*pair, split_of(split)) for split, parts in folders.items() for pair in pair_files(*parts)]
