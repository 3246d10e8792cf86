"""Pictures of the Space: photos are read within limits; label maps and heat maps are drawn."""

import base64
import io
import os

import numpy as np
from package_copies import read_image
from PIL import Image

MAX_BYTES = 20 * 1024**2
MAX_PIXELS = 50_000_000
MIN_SIDE = 32
MAX_RATIO = 8
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF")

# Pillow's own limit, for other code that opens an uploaded file; `read_photo` checks before anything is decoded.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

HEAT = np.array([(13, 8, 60), (91, 22, 130), (176, 42, 120), (236, 100, 78), (252, 176, 68), (250, 250, 200)])


class PhotoError(ValueError):
    """A photo that the Space does not accept; the message is shown to the person who sent it."""


def read_photo(path):
    """The photo in RGB, upright as its EXIF orientation asks.

    Args:
        path (`str` or `Path`): an uploaded file, of any content.

    Returns:
        `PIL.Image.Image`: mode RGB; of an animation the first picture.

    Raises:
        PhotoError: where it is no picture, or too large, too small or too narrow, all of which is found before the
            pixels are decoded; or where they cannot be decoded.
    """
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise PhotoError(
            f"Photos may have up to {MAX_BYTES // 1024**2} MB, this file has {size / 1024**2:.0f} MB: save it smaller."
        )
    try:
        photo = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        raise PhotoError(f"Photos may have up to {MAX_PIXELS / 1e6:.0f} megapixels: scale this one down.") from None
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        raise PhotoError("This file is no picture that can be read here: send a JPEG, PNG or WebP file.") from error
    width, height = photo.size
    if width * height > MAX_PIXELS:
        raise PhotoError(
            f"Photos may have up to {MAX_PIXELS / 1e6:.0f} megapixels, this one has {width * height / 1e6:.0f}: "
            "scale it down."
        )
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_RATIO * min(width, height):
        raise PhotoError(
            f"Photos must be at least {MIN_SIDE} pixels high and wide, and at most {MAX_RATIO} times as long as wide, "
            f"this one is {width} × {height}: send another one."
        )
    try:
        return read_image(photo)
    except Exception as error:  # Pillow's decoders, too, raise many kinds on damaged files
        raise PhotoError(
            "This picture is damaged and cannot be read to its end, or its values are no colours: save it as a JPEG "
            "or PNG file, and send that."
        ) from error


def fitted_size(size, longest):
    """The (width, height) of a picture scaled down, if need be, so that its longer side has at most `longest`."""
    scale = min(1, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def label_picture(labels, colours):
    """The label map as a picture whose pixel values are the class ids.

    Args:
        labels (`np.ndarray`): class ids of shape (height, width), `uint8` or `uint16`.
        colours (`np.ndarray`): `uint8` of shape (K, 3).

    Returns:
        `PIL.Image.Image`: for up to 256 classes in palette mode, so that viewers show the classes' colours; else
        16-bit grey.
    """
    picture = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        picture.putpalette(colours[:256].tobytes())  # makes the mode "P" of "L"; the values stay
    return picture


def heat_map(values, photo):
    """Numbers as colours on a grey photo, from dark (the lowest) to bright (the highest).

    Args:
        values (`np.ndarray`): of shape (h, w), at any resolution.
        photo (`PIL.Image.Image`): of any mode; the result has its size.

    Returns:
        `PIL.Image.Image`: in RGB.
    """
    low, high = values.min(), values.max()
    values = (values - low) / max(high - low, 1e-12)
    values = Image.fromarray(values.astype(np.float32)).resize(photo.size, Image.Resampling.BILINEAR)
    anchors = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(np.asarray(values), anchors, channel) for channel in HEAT.T], axis=-1)  # (H, W, 3)
    return Image.blend(photo.convert("L").convert("RGB"), Image.fromarray(colours.astype(np.uint8)), 0.8)


def data_uri(picture, image_format):
    """The picture as a URI that a page shows without another request."""
    file = io.BytesIO()
    picture.save(file, image_format)
    return f"data:image/{image_format};base64,{base64.b64encode(file.getvalue()).decode()}"


def percent(share):
    """A share from 0 to 1 as a percentage with one decimal: `"12.3 %"`, and `"<0.1 %"` for the smallest."""
    return "<0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
