"""CamVid, as it is published and as Datumaro and CVAT write it: colours, and their names in `label_colors.txt`."""

import re
from pathlib import Path, PurePosixPath

from offseg_hf.data.formats.mask_tables import labels_of_masks, read_label_colors, split_of
from offseg_hf.data.formats.photos import PhotoFolder
from offseg_hf.data.formats.records import Labels
from offseg_hf.data.layouts import find_folders, pair_files

TABLE = "label_colors.txt"
OTHER_FOLDERS = ("gtFine", "*/semantic", "*/semantic_rgb")  # Cityscapes and KITTI have such a table too


def find(place: Path) -> bool:
    """Whether a folder has CamVid's table of colours, and no Cityscapes or KITTI.

    Args:
        place (`Path`): the folder.

    Returns:
        `bool`
    """
    return (place / TABLE).is_file() and not any(next(place.glob(folder), None) for folder in OTHER_FOLDERS)


def read(place: Path) -> Labels:
    """What such a folder says.

    Args:
        place (`Path`): the folder, with lists like `train.txt` of a photo and its mask per line, or without, with
            folders that pair, such as `train` and `trainannot`.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]: a photo that is listed without a mask has no shapes.

    Raises:
        FileNotFoundError: a photo or a mask is not there.
        ValueError: the table cannot be right.
    """
    lists = [file for file in sorted(place.glob("*.txt")) if file.name != TABLE]
    masks = [entry for file in lists for entry in _listed(file)]
    if not masks:
        folders = find_folders(place)
        masks = [(*pair, split_of(split)) for split, parts in folders.items() for pair in pair_files(*parts)]
    return labels_of_masks(masks, read_label_colors(place / TABLE), place)


def _listed(file):
    """(photo, mask or `None`, split) of each line of a list: two paths, in quotes where they have blanks."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    paths = [[quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', line)] for line in lines]
    if not any(len(line) == 2 for line in paths):  # some other text
        return
    photos = PhotoFolder(file.parent, skip=tuple({PurePosixPath(line[1]).parent.name for line in paths if line[1:]}))
    for line in paths:
        mask = _below(file, line[1]) if line[1:] and line[1] else None
        yield photos.find(line[0], file.name), mask, split_of(file.stem)


def _below(file, name):
    """The file below the list's folder that a path of another computer ends in."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..")]
    paths = [file.parent.joinpath(*parts[start:]) for start in range(len(parts))]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"`{file}` names the mask {name}, and there is none; put it there, or correct the line."
        )
    return found
