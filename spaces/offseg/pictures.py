"""Pictures of the Space: photos read within limits, label maps and heat maps made visible."""

import base64
import io
import os

import numpy as np
from PIL import Image, ImageOps

MAX_BYTES = 20 * 1024**2
MAX_PIXELS = 50_000_000
MIN_SIDE = 32
MAX_RATIO = 8
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF")

# Pillow's own guard, for whatever else opens an uploaded file; `read_photo` refuses before anything is decoded.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

HEAT = np.array([(13, 8, 60), (91, 22, 130), (176, 42, 120), (236, 100, 78), (252, 176, 68), (250, 250, 200)])


class PhotoError(ValueError):
    """A photo that the Space does not take; the message is for the person who sent it."""


def read_photo(path):
    """The photo in RGB, upright as its EXIF orientation asks.

    Args:
        path (`str` or `Path`): an uploaded file, of any content.

    Returns:
        `PIL.Image.Image`: mode RGB; of an animation the first picture.

    Raises:
        PhotoError: where it is no picture, or too large, too small or too narrow; nothing is decoded in these cases.
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
        photo = ImageOps.exif_transpose(photo)
        if photo.mode.startswith("I;16"):  # Pillow would clip these values at 255, not scale them
            photo = Image.fromarray((np.asarray(photo) // 257).astype(np.uint8))
        if photo.mode == "P":
            photo = photo.convert("RGBA")  # the way to RGB on which transparency costs no colour
        return photo.convert("RGB")
    except Exception as error:  # Pillow's decoders, too, raise many kinds on damaged files
        raise PhotoError("This picture is damaged and cannot be read to its end: send it again.") from error


def fitted_size(size, longest):
    """The (width, height) of a picture scaled down, if need be, so that its longer side has at most `longest`."""
    scale = min(1, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def palette(num_colours):
    """A colour for each class, each as far as possible from all before it in the perceptual colour space Oklab.

    The same colours as `offseg_hf.pictures.overlays.default_palette`, which says more about them.

    Args:
        num_colours (`int`): at least 1.

    Returns:
        `np.ndarray`: `uint8` of shape (num_colours, 3); they repeat after some 3,500.
    """
    levels = np.arange(7, 256, 16)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)  # (4096, 3)
    candidates = candidates[_oklab(candidates)[:, 0] > 0.35]  # darker ones look alike on a photo
    points = _oklab(candidates)
    taken = _oklab(np.array([(26, 26, 30), (255, 255, 255)]))  # dark and white are no class's colour
    distance = np.linalg.norm(points[:, None] - taken, axis=-1).min(axis=1)
    chosen = []
    for _ in range(min(num_colours, len(candidates))):
        chosen.append(distance.argmax())
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=-1))
    return np.resize(candidates[chosen], (num_colours, 3)).astype(np.uint8)


def _oklab(colours):
    """sRGB colours (N, 3) from 0 to 255 in Oklab (https://bottosson.github.io/posts/oklab)."""
    rgb = colours / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = linear @ [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
    return np.cbrt(cones) @ [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]


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


def overlay(photo, labels, colours, opacity):
    """The photo, tinted in the colours of its classes.

    Args:
        photo (`PIL.Image.Image`): in RGB.
        labels (`np.ndarray`): class ids of shape (height, width), the photo's size.
        colours (`np.ndarray`): `uint8` of shape (K, 3).
        opacity (`float`): from 0, the photo alone, to 1, the colours alone.

    Returns:
        `PIL.Image.Image`: in RGB.
    """
    return Image.blend(photo, Image.fromarray(colours[labels]), opacity)


def heat_map(values, photo):
    """Numbers on a grey photo, from dark (the lowest) to bright (the highest).

    Args:
        values (`np.ndarray`): of shape (h, w), at any resolution.
        photo (`PIL.Image.Image`): in the size of the result.

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
    """A share of 1 as people read it."""
    return "<0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
