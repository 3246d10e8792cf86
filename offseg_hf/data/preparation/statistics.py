"""What the label maps of a data set hold, counted one after another: pixels, photos and objects of each class."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from offseg_hf.models.image_processing_offseg import IGNORE_INDEX

EIGHT_NEIGHBOURS: np.ndarray = np.ones((3, 3), bool)  # pixels that touch at a corner are one object


@dataclass
class LabelStatistics:
    """Counts over label maps; those of several processes merge into one.

    Args:
        num_photos (`int`): number of label maps.
        num_pixels (`int`): number of their pixels.
        num_unlabelled (`int`): number of those that have no class.
        num_hidden (`int`, *optional*): number of pixels where a shape lies over one of another class; `None` where it
            is not known.
        pixels, photos, objects (`Counter`): class id → number of pixels, of photos with the class, and of objects.
        smallest (`dict[int, tuple[int, str]]`): class id → number of pixels of its smallest object, and the photo.
    """

    num_photos: int = 0
    num_pixels: int = 0
    num_unlabelled: int = 0
    num_hidden: int | None = None
    pixels: Counter[int] = field(default_factory=Counter)
    photos: Counter[int] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)
    smallest: dict[int, tuple[int, str]] = field(default_factory=dict)

    def add(
        self,
        ids: np.ndarray,
        name: str,
        *,
        num_objects: Mapping[int, int] | None = None,
        num_hidden: int | None = None,
    ) -> None:
        """Counts a label map.

        Args:
            ids (`np.ndarray`): class ids, unsigned integers of shape (height, width); 255 for what is not labelled.
            name (`str`): the photo's.
            num_objects (`dict[int, int]`, *optional*): class id → number of its shapes; by default its connected
                parts are counted.
            num_hidden (`int`, *optional*): number of pixels where a shape lies over one of another class.
        """
        self.num_photos += 1
        self.num_pixels += ids.size
        self.num_hidden = _sum(self.num_hidden, num_hidden)
        for class_id, sizes in _object_sizes(ids).items():
            if class_id == IGNORE_INDEX:
                self.num_unlabelled += int(sizes.sum())
                continue
            self.pixels[class_id] += int(sizes.sum())
            self.photos[class_id] += 1
            if num_objects is None:
                self.objects[class_id] += len(sizes)
            self._keep_smaller(class_id, (int(sizes.min()), name))
        self.objects.update(num_objects or {})

    def merge(self, other: "LabelStatistics") -> None:
        """Adds what was counted elsewhere, of other photos."""
        self.num_photos += other.num_photos
        self.num_pixels += other.num_pixels
        self.num_unlabelled += other.num_unlabelled
        self.num_hidden = _sum(self.num_hidden, other.num_hidden)
        self.pixels.update(other.pixels)
        self.photos.update(other.photos)
        self.objects.update(other.objects)
        for class_id, found in other.smallest.items():
            self._keep_smaller(class_id, found)

    def record(self, id2label: dict[int, str]) -> dict[str, Any]:
        """What was counted, for a JSON file.

        Args:
            id2label (`dict[int, str]`): names of the classes by class id.

        Returns:
            `dict`: `num_photos`; `unlabelled` and `hidden`, shares of all pixels, the latter `None` where it is not
            known; `classes`, name → `pixels` (share of all), `photos`, `objects`, `smallest_object` in pixels and the
            photo it is `in`, `None` both where the class does not occur.
        """
        classes = {}
        for class_id, label in sorted(id2label.items()):
            size, name = self.smallest.get(class_id, (None, None))
            classes[label] = {
                "pixels": self.share(self.pixels[class_id]),
                "photos": self.photos[class_id],
                "objects": self.objects[class_id],
                "smallest_object": size,
                "in": name,
            }
        return {
            "num_photos": self.num_photos,
            "unlabelled": self.share(self.num_unlabelled),
            "hidden": None if self.num_hidden is None else self.share(self.num_hidden),
            "classes": classes,
        }

    def share(self, num_pixels: int) -> float:
        """A number of pixels as a share of all, rounded to six digits."""
        return round(num_pixels / max(self.num_pixels, 1), 6)

    def _keep_smaller(self, class_id, found):
        """Keeps the smaller object, of equal ones that of the first name."""
        self.smallest[class_id] = min(found, self.smallest.get(class_id, found))


def class_counts(ids: np.ndarray, num_labels: int) -> np.ndarray:
    """The number of pixels of each class.

    Args:
        ids (`np.ndarray`): class ids, unsigned integers of any shape; 255 for what is not labelled.
        num_labels (`int`): number of classes K.

    Returns:
        `np.ndarray`: uint32 of shape (K,).
    """
    counts = np.bincount(ids.ravel(), minlength=max(num_labels, IGNORE_INDEX + 1))
    counts[IGNORE_INDEX] = 0
    return counts[:num_labels].astype(np.uint32)


def _object_sizes(ids):
    """Class id, 255 included → numbers of pixels of its connected parts; of 255, of all its pixels."""
    sizes = {}
    for class_id, box in enumerate(ndimage.find_objects(ids.astype(np.int32) + 1)):
        if box is None:
            continue
        is_class = ids[box] == class_id  # only where the class is: it saves most of the time
        if class_id == IGNORE_INDEX:
            sizes[class_id] = np.array([np.count_nonzero(is_class)])
            continue
        parts, _ = ndimage.label(is_class, EIGHT_NEIGHBOURS)
        sizes[class_id] = np.bincount(parts.ravel())[1:]
    return sizes


def _sum(first, second):
    """The sum of two counts, either of which may not be known."""
    return second if first is None else first + (second or 0)
