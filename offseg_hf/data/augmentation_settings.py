"""What the training augmentation does, and the defaults that the options of a training have too.

Nothing is imported here that takes long to load, so that the command's help comes at once.
"""

from dataclasses import dataclass


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
        for name in ("crop_size", "resize"):
            value = getattr(self, name)
            if len(value) != 2 or min(value) < 1:
                raise ValueError(f"`{name}` must be two positive numbers of pixels, got {value}.")
        for name in ("scale_range", "contrast", "saturation"):
            low, high = getattr(self, name)
            if not 0 <= low <= high or (name == "scale_range" and low == 0):
                raise ValueError(f"`{name}` must be a positive range (low, high), got {(low, high)}.")
        for name in ("category_max_ratio", "flip_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie between 0 and 1, got {getattr(self, name)}.")
