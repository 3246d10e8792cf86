"""OffSegImageProcessor: photos and masks in, `pixel_values` and `labels` out; logits in, label maps out.

Reading (`open_image`, `read_image`, `read_mask`) is done by functions that training and evaluation use too. Pillow and
numpy do all work on pictures: torchvision would change no number.
"""

import io
import os
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, load_image
from transformers.processing_utils import ImagesKwargs, Unpack

from .label_map import checked_size, label_map_and_confidence, upsampled_label_map
from .library_internals import SemanticSegmentationPostProcessorOutput

ImageSource: TypeAlias = str | os.PathLike | bytes | dict | Image.Image | np.ndarray | torch.Tensor  # see `open_image`
IGNORE_INDEX = 255
EXIF_ORIENTATION = 0x0112
# How a mask follows a photo whose EXIF orientation swaps height and width; orientations 1 to 4 keep the size.
QUARTER_TURNS = {5: np.transpose, 6: lambda ids: np.rot90(ids, -1), 7: lambda ids: np.rot90(ids, 2).T, 8: np.rot90}


def open_image(source: ImageSource, name: str | None = None, input_data_format: str | None = None) -> Image.Image:
    """The picture as it is stored: in its own mode, not turned upright, a file's pixels not decoded yet.

    Hand the result to both `read_image` and `read_mask(photo=...)`, and the photo is decoded once for the two.

    Args:
        source (`str`, `os.PathLike`, `bytes`, `dict`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            A file's path, its content, `{"bytes": ..., "path": ...}` as undecoded `datasets` columns hold it, a
            picture, or an array (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels (the fourth is dropped) of
            integers in [0, 255], `uint16` in [0, 65535], floats in [0, 1], or booleans.
        name (`str`, *optional*): What errors call it, such as `images[3]`; a known path is added.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, for arrays. By default the
            first axis holds the channels if its length is 1, 3 or 4, as in transformers.

    Returns:
        `PIL.Image.Image`: the picture; an array gives a grey or RGB one.

    Raises:
        FileNotFoundError, ValueError, TypeError: There is no such file; it is empty or no image, or the array's shape
            or values are none of the above; `source` is nothing of the above.
    """
    label = _label(source, name)
    if isinstance(source, dict):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if isinstance(source, (np.ndarray, torch.Tensor)):
        pixels = _as_uint8(_channels_last(_as_numpy(source), label, input_data_format), label)
        return Image.fromarray(np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[..., :3]))
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
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        found = f"raises {type(error).__name__} on it (it starts with {source[:8]!r})" if source else "finds it empty"
        raise ValueError(
            f"`{label}` must be an image file, but Pillow {found}; replace it or leave it out."
        ) from error


def read_image(source: ImageSource, name: str | None = None) -> Image.Image:
    """The photo in RGB, upright as its EXIF orientation asks.

    Transparency is dropped and the colour under it kept, as transformers' own image loading does; 16-bit grey is
    scaled to 8 bits (value / 257); of an animation the first picture is taken.

    Args:
        source: Anything that `open_image` takes.
        name (`str`, *optional*): What errors call it, such as `images[3]`; a known path is added.

    Returns:
        `PIL.Image.Image`: mode RGB. `source` itself if it is an upright RGB picture already.

    Raises:
        FileNotFoundError, ValueError, TypeError: As `open_image`, and ValueError if the file is truncated.
    """
    opened = open_image(source, name)
    image = _upright(opened, label := _label(source, name))
    if image.mode[0] in "IF":  # "I;16", "I" or "F": Pillow would clip these at 255, not scale them
        pixels = np.asarray(image)
        if image.mode == "I" and opened.format == "PPM":  # Pillow has no 16-bit mode for these files
            pixels = pixels.astype(np.uint16)
        image = Image.fromarray(_as_uint8(pixels, label))
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
        FileNotFoundError, ValueError, TypeError: As `read_image`, and ValueError if the mask holds colours or floats,
            or if its size is not its photo's.
    """
    label = _label(source, name)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        ids = np.array(_channels_last(_as_numpy(source), label))
    else:
        mask = _upright(open_image(source, name), label)
        mask = mask.convert("RGB") if mask.mode == "CMYK" else mask
        ids = np.array(mask.getchannel(0) if mask.mode in ("LA", "PA") else mask)
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
    if photo is None:
        return ids

    photo = open_image(photo)
    if photo.format == "TIFF":  # Pillow turns this one format upright itself, at decoding, and forgets that it did
        photo.load()
    height, width = photo.height, photo.width
    turn = QUARTER_TURNS.get(photo.getexif().get(EXIF_ORIENTATION))
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


def reduce_labels(ids: np.ndarray) -> np.ndarray:
    """The ids one lower, with 0 ("other") as 255 (ignored) and 255 as it was: for files whose classes start at 1.

    Args:
        ids (`np.ndarray` of integers up to 255): Class ids of any shape; not written to.

    Returns:
        `np.ndarray`: a new array, `uint8` if `ids` is, otherwise `int64`.

    Raises:
        ValueError: An id is above 255.
    """
    if ids.max(initial=0) > IGNORE_INDEX:
        raise ValueError(
            f"`do_reduce_labels` needs ids up to {IGNORE_INDEX} (ignored), but a mask has {ids.max()}; renumber them."
        )
    ids = ids if ids.dtype == np.uint8 else ids.astype(np.int64)
    return np.where((ids == 0) | (ids == IGNORE_INDEX), IGNORE_INDEX, ids - 1).astype(ids.dtype)


def _label(source, name):
    """What errors call `source`: the name given, the file it comes from, or both."""
    if isinstance(source, dict):
        source = source.get("path")
    path = getattr(source, "filename", "") if isinstance(source, Image.Image) else source
    path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
    return name if name and path in name else ": ".join(filter(None, (name, path))) or "source"


def _upright(image, label):
    """`image` decoded and turned as its EXIF orientation asks."""
    try:
        if 0 in image.size:
            raise ValueError("it has no pixels")
        image.load()
        return ImageOps.exif_transpose(image) if image.getexif().get(EXIF_ORIENTATION, 1) != 1 else image
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise ValueError(
            f"`{label}` must be a whole image, but decoding it stopped with '{error}'; replace it or leave it out."
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


def _as_uint8(pixels, label):
    """Pixels of 1, 8 or 16 bits or floats in [0, 1], as 8 bits."""
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f" and low >= 0 and high <= 1:
        return (pixels * 255 + 0.5).astype(np.uint8)
    if pixels.dtype.kind in "iu" and low >= 0 and high <= 255:
        return pixels.astype(np.uint8, copy=False)
    raise ValueError(
        f"`{label}` must hold integers in [0, 255], uint16 or floats in [0, 1], but holds {pixels.dtype} from {low} "
        f"to {high}; rescale it first."
    )


def _as_list(inputs, batch_ndims):
    """The inputs in a list, in an array with as many axes as a batch of them has, or in one input."""
    is_batch = isinstance(inputs, (list, tuple)) or getattr(inputs, "ndim", None) in batch_ndims
    return list(inputs) if is_batch else [inputs]


def size_within_edges(height: int, width: int, longest_edge: int, shortest_edge: int) -> tuple[int, int]:
    """The largest (height, width) of the same ratio whose long and short side are at most these numbers of pixels."""
    scale = min(longest_edge / max(height, width), shortest_edge / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _resized_size(height, width, size):
    """The (height, width) that a picture of `height` x `width` is resized to."""
    if size.height is not None:
        return size.height, size.width
    return size_within_edges(height, width, size.longest_edge, size.shortest_edge)


def _normalized(image, factor, mean, std):
    """(value * factor - mean) / std of an RGB picture, (3, H, W) float32."""
    factor, mean, std = (np.broadcast_to(number, 3)[:, None, None] for number in (factor, mean, std))
    values = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")  # (H, W, 3) -> (3, H, W)
    values *= (factor / std).astype(np.float32)
    values -= (mean / std).astype(np.float32)
    return values


def _resized_ids(ids, height, width):
    """`ids` at (height, width), each pixel the id of its nearest source pixel."""
    ids = ids if ids.dtype == np.uint8 else ids.astype(np.int32)  # the integer types that Pillow takes as they are
    return np.asarray(Image.fromarray(ids).resize((width, height), PILImageResampling.NEAREST))


def _check_stackable(arrays, name, remedy):
    """Raise if `arrays`, of shape (..., H, W), differ in size."""
    sizes = [f"{array.shape[-2]} x {array.shape[-1]}" for array in arrays]
    for index, size in enumerate(sizes):
        if size != sizes[0]:
            raise ValueError(
                f"`{name}` must come out equal in size to become one tensor, but {name}[0] is {sizes[0]} and "
                f"{name}[{index}] {size} pixels (height x width); {remedy}."
            )


class OffSegImageProcessorKwargs(ImagesKwargs, total=False):
    """The arguments that `OffSegImageProcessor`, where they are explained, has beyond every image processor's."""

    do_reduce_labels: bool
    do_resize_labels: bool


class OffSegImageProcessor(PilBackend):
    """Resizes, rescales and normalises photos, resizes their label maps, and turns logits into label maps.

    Photos come out RGB and upright, whatever their mode, see `read_image`; label maps keep their ids, see `read_mask`.

    Args:
        do_resize (`bool`, defaults to `True`): Whether to resize at all.
        size (`dict` or `int`, defaults to `{"shortest_edge": 512, "longest_edge": 2048}`): In pixels.
            `{"height", "width"}`, or one number for both, is a fixed size. `{"shortest_edge", "longest_edge"}` keeps
            the ratio: the largest size whose sides are at most these numbers, as the benchmarks have it.
        resample (`PIL.Image.Resampling`, defaults to `BILINEAR`): For photos; label maps take the nearest pixel.
        do_rescale (`bool`, defaults to `True`): Whether to multiply the values 0..255 by `rescale_factor`. If `False`,
            arrays of floats in [0, 1] stay in [0, 1].
        rescale_factor (`float`, defaults to 1/255): That factor.
        do_normalize (`bool`, defaults to `True`): Whether to subtract `image_mean` and divide by `image_std`.
        image_mean, image_std (`float` or `list[float]`, default to ImageNet's): One number, or three for R, G and B.
        do_reduce_labels (`bool`, defaults to `False`): Whether to apply `reduce_labels` to label maps; then they must
            come as the data set has them, not reduced yet.
        do_resize_labels (`bool`, defaults to `True`): Whether label maps are resized along with the photos. Pass
            `False` to evaluate at the labels' own resolution.

    Raises:
        ValueError: An argument is nothing of the above, or `do_center_crop` or `do_pad` (not offered) is `True`.
    """

    valid_kwargs = OffSegImageProcessorKwargs

    do_resize = True
    size = {"shortest_edge": 512, "longest_edge": 2048}
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_reduce_labels = False
    do_resize_labels = True

    def __init__(self, **kwargs: Unpack[OffSegImageProcessorKwargs]):
        if "reduce_labels" in kwargs:  # its name in the first SegFormer checkpoints' preprocessor_config.json
            kwargs["do_reduce_labels"] = kwargs.pop("reduce_labels")
        super().__init__(**kwargs)

    def _standardize_kwargs(self, size=None, **kwargs):
        """Check what can be checked before a picture is read; called at construction and at each call."""
        if isinstance(size, dict) and set(size) not in ({"height", "width"}, {"shortest_edge", "longest_edge"}):
            raise ValueError(
                '`size` must be {"height", "width"}, {"shortest_edge", "longest_edge"} or one number for a square, '
                f"but is {size}; give both numbers of one of the two pairs."
            )
        kwargs = super()._standardize_kwargs(size=size, **kwargs)
        sides = dict(kwargs["size"] or {})
        if not all(isinstance(side, int) and side > 0 for side in sides.values()):
            raise ValueError(f"`size` must hold whole numbers of at least 1, but is {sides}; correct it.")
        for name in ("image_mean", "image_std"):
            if kwargs[name] is not None and np.size(kwargs[name]) not in (1, 3):
                raise ValueError(f"`{name}` must be one number or three (R, G, B), but is {kwargs[name]}; give three.")
        for name in ("do_center_crop", "do_pad"):
            if kwargs.get(name):
                raise ValueError(f"`{name}` must be False, but is True; crop or pad images before this processor.")
        return kwargs

    def preprocess(
        self,
        images: ImageSource | list[ImageSource] | tuple[ImageSource, ...],
        segmentation_maps: ImageSource | list[ImageSource] | tuple[ImageSource, ...] | None = None,
        **kwargs: Unpack[OffSegImageProcessorKwargs],
    ) -> BatchFeature:
        """`pixel_values`, and `labels` if label maps are given, ready for the model.

        Args:
            images: One image, a list, or an array or tensor (B, H, W, C) or (B, C, H, W). An image is anything that
                `open_image` takes, or a URL.
            segmentation_maps (*optional*): One label map for each image: one, a list, or an array (B, H, W). A label
                map is anything that `read_mask` takes, of its image's size.
            **kwargs: Any argument of the class, for this call; `return_tensors` (`"pt"`, `"np"`, or none for lists of
                arrays); `input_data_format` (`"channels_first"` or `"channels_last"`) of images that are arrays.

        Returns:
            `BatchFeature`: `pixel_values` (B, 3, H, W) float32, and `labels` (B, H, W) int64.

        Raises:
            FileNotFoundError, ValueError, TypeError: As `read_image` and `read_mask`, naming the index in the batch;
                ValueError also if the numbers of images and label maps, or sizes within one tensor, differ.
        """
        return super().preprocess(images, segmentation_maps, **kwargs)

    def normalize_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """The rescaled and normalised values of a picture, as these settings say, at its own size.

        Args:
            pixels (`PIL.Image.Image` or `np.ndarray` of shape (H, W, 3)): RGB, of 8 bits.

        Returns:
            `np.ndarray` of shape (3, H, W): float32.
        """
        mean, std = (self.image_mean, self.image_std) if self.do_normalize else (0, 1)
        return _normalized(pixels, self.rescale_factor if self.do_rescale else 1, mean, std)

    def _preprocess_image_like_inputs(self, images, segmentation_maps=None, **options):
        """The work of `preprocess`, with every option resolved."""
        images = _as_list(images, batch_ndims=(4,))
        if not images:
            raise ValueError("`images` must hold at least one image, but is empty; pass one or more.")
        masks = None if segmentation_maps is None else _as_list(segmentation_maps, batch_ndims=(3, 4))
        if masks is not None and len(masks) != len(images):
            raise ValueError(
                f"`segmentation_maps` must hold one label map for each image, but holds {len(masks)} for "
                f"{len(images)}; pair them up."
            )

        data = {"pixel_values": []} if masks is None else {"pixel_values": [], "labels": []}
        mean, std = (options["image_mean"], options["image_std"]) if options["do_normalize"] else (0, 1)
        for index, source in enumerate(images):
            if isinstance(source, str) and source.startswith(("http://", "https://", "data:image/")):
                source = load_image(source)
            source = _as_numpy(source)
            photo = open_image(source, f"images[{index}]", options["input_data_format"])
            image = read_image(photo, _label(source, f"images[{index}]"))
            height, width = image.height, image.width
            if options["do_resize"]:
                height, width = _resized_size(height, width, options["size"])
                image = image.resize((width, height), options["resample"])
            factor = 1 / 255 if isinstance(source, np.ndarray) and source.dtype.kind == "f" else 1  # as it came
            factor = options["rescale_factor"] if options["do_rescale"] else factor
            data["pixel_values"].append(_normalized(image, factor, mean, std))
            if masks is not None:
                ids = read_mask(masks[index], photo, f"segmentation_maps[{index}]")
                ids = reduce_labels(ids) if options["do_reduce_labels"] else ids
                ids = _resized_ids(ids, height, width) if options["do_resize_labels"] else ids
                data["labels"].append(ids.astype(np.int64))

        if options["return_tensors"] is not None:
            remedy = 'set `size` to a fixed {"height", "width"} or pass one image a call'
            _check_stackable(data["pixel_values"], "images", remedy)
            _check_stackable(data.get("labels", []), "segmentation_maps", f"leave `do_resize_labels` True, {remedy}")
            data = {key: values[0][None] if len(values) == 1 else values for key, values in data.items()}  # no copy
        return BatchFeature(data=data, tensor_type=options["return_tensors"])

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: list[tuple[int, int]] | torch.Tensor | None = None,
        return_segmentation_scores: bool = False,
        return_confidence: bool = False,
    ) -> Any:
        """The class id of every pixel of each image, at the size asked for.

        Args:
            outputs: What the model returned: anything with `logits`, (B, K, h, w).
            target_sizes (`list[tuple[int, int]]` or tensor (B, 2), *optional*): (height, width) in pixels for each
                image; by default the size of the logits.
            return_segmentation_scores (`bool`, defaults to `False`): Whether to return all upsampled logits as well,
                as transformers' own processors do; at full size they take K times the memory of anything else here.
            return_confidence (`bool`, defaults to `False`): Whether to return the predicted classes' probabilities as
                well, which takes no more memory than the label maps.

        Returns:
            `list[torch.LongTensor]` of shape (height, width): the arg-max of the upsampled logits, see
            `upsampled_label_map`. If more is asked for, a `list[SemanticSegmentationPostProcessorOutput]` with that as
            `segmentation`, and as `segmentation_scores` the upsampled logits (K, height, width), as `confidence` the
            float32 probability (height, width) of the predicted class: softmax, for K = 1 sigmoid, of these logits.

        Raises:
            ValueError: `target_sizes` has another length than the batch, or an entry that is no (height, width).
        """
        logits = outputs.logits
        if target_sizes is None:
            target_sizes = [logits.shape[-2:]] * len(logits)
        if len(target_sizes) != len(logits):
            raise ValueError(
                f"`target_sizes` must hold one (height, width) for each image, but holds {len(target_sizes)} for "
                f"{len(logits)}; give one for each."
            )
        target_sizes = target_sizes.tolist() if isinstance(target_sizes, torch.Tensor) else target_sizes
        sizes = [checked_size(size, f"target_sizes[{index}]") for index, size in enumerate(target_sizes)]
        results = []
        for image_logits, size in zip(logits, sizes):
            result = SemanticSegmentationPostProcessorOutput({"segmentation": None, "segmentation_scores": None})
            if return_confidence:
                result["segmentation"], result["confidence"] = label_map_and_confidence(image_logits, size)
            else:
                result["segmentation"] = upsampled_label_map(image_logits[None], size)[0]
            if return_segmentation_scores:
                upsampled = F.interpolate(image_logits[None].float(), size, mode="bilinear", align_corners=False)
                result["segmentation_scores"] = upsampled[0]
            results.append(result)
        if return_segmentation_scores or return_confidence:
            return results
        return [result.segmentation for result in results]
