"""Cityscapes as Datumaro and CVAT write it: the folders of Cityscapes, but classes by a table of one's own."""

from pathlib import Path

from offseg_hf.data.formats.mask_tables import (
    PhotosByStem,
    datumaro_table,
    labels_of_masks,
    read_datumaro_table,
    split_of,
)
from offseg_hf.data.formats.records import Labels

MASKS = "gtFine"
ENDINGS = ("_gtFine_color", "_gtFine_labelIds")  # the first that occurs is read; ids are not those of Cityscapes


def find(place: Path) -> bool:
    """Whether a folder has Cityscapes' masks and a table of colours.

    Args:
        place (`Path`): the folder.

    Returns:
        `bool`
    """
    return (place / MASKS).is_dir() and datumaro_table(place).is_file()


def read(place: Path) -> Labels:
    """What such a folder says.

    Args:
        place (`Path`): the folder, with `imgsFine/leftImg8bit/<split>` or `leftImg8bit/<split>` and `gtFine/<split>`.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]: photos without a mask are left out, since no file lists them.

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: the table cannot be right.
    """
    photos = PhotosByStem(place, [place / MASKS])
    found = ((ending, sorted((place / MASKS).rglob(f"*{ending}.png"))) for ending in ENDINGS)
    ending, files = next(((ending, files) for ending, files in found if files), ("", []))
    masks = []
    for mask in files:
        path = mask.relative_to(place / MASKS)
        name = path.with_name(path.stem.removesuffix(ending) + "_leftImg8bit").as_posix()
        masks.append((photos.find(name, str(mask)), mask, split_of(path.parts[0])))
    return labels_of_masks(masks, read_datumaro_table(datumaro_table(place)), place)
