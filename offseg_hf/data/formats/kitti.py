"""KITTI as Datumaro and CVAT write it, where a class may have the id of what is not labelled."""

from pathlib import Path

from offseg_hf.data.formats.classes import is_unlabelled
from offseg_hf.data.formats.mask_tables import (
    PhotosByStem,
    datumaro_table,
    labels_of_masks,
    read_datumaro_table,
    split_of,
)
from offseg_hf.data.formats.records import Labels

MASKS = ("semantic_rgb", "semantic")  # the first that is there is read


def find(place: Path) -> bool:
    """Whether a folder has KITTI's masks and a table of colours.

    Args:
        place (`Path`): the folder.

    Returns:
        `bool`
    """
    return datumaro_table(place).is_file() and any(next(place.glob(f"*/{name}"), None) for name in MASKS)


def read(place: Path) -> Labels:
    """What such a folder says.

    Args:
        place (`Path`): the folder, with `<split>/image_2` and `<split>/semantic_rgb`.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]: photos without a mask are left out, since no file lists them.

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: the first class has the id, and the colour, of what is not labelled.
    """
    file = datumaro_table(place)
    table = read_datumaro_table(file, background_first=False)
    if not is_unlabelled(Labels(table.names, ()), table.by_id[0]):
        raise ValueError(
            f"`{file}` must begin with the background, but begins with {table.by_id[0]}, and KITTI masks of Datumaro "
            "and CVAT have the first class where nothing is labelled too; export the work as COCO, CVAT or VOC."
        )
    masks = []
    for split in sorted(part for part in place.iterdir() if part.is_dir()):
        folder = next((split / name for name in MASKS if (split / name).is_dir()), None)
        if folder is None:
            continue
        photos = PhotosByStem(split, [split / name for name in (*MASKS, "instance")])
        files = sorted(folder.rglob("*.png"))
        names = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
        masks += [(photos.find(name, str(file)), file, split_of(split.name)) for name, file in zip(names, files)]
    return labels_of_masks(masks, table, place)
