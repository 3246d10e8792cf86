"""The pixels of each class in a label map, and their runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class ClassMask:
    """Where a class is.

    Args:
        class_id (`int`): its number.
        label (`str`): its name.
        inside (`np.ndarray`): boolean, of the label map's shape (height, width).
        left, top, width, height (`int`): the smallest box round it, in pixels.
    """

    class_id: int
    label: str
    inside: np.ndarray
    left: int
    top: int
    width: int
    height: int

    @property
    def cropped(self) -> np.ndarray:
        """`np.ndarray`: the pixels of the box, boolean of shape (height, width)."""
        return self.inside[self.top : self.top + self.height, self.left : self.left + self.width]


def class_masks(label_map: np.ndarray, id2label: Mapping[int, str]) -> Iterator[ClassMask]:
    """The classes that a label map has, by their numbers.

    Args:
        label_map (`np.ndarray`): class ids of shape (height, width).
        id2label (`dict[int, str]`): names by class id; pixels of other ids, such as 255, belong to no class.

    Yields:
        [`ClassMask`]
    """
    for class_id in np.unique(label_map).tolist():
        if class_id in id2label:
            inside = label_map == class_id
            rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
            yield ClassMask(class_id, id2label[class_id], inside, left, top, right - left + 1, bottom - top + 1)


def run_lengths(pixels: np.ndarray) -> list[int]:
    """How many pixels are outside, then inside, then outside, …

    Args:
        pixels (`np.ndarray`): boolean, of shape (N,), N at least 1.

    Returns:
        `list[int]`: the first is 0 where the first pixel is inside; their sum is N.
    """
    changes: np.ndarray = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    lengths: list[int] = np.diff(changes, prepend=0, append=len(pixels)).tolist()
    return [0, *lengths] if pixels[0] else lengths
