"""What a tool's labels say, whatever its format: photos, and the shapes on each, the later over the earlier."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_PIXELS = 1 << 30  # of a photo, and how far from its corner a point may be


@dataclass(frozen=True, eq=False)
class Polygon:
    """An object that outlines describe.

    Args:
        label (`str`): name of its class, as the tool has it.
        outlines (`tuple[np.ndarray]`): its parts, each a polygon of shape (N, 2): x and y in pixels, from the top left
            corner of the picture.
        holes (`tuple[np.ndarray]`): polygons that are cut out of all parts; what lies below is seen there.
        fill (`str`): which pixels a polygon holds, a key of [`~offseg_hf.data.formats.rasterize.FILLS`].
    """

    label: str
    outlines: tuple[np.ndarray, ...]
    holes: tuple[np.ndarray, ...] = ()
    fill: str = "corners"


@dataclass(frozen=True, eq=False)
class Bitmap:
    """An object whose pixels are stored one by one, decoded when it is drawn.

    Args:
        label (`str`): name of its class, as the tool has it.
        data (`Any`): what the file has for its pixels.
        decode (`Callable`): function of a module that makes of `data` a boolean array of shape (h, w).
        left, top (`int`): the column and the row where the array's first pixel belongs; what sticks out of the picture
            is cut off.
    """

    label: str
    data: Any
    decode: Callable[[Any], np.ndarray]
    left: int = 0
    top: int = 0


@dataclass(frozen=True, eq=False)
class Pixels:
    """A whole label map that is stored as a picture.

    Args:
        path (`Path`): the file.
        labels (`dict`): what it stores → name of the class as the tool has it. The keys are either ids or colours,
            (red, green, blue) from 0 to 255. What is not among them is an error when the file is read.
        read (`Callable`, *optional*): function of a module that gives of the path an array (h, w) of ids, where a
            file is not read as usual.
    """

    path: Path
    labels: dict[Any, str]
    read: Callable[[Path], np.ndarray] | None = None


Shape = Polygon | Bitmap | Pixels


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """A photo and what is drawn on it.

    Args:
        photo (`Path`): its file.
        source (`str`): what errors call its labels: the file that holds them, and the picture's name where that file
            holds several, such as `"instances_val.json, a.jpg"`.
        shapes (`tuple`): [`Polygon`], [`Bitmap`] or [`Pixels`], those on top last.
        size (`tuple[int, int]`, *optional*): height and width in pixels of the picture that the shapes lie on, as the
            labels say; by default the photo's own, upright as its EXIF orientation asks.
        split (`str`): the split that it belongs to; `"train"` where the labels know of none.

    Raises:
        ValueError: the size is none, or an object has no name or no outline.
    """

    photo: Path
    source: str
    shapes: tuple[Shape, ...]
    size: tuple[int, int] | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        if self.size is not None and not _is_size(self.size):
            raise ValueError(
                f"`{self.source}` must have height and width of its photo in whole pixels, got {self.size}; correct "
                "them, or label the photo again."
            )
        for number, shape in enumerate(self.shapes, start=1):
            if not isinstance(shape, Pixels) and not (isinstance(shape.label, str) and shape.label.strip()):
                raise ValueError(
                    f"`{self.source}` must have a name for the class of each object, got {shape.label!r} for its "
                    f"object {number}; give it one in the tool."
                )
            if isinstance(shape, Polygon) and not all(map(is_outline, (*shape.outlines, *shape.holes))):
                raise ValueError(
                    f"`{self.source}` must have outlines of x and y in pixels, but its object {number}, "
                    f"{shape.label}, has no points, or some that are none or far beyond the photo; draw it again."
                )


def _is_size(size):
    return all(type(number) is int and number > 0 for number in size) and math.prod(size) <= MAX_PIXELS


def is_outline(points: np.ndarray) -> bool:
    """Whether points may be on a photo.

    Args:
        points (`np.ndarray`): what a file has for x and y, in pixels.

    Returns:
        `bool`: there are some, all are pairs of numbers, and none is so far away that it must be a mistake.
    """
    is_list = points.ndim == 2 and points.shape[1] == 2 and len(points) > 0
    return is_list and bool((np.abs(points) < MAX_PIXELS).all())  # NaN is less than nothing


@dataclass(frozen=True, eq=False)
class Labels:
    """All that a tool's files say.

    Args:
        names (`tuple[str]`): names of the classes in the tool's order; sorted where it keeps no list of them.
        photos (`tuple[LabelledPhoto]`): the photos, in any order; they are kept sorted by path.
        is_complete (`bool`): whether `names` is the tool's own list of classes; if not, it is what occurs, and another
            part of the same work may have others.
        unlabelled (`str`, *optional*): name among `names` of what is not labelled, where the format itself says which;
            by default it is known by its name, see [`~offseg_hf.data.formats.classes.UNLABELLED`].
        notes (`tuple[str]`): what the person should know of how the files were understood, a sentence each.

    Raises:
        ValueError: a photo is labelled twice.
    """

    names: tuple[str, ...]
    photos: tuple[LabelledPhoto, ...]
    is_complete: bool = True
    unlabelled: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        by_photo: dict[Path, LabelledPhoto] = {}
        for one in self.photos:
            if (other := by_photo.setdefault(one.photo.resolve(), one)) is not one:
                if other.split != one.split and other.source == one.source:
                    raise ValueError(
                        f"`{one.source}` must be in one split, and is listed in {other.split} and in {one.split}; "
                        "remove it from one of the two lists."
                    )
                raise ValueError(
                    f"`{one.source}` must be the only labels of {one.photo}, but `{other.source}` are too; remove "
                    "one of the two, pass the one file that counts as `--dataset`, or put photos of one name into "
                    "folders of their own, as their labels have them."
                )
        object.__setattr__(self, "photos", tuple(sorted(self.photos, key=lambda one: one.photo)))
