"""The training augmentation of the benchmarks: resize, crop, flip, colours; from a PIL photo and its label map."""

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops

from offseg_hf.data.augmentation_settings import AugmentationSettings
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX, size_within_edges

MAX_REDRAWS = 10  # of a crop that one class fills


@dataclass
class TrainTransform(AugmentationSettings):
    """Random resize, crop, flip and photometric distortion of a photo and its label map.

    All random numbers come from torch's generator, so workers differ and a seeded run can be repeated.

    Args:
        crop_size, resize, scale_range and so on: see
            [`~offseg_hf.data.augmentation_settings.AugmentationSettings`].
        ignore_index (`int`): class id of unlabelled pixels.

    Raises:
        ValueError: a number is out of its range.
    """

    ignore_index: int = IGNORE_INDEX

    def __call__(
        self, image: Image.Image, mask: np.ndarray, generator: torch.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One random view of a photo and its labels.

        Args:
            image (`PIL.Image.Image`): RGB photo.
            mask (`np.ndarray`): (H, W) class ids of any integer type, of the photo's size.
            generator (`torch.Generator`, *optional*): source of the random numbers; torch's global one by default.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: the photo, (h, w, 3) uint8, and its labels, (h, w) of the mask's dtype; h
            and w are those of `crop_size`, or less where the resized photo is smaller, to be padded by
            [`~offseg_hf.data.PrepareExample`].
        """
        height, width = self._resized_size(image.height, image.width, generator)
        crop_height, crop_width = min(self.crop_size[0], height), min(self.crop_size[1], width)

        # Only what the crop shows is ever resized: the whole pixels of the photo that lie under it.
        for _ in range(1 + MAX_REDRAWS):
            top, bottom = _span(_integer(height - crop_height, generator), crop_height, height, image.height)
            left, right = _span(_integer(width - crop_width, generator), crop_width, width, image.width)
            rows = top + (2 * np.arange(crop_height) + 1) * (bottom - top) // (2 * crop_height)
            columns = left + (2 * np.arange(crop_width) + 1) * (right - left) // (2 * crop_width)
            labels = mask[rows].take(columns, axis=1)  # the nearest pixels
            if self._is_varied(labels):
                break
        image = image.crop((left, top, right, bottom))
        if _uniform(0, 1, generator) < self.flip_probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            labels = np.ascontiguousarray(labels[:, ::-1])
        # Colours are changed where that is fewer pixels: before an enlargement, or after a reduction.
        if not self.photometric_distortion:
            return _resized(image, crop_height, crop_width), labels
        if image.height * image.width < crop_height * crop_width:
            return _resized(self._distort(image, generator), crop_height, crop_width), labels
        pixels = _resized(image, crop_height, crop_width)
        return np.array(self._distort(Image.fromarray(pixels), generator)), labels

    def _resized_size(self, height, width, generator):
        """(height, width) after the random resize."""
        scale = _uniform(*self.scale_range, generator)
        return size_within_edges(height, width, int(max(self.resize) * scale), int(min(self.resize) * scale))

    def _is_varied(self, labels):
        """Whether no class holds more than its share of the labelled pixels."""
        if labels.dtype == np.uint8:
            ids, counts = (
                np.arange(256),
                np.array(Image.fromarray(labels).histogram()),
            )  # numpy's takes ten times as long
        else:
            ids, counts = np.unique(labels, return_counts=True)
        counts = counts[ids != self.ignore_index]
        return counts.sum() > 0 and counts.max() <= self.category_max_ratio * counts.sum()

    def _distort(self, image, generator):
        """Brightness, contrast, saturation and hue."""
        levels = np.arange(256)
        contrast_first = _coin(generator)
        shift = _uniform(-self.brightness, self.brightness, generator) if _coin(generator) else 0
        contrast = _uniform(*self.contrast, generator) if _coin(generator) else 1
        saturation = _uniform(*self.saturation, generator) if _coin(generator) else 1
        turn = _uniform(-self.hue, self.hue, generator) if _coin(generator) else 0

        table = _clip(levels + shift)
        table = _clip(table * contrast) if contrast_first else table
        if saturation == 1 and turn == 0 and not contrast_first:
            table = _clip(table * contrast)  # both in one
        image = _look_up(image, table)
        if saturation != 1:
            image = _saturate(image, saturation)
        if turn != 0:
            image = _turn_hue(image, turn)
        if not contrast_first and (saturation != 1 or turn != 0):
            image = _look_up(image, _clip(levels * contrast))
        return image


def _span(start, length, resized_side, side):
    """The pixels [first, end) of a side under `length` pixels from `start` of that side resized, at least one."""
    first = min(round(start * side / resized_side), side - 1)
    return first, max(first + 1, round((start + length) * side / resized_side))


def _resized(image, height, width):
    """An RGB photo at (height, width), (height, width, 3) uint8: PIL's bilinear filter, but faster."""
    pixels = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)  # (1, 3, H, W), channels last
    resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _look_up(image, table):
    """Every channel's values replaced by those of a table; half of the tables change nothing."""
    return image if np.array_equal(table, np.arange(256)) else image.point(table.tolist() * 3)


def _saturate(image, factor):
    """HSV's saturation times a factor, without the way to HSV and back: each channel's distance from the largest."""
    value = reduce(ImageChops.lighter, image.split())
    return Image.blend(Image.merge("RGB", (value, value, value)), image, factor)


def _turn_hue(image, degrees):
    """The colours turned about the axis of grey; within 2° of a turn of HSV's hue, at a tenth of its time."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)) / math.sqrt(3)
    rest = (1 - cosine) / 3
    own, next_one, one_after = cosine + rest, rest - sine, rest + sine
    rows = ((own, next_one, one_after), (one_after, own, next_one), (next_one, one_after, own))
    return image.convert("RGB", [weight for row in rows for weight in (*row, 0)])


def _clip(table):
    """A look-up table's values as grey levels."""
    return np.clip(np.round(table), 0, 255).astype(int)


def _uniform(low, high, generator):
    return low + (high - low) * torch.rand((), generator=generator).item()


def _integer(largest, generator):
    """0 … `largest`, the end included."""
    return torch.randint(largest + 1, (), generator=generator).item()


def _coin(generator):
    return _uniform(0, 1, generator) < 0.5
