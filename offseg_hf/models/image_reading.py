"""Reading photos and masks from files, bytes, pictures and arrays: what the stored numbers mean is decided here.

Training, evaluation and prediction read by these functions alone.
"""

import io
import os
import re
import sys
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps

ImageSource: TypeAlias = str | os.PathLike | bytes | dict | Image.Image | np.ndarray | torch.Tensor  # see `open_image`
EXIF_ORIENTATION = 0x0112
# How a mask follows a photo whose EXIF orientation swaps height and width; orientations 1 to 4 keep the size.
QUARTER_TURNS = {5: np.transpose, 6: lambda ids: np.rot90(ids, -1), 7: lambda ids: np.rot90(ids, 2).T, 8: np.rot90}
# Formats and compressions of TIFF that change ids a little, at least unless asked not to.
LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF")
LOSSY_COMPRESSIONS = ("jpeg", "tiff_jpeg", "webp")
# What Pillow multiplies grey values of fewer than 8 bits by, by the name that it has for how they are stored.
GREY_FACTORS = {"L;2": 85, "L;4": 17}
# 16-bit colours, of which Pillow gives the upper 8 bits; and the name that makes it give the lower ones.
LOWER_BITS = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("L", "B"), ("B", "L"), ("N", "B" if sys.byteorder == "little" else "L"))
}
WHITES = (255, 1023, 4095)  # of 8, 10 and 12 bits, which files of 16 bits often hold


def open_image(
    source: ImageSource, name: str | None = None, input_data_format: str | None = None, max_value: int | None = None
) -> Image.Image:
    """The picture as it is stored: in its own mode, not turned upright, a file's pixels not decoded yet.

    Hand the result to both `read_image` and `read_mask(photo=...)`, and the photo is decoded once for the two. Only
    colours of 16 bits, for which Pillow has no mode, are decoded at once and scaled to 8 bits.

    Args:
        source (`str`, `os.PathLike`, `bytes`, `dict`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            A file's path, its content, `{"bytes": ..., "path": ...}` as undecoded `datasets` columns hold it, a
            picture, or an array (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels (the fourth is dropped) of
            integers in [0, 255], `uint16` in [0, 65535], floats in [0, 1], or booleans.
        name (`str`, *optional*): What errors call it, such as `images[3]`; a known path is added.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, for arrays. By default the
            first axis holds the channels if its length is 1, 3 or 4, as in transformers.
        max_value (`int`, *optional*): See `read_image`.

    Returns:
        `PIL.Image.Image`: the picture; an array gives a grey or RGB one.

    Raises:
        FileNotFoundError, ValueError, TypeError: There is no such file; it is empty or no image, or the array's shape
            or values are none of the above; `source` is nothing of the above.
    """
    label = _label(source, name)
    opened, exif = _open(source, label, input_data_format), None
    if isinstance(opened, Image.Image):
        if _stored_as(opened) not in LOWER_BITS:
            return opened
        opened, exif = _sixteen_bit_colours(opened, label)
    pixels = _as_uint8(opened, label, max_value)
    image = Image.fromarray(np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[..., :3]))
    if exif:
        image.info["exif"] = exif.tobytes()
    return image


def limit_pixels(max_pixels: int) -> None:
    """Has Pillow, in this process and those forked from it, refuse pictures of more pixels than these.

    Args:
        max_pixels (`int`): at least 1; Pillow's own limit is 178,956,970.

    Raises:
        ValueError: It is less than 1.
    """
    if max_pixels < 1:
        raise ValueError(f"`max_pixels` must be at least 1, got {max_pixels}; pass the pixels of the largest photo.")
    Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)  # Pillow refuses above twice this number, and warns before


def read_image(source: ImageSource, name: str | None = None, max_value: int | None = None) -> Image.Image:
    """The photo in RGB, upright as its EXIF orientation asks.

    Transparency is dropped and the colour under it kept, as transformers' own image loading does; 16-bit values are
    scaled to 8 bits; of an animation the first picture is taken.

    Args:
        source: Anything that `open_image` takes.
        name (`str`, *optional*): What errors call it, such as `images[3]`; a known path is added.
        max_value (`int`, *optional*): The value of white in photos of more than 8 bits, up to 65535: 4095 where
            cameras give 12 bits. By default 65535, and photos of which no value is above 4095 are refused, since
            they would turn black if they are of 8 to 12 bits.

    Returns:
        `PIL.Image.Image`: mode RGB. `source` itself if it is an upright RGB picture already.

    Raises:
        FileNotFoundError, ValueError, TypeError: As `open_image`, and ValueError if the file is truncated, or its
            values are above `max_value` or seem to be of fewer bits than they are stored in.
    """
    opened = open_image(source, name, max_value=max_value)
    image = _upright(opened, label := _label(source, name))
    if image.mode[0] in "IF":  # "I;16", "I" or "F": Pillow would clip these at 255, not scale them
        pixels = np.asarray(image)
        if image.mode == "I" and opened.format == "PPM":  # Pillow has no 16-bit mode for these files
            pixels = pixels.astype(np.uint16)
        image = Image.fromarray(_as_uint8(pixels, label, max_value))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the way to RGB on which Pillow does not warn
    return image if image.mode == "RGB" else image.convert("RGB")


def read_mask(source: ImageSource, photo: ImageSource | None = None, name: str | None = None) -> np.ndarray:
    """The class id of every pixel, upright, with the ids exactly as stored.

    A palette file gives its indices, a 16-bit one its 16-bit ids, an RGB one its ids if the three channels are equal.

    Args:
        source: Anything that `open_image` takes; arrays hold ids of any integer type.
        photo (*optional*): The photo the mask belongs to, as stored: anything that `open_image` takes. The two sizes
            must agree. If the photo carries an EXIF orientation, a mask of the stored photo's size is turned with the
            photo, and one of the upright photo's size stays (so it does where the two sizes are the same).
        name (`str`, *optional*): What errors call it, such as `segmentation_maps[3]`; a known path is added.

    Returns:
        `np.ndarray` of shape (H, W): ids in the integer type they were stored in, a new array.

    Raises:
        FileNotFoundError, ValueError, TypeError: As `read_image`, and ValueError if the mask holds colours, floats or
            ids beyond 32 bits, if its format does not keep them exactly, or if its size is not its photo's.
    """
    label = _label(source, name)
    opened = _open(source, label)
    ids = _stored_ids(opened, label) if isinstance(opened, Image.Image) else np.array(opened)
    if ids.ndim == 3:
        if (ids[..., :1] != ids[..., 1:3]).any():
            raise ValueError(
                f"`{label}` must hold one class id for each pixel, but holds colours; map each colour to its class id "
                "and save the ids as an 8-bit grey or palette PNG."
            )
        ids = np.ascontiguousarray(ids[..., 0])  # (H, W, 3) -> (H, W)
    ids = ids.astype(np.uint8) if ids.dtype == bool else ids
    if ids.dtype.kind not in "iu":
        raise ValueError(f"`{label}` must hold integer class ids, but holds {ids.dtype}; convert it to uint8.")
    if ids.dtype.itemsize > 4 or ids.dtype == np.uint32:  # others would wrap around, or vanish, on their way
        low, high = int(ids.min()), int(ids.max())
        if low < -(2**31) or high >= 2**31:
            raise ValueError(
                f"`{label}` must hold class ids that fit into 32 bits, but holds {ids.dtype} from {low} to {high}; "
                "renumber them."
            )
    if photo is None:
        return ids

    photo = _open(photo, _label(photo, "photo"))
    if isinstance(photo, Image.Image):
        if photo.format == "TIFF":  # Pillow turns this one format upright itself, at decoding, and forgets that it did
            _decoded(photo, _label(photo, "photo"))
        height, width = photo.height, photo.width
        turn = QUARTER_TURNS.get(photo.getexif().get(EXIF_ORIENTATION))
    else:
        (height, width), turn = photo.shape[:2], None
    if turn is not None:
        if ids.shape == (height, width) and height != width:
            ids = np.ascontiguousarray(turn(ids))
        height, width = width, height
    if ids.shape != (height, width):
        raise ValueError(
            f"`{label}` must have the size of its image, {height} x {width} pixels (height x width), but has "
            f"{ids.shape[0]} x {ids.shape[1]}; pair each image with its own mask."
        )
    return ids


def _open(source, label, input_data_format=None):
    """The picture as it is stored, its pixels not decoded yet; of an array, (H, W) or (H, W, C)."""
    if isinstance(source, dict):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return _channels_last(_as_numpy(source), label, input_data_format)
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, (str, os.PathLike)):
        if not os.path.isfile(source):
            raise FileNotFoundError(f"`{label}` must be an image file, but there is no such file; check the path.")
        with open(source, "rb") as file:
            source = file.read()
    if not isinstance(source, bytes):
        raise TypeError(
            f"`{label}` must be a path, bytes, a PIL image or an array, but is a {type(source).__name__}; convert it."
        )
    try:
        return Image.open(io.BytesIO(source))
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"`{label}` must have at most {2 * Image.MAX_IMAGE_PIXELS:,} pixels, so that no small file fills the "
            f"memory, but: {error}; raise the limit with `--max_pixels`, in Python with `PIL.Image.MAX_IMAGE_PIXELS`."
        ) from error
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        found = f"raises {type(error).__name__} on it (it starts with {source[:8]!r})" if source else "finds it empty"
        raise ValueError(
            f"`{label}` must be an image file, but Pillow {found}; replace it or leave it out."
        ) from error


def _stored_as(image):
    """Pillow's name for how the pixels of a file are stored, such as "RGB;16B"; empty once they are decoded."""
    if not getattr(image, "tile", None):
        return ""
    arguments = image.tile[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _sixteen_bit_colours(image, label):
    """The uint16 values (H, W, C) of a file of 16-bit colours, and its EXIF entries."""
    position = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(position)
    halves = []
    for names in ({}, LOWER_BITS):
        half = Image.open(io.BytesIO(content))
        arguments = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in half.tile]
        arguments = [(names.get(first, first), *rest) for first, *rest in arguments]
        half.tile = [(*tile[:3], each if len(each) > 1 else each[0]) for tile, each in zip(half.tile, arguments)]
        halves.append(np.asarray(_decoded(half, label)).astype(np.uint16))
    return halves[0] * 256 + halves[1], half.getexif()


def _stored_ids(image, label):
    """The numbers in a mask's file, (H, W) or (H, W, C), upright."""
    is_lossy = image.format in LOSSY_FORMATS or image.info.get("compression") in LOSSY_COMPRESSIONS
    if image.format == "WEBP":  # the one format whose files may be either; those that are decoded do not tell
        content = b""
        if image.fp is not None:
            image.fp.seek(0)
            content = image.fp.read()
        is_lossy = (re.search(rb"VP8[ L]", content) or [b"VP8 "])[0] == b"VP8 "
    if is_lossy:
        raise ValueError(
            f"`{label}` must keep each class id as it was drawn, but is a lossy {image.format} file, which changes "
            "ids along edges; save the masks as PNG where they were drawn (a converted file keeps the wrong ids)."
        )
    stored_as = _stored_as(image)
    if stored_as in LOWER_BITS:
        return _sixteen_bit_colours(image, label)[0]
    codec, _, _, arguments = image.tile[0] if stored_as else ("", None, 0, "")
    exact = 65535 if image.mode == "I" else 255
    is_scaled = codec in ("ppm", "ppm_plain") and isinstance(arguments, tuple) and arguments[-1] != exact
    if is_scaled or (";16" in stored_as and image.mode[0] != "I"):
        raise ValueError(
            f"`{label}` must hold ids that Pillow gives as they are stored, but it scales those of {image.format} "
            f"files stored as {arguments}; save the mask as an 8-bit or 16-bit grey PNG."
        )
    mask = _upright(image, label)
    mask = mask.convert("RGB") if mask.mode == "CMYK" else mask
    ids = np.array(mask.getchannel(0) if mask.mode in ("LA", "PA") else mask)
    return ids // GREY_FACTORS[stored_as] if stored_as in GREY_FACTORS else ids


def _label(source, name):
    """What errors call `source`: the name given, the file it comes from, or both."""
    if isinstance(source, dict):
        source = source.get("path")
    path = getattr(source, "filename", "") if isinstance(source, Image.Image) else source
    path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
    return name if name and path in name else ": ".join(filter(None, (name, path))) or "source"


def _decoded(image, label):
    """`image` with its pixels decoded."""
    try:
        if 0 in image.size:
            raise ValueError("it has no pixels")
        image.load()
        return image
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise ValueError(
            f"`{label}` must be a whole image, but decoding it stopped with '{error}'; replace it or leave it out."
        ) from error


def _upright(image, label):
    """`image` decoded and turned as its EXIF orientation asks."""
    image = _decoded(image, label)
    try:
        return ImageOps.exif_transpose(image) if image.getexif().get(EXIF_ORIENTATION, 1) != 1 else image
    except Exception as error:  # of damaged EXIF entries
        raise ValueError(
            f"`{label}` must have an EXIF orientation that can be read, but that stopped with '{error}'; save it "
            "without EXIF entries."
        ) from error


def _as_numpy(source):
    """A tensor as an array, its floats (numpy has no bfloat16) as float32; anything else as it is."""
    if not isinstance(source, torch.Tensor):
        return source
    source = source.detach().cpu()
    return (source.float() if source.is_floating_point() else source).numpy()


def _channels_last(array, label, input_data_format=None):
    """`array` as (H, W), or (H, W, C) with C of 3 or 4."""
    shape = array.shape
    if array.ndim == 3:
        if input_data_format == "channels_first" or (input_data_format is None and shape[0] in (1, 3, 4)):
            array = np.moveaxis(array, 0, -1)  # (C, H, W) -> (H, W, C)
        if array.shape[-1] == 1:
            array = array[..., 0]  # (H, W, 1) -> (H, W)
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise ValueError(
            f"`{label}` must be (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4, but is {shape}; reshape it."
        )
    return array


def _as_uint8(pixels, label, max_value):
    """Pixels of 1, 8 or 16 bits, or up to `max_value`, or floats in [0, 1], as 8 bits."""
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    if pixels.dtype == np.uint8:
        return pixels
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f" and not np.isfinite([low, high]).all():
        count = np.count_nonzero(~np.isfinite(pixels))
        raise ValueError(f"`{label}` must hold numbers, but {count} of its values are NaN or infinite; replace them.")
    if pixels.dtype.kind == "f" and low >= 0 and high <= 1:
        return (pixels * 255 + 0.5).astype(np.uint8)
    is_16_bit = pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2
    if is_16_bit and max_value is None and 0 < high <= WHITES[-1]:
        raise ValueError(
            f"`{label}` must use the range of its 16 bits, but no value is above {high}, so that it would turn black; "
            f"say which value is white, {', '.join(map(str, WHITES))} or another, with `--max_value` (in Python "
            "`max_value` of the image processor)."
        )
    if pixels.dtype.kind in "iu" and low >= 0:
        white = max_value if max_value is not None else 65535 if is_16_bit else 255
        if high <= white:
            return ((np.arange(white + 1) * 255 + white // 2) // white).astype(np.uint8)[pixels]
    if pixels.dtype.kind in "iu" and max_value is not None:
        raise ValueError(
            f"`max_value` must be the value of white in all photos, got {max_value}, but `{label}` has {low} to "
            f"{high}; pass a larger one."
        )
    raise ValueError(
        f"`{label}` must hold integers in [0, 255], uint16 or floats in [0, 1], but holds {pixels.dtype} from {low} "
        f"to {high}; rescale it first."
    )
