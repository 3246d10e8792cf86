"""Pascal VOC, and what has its folders: Datumaro, CVAT's "Segmentation mask", labelme2voc."""

import re
from dataclasses import replace
from pathlib import Path

from offseg_hf.data.formats.damage import read_text
from offseg_hf.data.formats.mask_tables import (
    VOID,
    PhotosByStem,
    labels_of_masks,
    make_table,
    read_dataset_meta,
    read_labelmap,
    read_names,
    split_of,
    voc_colour,
)
from offseg_hf.data.formats.records import Labels
from offseg_hf.data.layouts import files_by_stem

PHOTOS, LISTS = "JPEGImages", "ImageSets/Segmentation"
MASKS = ("SegmentationClass", "SegmentationClassPNG")  # not SegmentationObject, which numbers objects
TABLES = {"labelmap.txt": read_labelmap, "dataset_meta.json": read_dataset_meta, "class_names.txt": read_names}
# VOC 2012 development kit, `VOCinit.m`, after the background; 255 is the border of objects and what is difficult.
VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def find(place: Path) -> bool:
    """Whether a folder, or one like `VOCdevkit/VOC2012` in it, has VOC's masks of classes.

    Args:
        place (`Path`): the folder.

    Returns:
        `bool`
    """
    return bool(_roots(place))


def read(place: Path) -> Labels:
    """What such a folder says.

    Args:
        place (`Path`): the folder.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]: splits as the lists in `ImageSets/Segmentation` have them; without
        lists, all masks are training. A photo that is listed and has no mask has no shapes.

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: classes have no names, or the table cannot be right.
    """
    roots = _roots(place)
    if not roots:
        raise FileNotFoundError(
            f"`{place}` must have PNG masks in a folder {' or '.join(MASKS)}, and has none; export them with the "
            "photos."
        )
    masks = [entry for root, folder in roots for entry in _entries(root, folder)]
    return labels_of_masks(masks, _table(place, roots[0][0]), place)


def _roots(place):
    """(folder, its folder of masks) of each VOC there."""
    if not place.is_dir():
        return []
    roots = [place, *sorted(place.glob("VOC20*")), *sorted(place.glob("VOCdevkit/VOC20*"))]
    folders = ((root, root / name) for root in roots for name in MASKS)
    return [(root, folder) for root, folder in folders if next(folder.rglob("*.png"), None)]


def _table(place, root):
    """The table beside the masks, or VOC's own, with the colour of its border."""
    files = [folder / name for folder in (root, place) for name in TABLES if (folder / name).exists()]
    if files:
        table = TABLES[files[0].name](files[0])
    elif re.fullmatch(r"VOC20\d\d", root.name) or next(root.glob(f"{PHOTOS}/20[01][0-9]_[0-9]*.jpg"), None):
        table = make_table([(name, None) for name in VOC_NAMES], root)
    else:
        raise ValueError(
            f"`{root}` must have a labelmap.txt that names the colours of its masks, a line `sky:70,130,180::` for "
            "each class, and has none; take it from the export, or write it."
        )
    return replace(table, by_colour={**table.by_colour, voc_colour(255): VOID, **table.by_colour})


def _entries(root, folder):
    """(photo, mask or `None`, split) of what the lists name, or of every mask."""
    masks = files_by_stem(folder)
    photos = PhotosByStem(root, sorted(root.glob("Segmentation*")))
    names_by_split: dict[str, list[str]] = {}
    for file in sorted((root / LISTS).glob("*.txt")):
        names = [line.strip().strip('"') for line in read_text(file).splitlines() if line.strip()]
        names_by_split[file.stem] = names
    both = names_by_split.pop("trainval", [])
    listed = {name for names in names_by_split.values() for name in names}
    names_by_split.setdefault("train", []).extend(name for name in both if name not in listed)
    if not any(names_by_split.values()):
        names_by_split["train"] = sorted(masks)
    for split, names in names_by_split.items():
        for name in dict.fromkeys(names):
            source = masks[name].relative_to(root) if name in masks else f"{LISTS}/{split}.txt"
            yield photos.find(name, f"{source}"), masks.get(name), split_of(split)
