"""Random pictures and masks, and files of them, for the tests of what reads them."""

import io

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def random_pixels(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def random_ids(height, width, num_labels=256, dtype=np.uint8):
    return np.random.default_rng(1).integers(0, num_labels, (height, width), dtype=dtype)


def encoded(image, image_format="PNG", orientation=None):
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    image.save(buffer, image_format, exif=exif)
    return buffer.getvalue()
