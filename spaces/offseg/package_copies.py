"""Functions of the package `offseg_hf`, written here by its scripts/sync_space.py: change them there."""

# ruff: noqa: I001
from PIL import Image
from PIL import ImageOps
from collections.abc import Sequence
from numpy.typing import ArrayLike
from transformers import AutoModelForSemanticSegmentation
from transformers import AutoModelForUniversalSegmentation
from transformers import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput
from typing import TypeAlias
import io
import numpy as np
import os
import sys
import torch
import torch.nn.functional as F


def auto_model_class(
    config: PreTrainedConfig,
) -> type[AutoModelForSemanticSegmentation | AutoModelForUniversalSegmentation]:
    """The Auto class of a configuration's model.

    Args:
        config (`transformers.PreTrainedConfig`): a segmentation model's.

    Returns:
        `type`: `AutoModelForUniversalSegmentation` for models that classify masks, such as Mask2Former, else
        `AutoModelForSemanticSegmentation`.
    """
    universal = "AutoModelForUniversalSegmentation"
    if type(config) in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING or universal in getattr(config, "auto_map", {}):
        return AutoModelForUniversalSegmentation
    return AutoModelForSemanticSegmentation


def predicted_labels(config: PreTrainedConfig) -> dict[int, str]:
    """The names of the ids that a model predicts.

    Args:
        config (`transformers.PreTrainedConfig`): the model's configuration.

    Returns:
        `dict[int, str]`: its `id2label`; for a single class, that class as 1 and the background as 0.
    """
    if config.num_labels == 1:
        return {0: "background", 1: config.id2label[0]}
    return dict(config.id2label)


ImageSource: TypeAlias = str | os.PathLike | bytes | dict | Image.Image | np.ndarray | torch.Tensor  # see `open_image`


EXIF_ORIENTATION = 0x0112


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


IGNORE_COLOUR = (26, 26, 30)  # of pixels that have no class


IGNORE_INDEX = 255


def colorize(label_map: np.ndarray, palette: ArrayLike) -> Image.Image:
    """The label map in the colours of its classes.

    Args:
        label_map (`np.ndarray`): integer class ids of shape (height, width). 255 stands for ignored pixels, which come
            out dark, unless the palette has a colour for it.
        palette (array-like): colours of the K classes, shape (K, 3), integers from 0 to 255.

    Returns:
        `PIL.Image.Image`: an RGB picture of the same size.

    Raises:
        ValueError: if an id has no colour, or the label map is not of shape (height, width).
    """
    label_map, colours = _checked(label_map, palette)
    return Image.fromarray(colours[label_map])


def overlay(image: Image.Image, label_map: np.ndarray, palette: ArrayLike, opacity: float = 0.5) -> Image.Image:
    """The photo, tinted in the colours of its classes; ignored pixels stay as they are.

    Args:
        image (`PIL.Image.Image`): the photo.
        label_map (`np.ndarray`): integer class ids of shape (height, width), the photo's size; 255 for ignored pixels.
        palette (array-like): colours of the K classes, shape (K, 3), integers from 0 to 255.
        opacity (`float`): from 0, the photo alone, to 1, the colours alone.

    Returns:
        `PIL.Image.Image`: an RGB picture of the same size.

    Raises:
        ValueError: if sizes differ, an id has no colour, or `opacity` lies outside [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"`opacity` must lie between 0 and 1, got {opacity}.")
    colours = colorize(label_map, palette)
    if colours.size != image.size:
        raise ValueError(
            f"`label_map` must have the size of the photo, {image.height}x{image.width}, got "
            f"{colours.height}x{colours.width}: resize it with nearest-neighbour interpolation."
        )
    image = image if image.mode == "RGB" else image.convert("RGB")  # which would copy an RGB one too
    tinted = Image.blend(image, colours, opacity)
    if len(palette) <= IGNORE_INDEX:
        tinted.paste(image, mask=Image.fromarray(np.asarray(label_map) == IGNORE_INDEX))
    return tinted


def _colour_table(palette):
    """The palette, with the ignored pixels' colour where no class has the id 255."""
    palette = np.asarray(palette, dtype=np.uint8)  # (K, 3)
    if len(palette) > IGNORE_INDEX:
        return palette
    table = np.full((IGNORE_INDEX + 1, 3), IGNORE_COLOUR, dtype=np.uint8)
    table[: len(palette)] = palette
    return table


def _checked(label_map, palette):
    """The label map and its table of colours, once every id is known to have one."""
    label_map, num_labels = np.asarray(label_map), len(palette)
    if label_map.ndim != 2 or label_map.dtype.kind not in "iu":
        raise ValueError(
            "`label_map` must be integers of shape (height, width), got "
            f"{label_map.dtype} of shape {label_map.shape}: pass one map of class ids."
        )
    unknown = label_map[(label_map < 0) | (label_map >= num_labels) & (label_map != IGNORE_INDEX)]
    if unknown.size:
        raise ValueError(
            f"`label_map` must hold ids from 0 to {num_labels - 1}, or {IGNORE_INDEX} for ignored pixels, got "
            f"{np.unique(unknown)[:5].tolist()}: pass a palette with a colour for each class."
        )
    return label_map, _colour_table(palette)


def default_palette(num_labels: int) -> np.ndarray:
    """A colour for each class, each as far as possible from all before it.

    The colours are the same at every call, and those of a smaller palette begin a larger one. Distances are taken in
    the perceptual colour space Oklab (https://bottosson.github.io/posts/oklab).

    Args:
        num_labels (`int`): number of classes K, at least 1.

    Returns:
        `np.ndarray`: `uint8` of shape (K, 3), red, green and blue. They repeat after some 3,500 colours.

    Raises:
        ValueError: if `num_labels` is below 1.
    """
    if num_labels < 1:
        raise ValueError(f"`num_labels` must be at least 1, got {num_labels}.")
    levels = np.arange(7, 256, 16)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)  # (4096, 3)
    candidates = candidates[_oklab(candidates)[:, 0] > 0.35]  # darker ones look alike on a photo
    points = _oklab(candidates)
    # Colours keep away from the ignored pixels' dark, and from white, the legend's background.
    taken = _oklab(np.array([IGNORE_COLOUR, (255, 255, 255)]))
    distance = np.linalg.norm(points[:, None] - taken, axis=-1).min(axis=1)
    chosen = []
    for _ in range(min(num_labels, len(candidates))):
        chosen.append(distance.argmax())
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=-1))
    return np.resize(candidates[chosen], (num_labels, 3)).astype(np.uint8)


def _oklab(colours):
    """sRGB colours (N, 3) from 0 to 255 in Oklab, where distances are those that people see."""
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


def semantic_scores(class_queries_logits: torch.Tensor, masks_queries_logits: torch.Tensor) -> torch.Tensor:
    """How much each pixel belongs to each class: the masks, each counted for a class as far as its query says so.

    As the native image processor's semantic post-processing, but at the masks' own resolution.

    Args:
        class_queries_logits (`torch.Tensor` of shape `(batch_size, num_queries, num_labels + 1)`): the last class is
            "no object".
        masks_queries_logits (`torch.Tensor` of shape `(batch_size, num_queries, height, width)`): of the same queries.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels, height, width)`: not negative, in float32; the arg-max over
        the classes is the label map.
    """
    classes = class_queries_logits.float().softmax(dim=2)[..., :-1]  # (B, Q, K)
    return torch.einsum("bqk,bqhw->bkhw", classes, masks_queries_logits.float().sigmoid())


MAX_CHUNK_VALUES = 2**19  # of the cells handled at once: 2 MB in float32, which stay in the processor's cache


def upsampled_label_map(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The class id of every pixel: "upsample all logits, then arg-max", without holding all upsampled logits.

    The same as `F.interpolate(logits.float(), size, mode="bilinear", align_corners=False).argmax(1)`, the first of
    equal classes included, except for pixels whose two best upsampled logits differ by no more than their rounding
    error, some 1e-6 of the largest logit (1e-5 on processors without fused multiply-add): there it is one of the two.
    It takes the memory of a few (H, W) planes. float64 logits stay float64.

    Args:
        logits (`torch.Tensor` of shape (B, K, h, w)): Finite scores of K classes, or -inf for a class that is excluded
            everywhere; with K = 1, of class 1 against class 0.
        size (`tuple[int, int]`): (height, width) of the result in pixels.

    Returns:
        `torch.LongTensor` of shape (B, height, width): ids in [0, K); with K = 1, 1 where the logit is above 0.

    Raises:
        ValueError: `size` is no (height, width), or a pixel has logits that are not finite.
    """
    size = checked_size(size, "size")
    check_finite(logits)
    return torch.stack([_label_map(image_logits, size) for image_logits in logits])


def check_finite(logits: torch.Tensor) -> None:
    """Raises a ValueError where the largest of a pixel's logits (B, K, h, w) is not finite."""
    num_wrong = logits.numel() and (~logits.amax(dim=1).isfinite()).sum().item()
    if num_wrong:
        raise ValueError(
            f"`logits` must be finite numbers to choose a class by, but at {num_wrong} of {logits[:, 0].numel()} "
            "positions they are NaN or infinite; check the weights, or compute in float32 (`dtype=torch.float32`)."
        )


def checked_size(size: Sequence[int] | torch.Size, name: str) -> tuple[int, int]:
    """`size` as a pair of numbers."""
    pair = tuple(int(side) for side in np.ravel(size))
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"`{name}` must be (height, width) in pixels, both at least 1, but is {pair}; correct it.")
    return pair


@torch.no_grad()
def _from_all_classes(logits, size, with_confidence=False):
    """The label map and, on request, its classes' probabilities, both of shape `size`, from logits (K, h, w)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits.clamp(min=torch.finfo(logits.dtype).min / 2)  # -inf times a share of 0 would be nan
    best = logits.new_full(size, -torch.inf)
    label_map = torch.zeros(size, dtype=torch.long, device=logits.device)
    total = 0.0  # of exp(logit - best) over the classes seen
    step = 1 if logits.device.type == "cpu" else 8  # a CPU's cache holds few planes; devices want more work at a time
    for start in range(0, len(logits), step):
        some = logits[None, start : start + step].contiguous()  # for logits in channels-last order
        planes = F.interpolate(some, size, mode="bilinear", align_corners=False)[0]
        values, winner = (planes[0], 0) if len(planes) == 1 else planes.max(dim=0)
        label_map = torch.where(values > best, winner + start, label_map)  # not >=: the first of equals stays
        previous, best = best, torch.maximum(best, values)
        if with_confidence:
            total = total * (previous - best).exp() + (planes - best).exp().sum(0)
    if len(logits) == 1:
        label_map, total = (best > 0).long(), 1 + (-best.abs()).exp()
    return label_map, (1 / total).float() if with_confidence else None


@torch.no_grad()
def _label_map(logits, size):
    """The label map of shape `size` from logits (K, h, w), from as few classes as can be."""
    num_classes, height, width = logits.shape
    # With few classes or few pixels a cell, there is little to leave out; and other devices than a CPU would have to
    # wait for each decision.
    if num_classes < 8 or size[0] < 4 * height or size[1] < 4 * width or logits.device.type != "cpu":
        return _from_all_classes(logits, size)[0]

    points = logits.flatten(1)
    blocks = points.split(max(1, MAX_CHUNK_VALUES // num_classes), dim=1)
    winners = torch.cat([block.T.contiguous().argmax(1) for block in blocks])
    rows, columns = _Cells(height, size[0], logits.dtype), _Cells(width, size[1], logits.dtype)

    # (4, cells down, cells across)
    corners = torch.stack([down[:, None] * width + across for down in rows.ends for across in columns.ends])
    corner_winners = winners[corners]
    down, across = (corner_winners != corner_winners[0]).any(0).nonzero(as_tuple=True)
    # Noise: leaving out classes takes as long in a cell as evaluating all in some 64 pixels, more if there are few.
    if (64 + 2048 // num_classes) * len(down) > size[0] * size[1]:
        return _from_all_classes(logits, size)[0]

    label_map = winners.view(height, width)[rows.ends[0][rows.of_line]][:, columns.ends[0][columns.of_line]]
    chunk = max(1, MAX_CHUNK_VALUES // max(4 * num_classes, len(rows.lines) * len(columns.lines)))
    for start in range(0, len(down), chunk):
        i, j = down[start : start + chunk], across[start : start + chunk]
        values = points[:, corners[:, i, j]].to(rows.shares.dtype)  # (K, 4, N)
        order, labels = _cell_labels(values, corner_winners[:, i, j], rows.shares[:, i], columns.shares[:, j])
        label_map[rows.lines[:, None, i[order]], columns.lines[:, j[order]]] = labels
    return label_map


class _Cells:
    """The intervals between neighbouring points along one axis, half an interval beyond both ends included.

    `ends`: the first and last point of each. `of_line`: the interval in which each line of pixels lies. `lines`: of
    shape (most lines in one, intervals), each interval's lines, the last repeated, and `shares` of the same shape: how
    far between the ends.
    """

    def __init__(self, num_points, num_lines, dtype):
        # From -0.5 to num_points - 0.5, rounded once, as torch's are wherever a processor has fused multiply-add:
        # rounded twice, they would be up to 1e-5 of an interval off.
        dtype = torch.promote_types(dtype, torch.float32)
        scale = torch.tensor(num_points / num_lines, dtype=dtype).item()
        positions = ((torch.arange(num_lines, dtype=torch.float64) + 0.5) * scale - 0.5).to(dtype)
        self.of_line = positions.floor().long() + 1
        numbers = torch.arange(-1, num_points + 1).clamp(0, num_points - 1)
        self.ends = numbers[:-1], numbers[1:]
        counts = self.of_line.bincount(minlength=num_points + 1)
        self.lines = counts.cumsum(0) - counts + torch.arange(counts.max())[:, None].minimum(counts - 1)
        self.shares = (positions - positions.floor())[self.lines]


def _cell_labels(values, corner_winners, row_shares, column_shares):
    """An order of N cells, and in it their labels (S, T, N), from all logits (K, 4, N) at their corners."""
    # A class is out where another one is above it at all four corners; try the best of each corner and of the centre.
    can_win = torch.ones_like(values[:, 0], dtype=torch.bool)  # (K, N)
    for winner in [*corner_winners, values.sum(1).argmax(0)]:
        a, b, c, d = (values < values.take_along_dim(winner[None, None], dim=0)).unbind(1)  # not <=: equals stay
        can_win &= ~(a & b & c & d)

    counts, order = can_win.sum(0).sort(descending=True)
    ranks, cells = (counts > torch.arange(counts[0])[:, None]).nonzero(as_tuple=True)
    first = counts.cumsum(0) - counts
    classes = can_win.T[order].nonzero(as_tuple=True)[1][first[cells] + ranks]  # all cells' first, then their second …
    scores_at_corners = values[classes, :, order[cells]].T.contiguous()  # (4, pairs)

    row_shares, column_shares = row_shares[:, None, order], column_shares[:, order]
    best = row_shares.new_full((len(row_shares), *column_shares.shape), -torch.inf)
    labels = classes[: len(order)].expand(best.shape).clone()
    sizes = ranks.bincount().tolist()  # cells with a first class, with a second one …
    for ids, corners in zip(classes.split(sizes), scores_at_corners.split(sizes, dim=1)):
        rank_cells = slice(len(ids))  # the cells that have a class of this rank
        left, right = corners[::2, None], corners[1::2, None]  # (2, 1, cells)
        above, below = left.lerp(right, column_shares[:, rank_cells])  # (T, cells)
        scores = above.lerp(below, row_shares[..., rank_cells])  # (S, T, cells)
        best_so_far, labels_so_far = best[..., rank_cells], labels[..., rank_cells]
        torch.where(scores > best_so_far, ids, labels_so_far, out=labels_so_far)  # the first of equals stays
        torch.maximum(scores, best_so_far, out=best_so_far)
    return order, labels


def class_scores(outputs: ModelOutput | torch.Tensor | tuple) -> torch.Tensor:
    """How much each pixel belongs to each class, of whatever kind of model of transformers.

    Args:
        outputs (`ModelOutput`, `torch.Tensor` or `tuple`): what the model returned; or what `Trainer` makes of it,
            the same without names: logits, or a tuple that begins with them, or, of models that classify masks, with
            the logits of the queries' classes and masks.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels, height', width')`, at the model's own resolution: the logits,
        in their dtype; of models that classify masks
        [`~offseg_hf.models.modeling_offseg_mask2former.semantic_scores`], of a single class less one half.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    if isinstance(outputs, dict):
        if "masks_queries_logits" not in outputs:
            return outputs["logits"]
        outputs = outputs["class_queries_logits"], outputs["masks_queries_logits"]
    elif outputs[0].ndim != 3:  # else (B, Q, K + 1), and then the masks
        return outputs[0]
    scores = semantic_scores(*outputs[:2])
    return scores - 0.5 if scores.shape[1] == 1 else scores  # a single class is found where it is above 0


def label_maps(outputs: ModelOutput | torch.Tensor | tuple, size: tuple[int, int]) -> torch.Tensor:
    """The class id of every pixel, at any size: "upsample all scores, then take the largest".

    Args:
        outputs (`ModelOutput`, `torch.Tensor` or `tuple`): see [`class_scores`].
        size (`tuple[int, int]`): (height, width) of the label maps in pixels.

    Returns:
        `torch.LongTensor` of shape `(batch_size, *size)`: the same as [`most_likely`] of the scores, bilinearly
        upsampled, for which it takes less time and memory, see
        [`~offseg_hf.models.label_map.upsampled_label_map`].
    """
    return upsampled_label_map(class_scores(outputs), size)
