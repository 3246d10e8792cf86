"""CamVid, as it is published and as Datumaro and CVAT write it: masks of colours, and a table of their names."""

import re
from pathlib import Path, PurePosixPath

from offseg_hf.data.formats.damage import read_text
from offseg_hf.data.formats.mask_tables import (
    datumaro_table,
    labels_of_masks,
    read_datumaro_table,
    split_of,
)
from offseg_hf.data.formats.records import Labels
from offseg_hf.data.layouts import IMAGE_SUFFIXES, find_folders, pair_files

OTHER_FOLDERS = ("gtFine", "*/semantic", "*/semantic_rgb")  # Cityscapes and KITTI have such a table too


def find(place: Path) -> bool:
    """Whether a folder has CamVid's table of colours, and no Cityscapes or KITTI.

    Args:
        place (`Path`): the folder.

    Returns:
        `bool`
    """
    table = datumaro_table(place)
    is_camvid = table.is_file() and (table.suffix == ".txt" or next(place.glob("*annot"), None) is not None)
    return is_camvid and not any(next(place.glob(folder), None) for folder in OTHER_FOLDERS)


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
    masks = [
        entry for file in sorted(place.glob("*.txt")) if file.name != "label_colors.txt" for entry in _listed(file)
    ]
    if not masks:
        folders = find_folders(place)
        masks = [(*pair, split_of(split)) for split, parts in folders.items() for pair in pair_files(*parts)]
    return labels_of_masks(masks, read_datumaro_table(datumaro_table(place)), place)


def _listed(file):
    """(photo, mask or `None`, split) of each line of a list: two paths, in quotes where they have blanks."""
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    lines = [[quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', line)] for line in lines]
    if not any(len(line) == 2 for line in lines) or not all(
        line[0].lower().endswith(IMAGE_SUFFIXES) for line in lines
    ):
        return  # some other text
    for photo, *mask in lines:
        yield _below(file, photo), _below(file, mask[0]) if mask and mask[0] else None, split_of(file.stem)


def _below(file, name):
    """The file below the list's folder that a path, perhaps of another computer, ends in."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..")]
    paths = [file.parent.joinpath(*parts[start:]) for start in range(len(parts))]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"`{file}` names {name}, and there is none below {file.parent}; put it there.")
    return found
