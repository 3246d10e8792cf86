"""What the training augmentation does, and the defaults that the options of a training have too.

Nothing is imported here that takes long to load, so that the command's help comes at once.
"""

from dataclasses import dataclass
from typing import Any

from offseg_hf.data.ranges import Range, check_ranges

# Photos of less than a twentieth, or more than twenty times their size, show nothing.
AUGMENTATION_RANGES = {
    "crop_size": Range(1, 65_535, is_whole=True),
    "resize": Range(1, 65_535, is_whole=True),
    "scale_range": Range(0.05, 20),
    "category_max_ratio": Range(0, 1),
    "flip_probability": Range(0, 1),
    "brightness": Range(0, 255),
    "contrast": Range(0, 100),
    "saturation": Range(0, 100),
    "hue": Range(0, 180),
}
AUGMENTATION_LENGTHS = dict.fromkeys(("crop_size", "resize", "scale_range", "contrast", "saturation"), 2)


@dataclass
class AugmentationSettings:
    """Ranges and probabilities of a random resize, crop, flip and photometric distortion.

    The defaults are the ADE20K recipe of the paper (its settings are those of mmsegmentation's SegFormer configs).

    Args:
        crop_size (`tuple[int, int]`): largest (height, width) of the result, in pixels.
        resize (`tuple[int, int]`): the photo is scaled, its ratio kept (in a crop, to a pixel), until its long side
            reaches the larger or its short side the smaller of these two numbers, whichever comes first.
        scale_range (`tuple[float, float]`): both numbers of `resize` are multiplied by one draw from this range.
        category_max_ratio (`float`): a crop of whose labelled pixels one class holds more than this share is drawn
            again, up to 10 times. 1 accepts every crop that has a label.
        flip_probability (`float`): probability of a horizontal flip.
        photometric_distortion (`bool`): whether to change brightness, contrast, saturation and hue, each with a
            probability of ½, the contrast before or after saturation and hue at random.
        brightness (`float`): largest shift, in grey levels of 255.
        contrast (`tuple[float, float]`): range of the factor on the colours.
        saturation (`tuple[float, float]`): range of the factor on the saturation.
        hue (`float`): largest rotation of the hue, in degrees.

    Raises:
        ValueError: a number is out of its range.
    """

    crop_size: tuple = (512, 512)
    resize: tuple = (2048, 512)
    scale_range: tuple = (0.5, 2.0)
    category_max_ratio: float = 0.75
    flip_probability: float = 0.5
    photometric_distortion: bool = True
    brightness: float = 32.0
    contrast: tuple = (0.5, 1.5)
    saturation: tuple = (0.5, 1.5)
    hue: float = 18.0

    def __post_init__(self) -> None:
        check_augmentation(self)


def check_augmentation(settings: Any) -> None:
    """Checks what a dataclass has of the fields of [`AugmentationSettings`].

    Args:
        settings: an instance of the dataclass.

    Raises:
        ValueError: a number is out of its range.
    """
    check_ranges(settings, AUGMENTATION_RANGES, AUGMENTATION_LENGTHS)
    for name in ("scale_range", "contrast", "saturation"):
        low, high = getattr(settings, name)
        if low > high:
            raise ValueError(f"`{name}` must be a range, the smaller number first, got {low} {high}; turn it round.")
