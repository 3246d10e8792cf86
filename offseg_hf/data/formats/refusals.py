"""Pictures that look like masks and cannot be ones: what wrote them, and what to take in their place."""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from offseg_hf.data.formats.drawing import read_colours
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX, open_image

NUM_FIRST_MASKS = 16  # that are looked at
MIN_INSTANCES = 20  # in one picture, from which on ids without a gap are numbers of objects
GREYS = 0x010101  # times a grey value: its colour
# Folders and ends of names of files that hold a number for each object: VOC's, KITTI's, Cityscapes'.
INSTANCE_FOLDERS = ("SegmentationObject", "SegmentationObjectPNG", "instance", "instance_masks")
INSTANCE_ENDINGS = ("_instanceIds.png", "_instanceTrainIds.png")


def refuse_folder(folder: Path) -> None:
    """Looks for files that tell which tool wrote a folder, where its pictures are no masks of classes.

    Args:
        folder (`Path`): the folder.

    Raises:
        ValueError: labelme's exported pictures, Darwin's masks of instances, or VOC's without those of classes.
    """
    for names in (folder / "label_names.txt", *folder.glob("*/label_names.txt")):
        if names.with_name("label.png").exists():
            _refuse_name(names.with_name("label.png"))
    if (folder / "instance_mask_annotations.csv").exists():
        raise ValueError(
            f"`dataset` must have one mask per photo with an id for each class, but {folder} has Darwin's masks of "
            "instances; export semantic_mask_index or Darwin JSON."
        )
    if (folder / "SegmentationObject").is_dir() and not (folder / "SegmentationClass").is_dir():
        raise ValueError(
            f"`dataset` must have masks of classes, but {folder} has SegmentationObject alone, which numbers objects; "
            "export SegmentationClass with it."
        )


def refuse_masks(masks: Sequence[Path]) -> None:
    """Looks at the first masks of a folder whose masks are to be ids of classes.

    Args:
        masks (sequence of `Path`): their files; what cannot be decoded is passed over.

    Raises:
        ValueError: they cannot be ids of classes, with the tool that wrote them, where it can be known, and what to
            take in their place.
    """
    ids, colours = [], {}
    for mask in masks[:NUM_FIRST_MASKS]:
        _refuse_name(mask)
        picture = _decoded(mask)
        if picture is None:
            continue
        refuse_mask(str(mask))
        if picture.mode in ("RGB", "RGBA", "CMYK"):
            found = np.unique(read_colours(mask))
            if (found % GREYS).any():
                colours[mask] = set(found.tolist())
        elif picture.mode not in ("LA", "PA", "F"):
            ids.append(np.unique(np.asarray(picture)))
    if colours:
        _refuse_colours(colours)
    refuse_instances(ids)


def refuse_mask(mask: Any, name: str = "mask") -> None:
    """Looks at how a mask is stored.

    Args:
        mask (`str`, `bytes` or `dict`): a file's path, its content, or `{"bytes": ..., "path": ...}`; anything else is
            no file, and passed over.
        name (`str`, *optional*): what errors call it where there is no path.

    Raises:
        ValueError: it was compressed with loss, or its object is in the alpha channel.
    """
    if not isinstance(mask, (str, bytes, dict)):
        return
    picture = open_image(mask, name, max_value=65535)
    path = mask.get("path") if isinstance(mask, dict) else mask
    name = path if isinstance(path, str) and path else name
    if _is_lossy(picture, mask):
        raise ValueError(
            f"`{name}` must hold ids bit for bit, but is a lossy {picture.format}, in which ids blend at each edge; "
            "export the masks as PNG again, and do not convert these."
        )
    if picture.mode in ("RGBA", "LA", "PA") and _alpha_alone_differs(picture):
        raise ValueError(
            f"`{name}` must hold an id for each pixel, but only its alpha channel differs from pixel to pixel, so it "
            "is the cut-out of an object; export one mask per photo, grey, with an id for each class."
        )


def refuse_instances(masks: Sequence[np.ndarray]) -> None:
    """Looks at the ids of the first masks.

    Args:
        masks (sequence of `np.ndarray`): integer label maps of any shape.

    Raises:
        ValueError: each of them counts its own objects.
    """
    found = [np.setdiff1d(mask, [IGNORE_INDEX]) for mask in masks]
    found = [ids for ids in found if len(ids)]
    largest = [int(ids[-1]) for ids in found]
    is_counted = all(ids[0] in (0, 1) and ids[-1] - ids[0] == len(ids) - 1 for ids in found)
    if is_counted and len(set(largest)) > 1 and max(largest) >= MIN_INSTANCES:
        raise ValueError(
            "`masks` must hold the same id for a class in every photo, but the first ones hold all numbers up to "
            f"{', '.join(map(str, largest[:5]))}, as masks of instances do, which count the objects of each photo; "
            "export semantic masks."
        )


def _refuse_name(mask):
    """Raises where a file's name or folder tells that it holds no ids of classes."""
    if mask.stem == "label" and (mask.with_name("label_names.txt").exists() or mask.parent.name.endswith("_json")):
        raise ValueError(
            f"`{mask}` must have the same ids in every photo, but labelme_export_json numbers the classes of each "
            "photo anew in its label.png; pass the folder of labelme's own JSON files as `--dataset`."
        )
    if mask.name.endswith(INSTANCE_ENDINGS) or mask.parent.name in INSTANCE_FOLDERS:
        raise ValueError(
            f"`{mask}` must hold ids of classes, but by its name it numbers objects; take the masks of classes "
            "(SegmentationClass, semantic, *_labelIds.png) that the same tool writes besides."
        )


def _refuse_colours(colours):
    """Raises for masks that hold colours: file → what it has, red · 65,536 + green · 256 + blue."""
    mask = next(iter(colours))
    counts = Counter(itertools.chain.from_iterable(colours.values()))
    shown = [f"#{colour:06x}" for colour in sorted(counts)]
    table = f'`--label_table FILE`, as in {{"{shown[-1]}": "sky", "#000000": null}}'
    num_shared = sum(count > 1 for colour, count in counts.items() if colour)
    if len(colours) > 1 and 10 * num_shared < len(counts):  # colours of classes come again in other photos
        raise ValueError(
            f"`{mask}` must hold one class id for each pixel, but every mask here has colours of its own, as panoptic "
            f"and instance masks do; export semantic masks, or if these are, say what each colour means with {table}."
        )
    raise ValueError(
        f"`{mask}` must hold one class id for each pixel, but holds colours ({', '.join(shown[:5])}"
        f"{', …' * (len(shown) > 5)}); say what each means with {table}."
    )


def _decoded(mask):
    """The picture, or `None` where it is damaged, which whoever reads it tells."""
    try:
        picture = open_image(mask, max_value=65535)
        picture.load()
    except Exception:  # Pillow's decoders raise many kinds on damaged files
        return None
    return picture


def _is_lossy(picture, mask):
    """Whether a picture's file was compressed with loss: JPEG, WebP with a lossy chunk, or TIFF with JPEG in it."""
    if picture.format != "WEBP":
        return picture.format in ("JPEG", "MPO") or picture.info.get("compression") == "jpeg"
    content = mask["bytes"] if isinstance(mask, dict) and mask.get("bytes") is not None else mask
    if not isinstance(content, bytes):
        content = Path(content["path"] if isinstance(content, dict) else content).read_bytes()
    place = 12  # after RIFF, size, WEBP
    while place + 8 <= len(content):
        if content[place : place + 4] == b"VP8 ":
            return True
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return False


def _alpha_alone_differs(picture: Image.Image):
    *bands, alpha = (picture.convert("RGBA") if picture.mode == "PA" else picture).split()
    lowest, highest = alpha.getextrema()
    return lowest != highest and all(low == high for low, high in (band.getextrema() for band in bands))
