"""OffSegImageProcessor: photos and masks in, `pixel_values` and `labels` out; logits in, label maps out.

Reading (`open_image`, `read_image`, `read_mask`) is done by functions that training and evaluation use too. Pillow and
numpy do all work on pictures: torchvision would change no number.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, load_image
from transformers.processing_utils import ImagesKwargs, Unpack

from .image_reading import ImageSource, _as_numpy, _label, open_image, read_image, read_mask
from .label_map import checked_size, label_map_and_confidence, upsampled_label_map
from .library_internals import SemanticSegmentationPostProcessorOutput

IGNORE_INDEX = 255
SIZES = ({"height", "width"}, {"shortest_edge", "longest_edge"})


def reduce_labels(ids: np.ndarray) -> np.ndarray:
    """The ids one lower, with 0 ("other") as 255 (ignored) and 255 as it was: for files whose classes start at 1.

    Args:
        ids (`np.ndarray` of integers from 0 to 255): Class ids of any shape; not written to.

    Returns:
        `np.ndarray`: a new array, `uint8` if `ids` is, otherwise `int64`.

    Raises:
        ValueError: An id is above 255 or negative, or no integer.
    """
    if ids.dtype.kind not in "iu" or ids.max(initial=0) > IGNORE_INDEX or ids.min(initial=0) < 0:
        raise ValueError(
            f"`do_reduce_labels` needs whole ids from 0 to {IGNORE_INDEX} (ignored), but a mask of {ids.dtype} has "
            f"{ids.min()} to {ids.max()}; renumber them."
        )
    ids = ids if ids.dtype == np.uint8 else ids.astype(np.int64)
    return np.where((ids == 0) | (ids == IGNORE_INDEX), IGNORE_INDEX, ids - 1).astype(ids.dtype)


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


def _are_in_range(numbers, above_0):
    """Whether one or more values are finite numbers, above 0 where they must be."""
    try:
        values = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return bool(np.isfinite(values).all() and (not above_0 or values.min() > 0))


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
    max_value: int | None


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
        max_value (`int`, *optional*): The value of white in photos of more than 8 bits, such as 4095 for 12 bits, see
            `read_image`.

    Batches of photos of different shapes, such as those of `pipeline(..., batch_size=2)`, need a fixed size:
    `image_processor=OffSegImageProcessor.from_pretrained(..., size={"height": 512, "width": 512})`.

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
    max_value = None

    def __init__(self, **kwargs: Unpack[OffSegImageProcessorKwargs]):
        if "reduce_labels" in kwargs:  # its name in the first SegFormer checkpoints' preprocessor_config.json
            kwargs["do_reduce_labels"] = kwargs.pop("reduce_labels")
        super().__init__(**kwargs)

    def _standardize_kwargs(self, size=None, **kwargs):
        """Check what can be checked before a picture is read; called at construction and at each call."""
        is_pair = not isinstance(size, (list, tuple)) or len(size) == 2
        if not is_pair or (isinstance(size, dict) and set(size) not in SIZES):
            raise ValueError(
                '`size` must be {"height", "width"}, {"shortest_edge", "longest_edge"} or one number for a square, '
                f"but is {size}; give both numbers of one of the two pairs."
            )
        kwargs = super()._standardize_kwargs(size=size, **kwargs)
        sides = dict(kwargs["size"] or {})
        if not all(type(side) is int and side > 0 for side in sides.values()):
            raise ValueError(f"`size` must hold whole numbers of at least 1, but is {sides}; correct it.")
        for name, value in kwargs.items():
            if name.startswith("do_") and not isinstance(value, (bool, type(None))):
                raise ValueError(f"`{name}` must be True or False, but is {value!r}; correct it.")
        for name in ("image_mean", "image_std"):
            if kwargs[name] is not None and np.size(kwargs[name]) not in (1, 3):
                raise ValueError(f"`{name}` must be one number or three (R, G, B), but is {kwargs[name]}; give three.")
        for name in ("image_mean", "image_std", "rescale_factor"):
            if (numbers := kwargs.get(name)) is not None and not _are_in_range(numbers, above_0=name != "image_mean"):
                above = "" if name == "image_mean" else " above 0"
                raise ValueError(f"`{name}` must hold finite numbers{above}, but is {numbers}; correct it.")
        if (white := kwargs.get("max_value")) is not None and not (type(white) is int and 1 <= white <= 65535):
            raise ValueError(f"`max_value` must be a whole number from 1 to 65535, but is {white!r}; correct it.")
        for name, known in (
            ("input_data_format", ("channels_first", "channels_last")),
            ("data_format", ("channels_first",)),
            ("resample", sorted(PILImageResampling)),
        ):
            if kwargs.get(name) not in (None, *known):
                names = ", ".join(repr(getattr(each, "value", each)) for each in known)
                raise ValueError(f"`{name}` must be one of {names}, but is {kwargs[name]!r}; choose one.")
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
            label = _label(source, f"images[{index}]")
            photo = open_image(source, label, options["input_data_format"], options["max_value"])
            image = read_image(photo, label, options["max_value"])
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
