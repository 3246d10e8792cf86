"""Label maps of whole photos or of windows that slide over them, a few rows at a time."""

import torch
import torch.nn.functional as F
from transformers import AutoModelForSemanticSegmentation, PreTrainedModel

from offseg_hf.model_types import auto_model_class
from offseg_hf.models.label_map import check_finite
from offseg_hf.prediction.evaluation_mode import evaluation_mode
from offseg_hf.prediction.outputs import model_outputs
from offseg_hf.prediction.scores import class_scores, most_likely

MAX_BAND_VALUES = 2**20  # logits of one band of rows: 4 MB in float32, of which there are several forms


@torch.no_grad()
def sliding_window_logits(
    model: PreTrainedModel,
    pixel_values: torch.Tensor,
    window_size: int | tuple[int, int],
    stride: int | tuple[int, int],
) -> torch.Tensor:
    """Logits of photos of any size, from windows that slide over them.

    Windows lie at multiples of the stride, the last ones shifted back inside; on a photo that is smaller than a
    window, the window is the photo. Each window's logits are upsampled bilinearly to the window, and every pixel gets
    the mean over its windows. All logits are held at once: [`label_maps_in_bands`] needs far less memory.

    Args:
        model (`transformers.PreTrainedModel`): a segmentation model, on any device and in any dtype; put in evaluation
            mode for the call.
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): normalised photos.
        window_size (`int` or `tuple[int, int]`): (height, width) of a window in pixels; one number for a square.
        stride (`int` or `tuple[int, int]`): pixels from one window to the next, down and across; at most the window's.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels, height, width)`: in float32, on the model's device; of models
        that classify masks the scores of [`~offseg_hf.models.modeling_offseg_mask2former.semantic_scores`].

    Raises:
        ValueError: where a number is below 1, or the windows would leave gaps.
    """
    window, steps = check_windows(window_size, stride)
    with evaluation_mode(model):
        size = pixel_values.shape[-2:]
        return torch.cat(list(_bands(model, pixel_values, size, size[0], window, steps)), dim=2)


@torch.no_grad()
def label_maps_in_bands(
    model: PreTrainedModel,
    pixel_values: list[torch.Tensor],
    size: tuple[int, int],
    window_size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    flip: bool = False,
) -> torch.Tensor:
    """Label maps by the benchmarks' protocol, without ever holding all logits of a photo.

    The logits at the size of `pixel_values`, see [`sliding_window_logits`], are resized bilinearly to `size`, and the
    largest counts. That is done for a few rows at a time, from the windows' logits at the model's own resolution, and
    of these only the windows that reach into the rows are kept.

    With several views of the photos (scales, flips), their softmax probabilities (sigmoid, for a single class) are
    averaged at `size`, as is customary for models that classify pixels; of models that classify masks, the scores are
    averaged as they are, as Mask2Former's authors do.

    Args:
        model (`transformers.PreTrainedModel`): see [`sliding_window_logits`], as `window_size` and `stride`, which may
            be left out here: the model then sees whole photos.
        pixel_values (`list[torch.Tensor]` of shapes `(batch_size, 3, height, width)`): the same normalised photos, at
            one or more scales.
        size (`tuple[int, int]`): (height, width) of the label maps.
        flip (`bool`, *optional*, defaults to `False`): whether to add the horizontal mirror image of every view.

    Returns:
        `torch.LongTensor` of shape `(batch_size, height, width)`: class ids; with a model of a single class, 1 for it
        and 0 for the background.

    Raises:
        ValueError: as [`sliding_window_logits`].
    """
    window_size, stride = check_windows(window_size, stride)
    views = [(values, mirrored) for values in pixel_values for mirrored in ((False, True) if flip else (False,))]
    are_logits = auto_model_class(model.config) is AutoModelForSemanticSegmentation
    widest = max(size[1], *(values.shape[-1] for values in pixel_values))
    num_rows = max(1, MAX_BAND_VALUES // (len(pixel_values[0]) * model.config.num_labels * widest))
    rows = []
    with evaluation_mode(model):
        bands = [
            _bands(model, values.flip(-1) if mirrored else values, size, num_rows, window_size, stride)
            for values, mirrored in views
        ]
        for bands_of_views in zip(*bands):
            total = 0
            for scores, (_, mirrored) in zip(bands_of_views, views):
                if len(views) > 1 and are_logits:  # a single class is found where its probability is above one half
                    scores = scores.softmax(dim=1) if scores.shape[1] > 1 else scores.sigmoid() - 0.5
                total = total + (scores.flip(-1) if mirrored else scores)
            rows.append(most_likely(total))
    return torch.cat(rows, dim=1)


def _bands(model, pixel_values, size, num_rows, window_size, stride):
    """Logits of `sliding_window_logits` at `size`, from the top, (B, K, num_rows, size[1]) at a time."""
    height, width = pixel_values.shape[-2:]
    tops, lefts, window = _windows((height, width), window_size, stride)
    count = torch.zeros(height), torch.zeros(width)  # windows over each row and over each column
    for counts, starts, length in zip(count, (tops, lefts), window):
        for start in starts:
            counts[start : start + length] += 1

    logits = {}  # of the windows whose top is the key, from left to right, at the model's resolution
    for start in range(0, size[0], num_rows):
        lines = _source_lines(start, min(start + num_rows, size[0]), height, size[0])
        first, last = lines[0][0].item(), lines[1][-1].item() + 1  # rows of the photo under the band
        reaching = [top for top in tops if top < last and top + window[0] > first]
        for top in reaching:
            if top not in logits:
                rows = pixel_values[..., top : top + window[0], :]
                logits[top] = [_window_logits(model, rows[..., left : left + window[1]]) for left in lefts]
        logits = {top: logits[top] for top in reaching}

        total = 0
        for top in reaching:
            begin, end = max(top, first), min(top + window[0], last)
            for left, of_window in zip(lefts, logits[top]):
                inside = _source_lines(begin - top, end - top, of_window.shape[2], window[0])
                upsampled = _resized(of_window, inside, window[1])
                if isinstance(total, int):
                    total = upsampled.new_zeros((*upsampled.shape[:2], last - first, width))
                total[..., begin - first : end - first, left : left + window[1]] += upsampled
        total /= (count[0][first:last, None] * count[1]).to(total)
        yield _resized(total, [lines[0] - first, lines[1] - first, lines[2]], size[1])


def check_windows(
    window_size: int | tuple[int, int] | None, stride: int | tuple[int, int] | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Checks that sliding windows leave no gaps.

    Args:
        window_size (`int` or `tuple[int, int]`): (height, width) in pixels, one number for a square; `None` for none.
        stride (`int` or `tuple[int, int]`): from one window to the next, down and across; `None` where there is none.

    Returns:
        `tuple`: both as pairs, or `None` and `None`.

    Raises:
        ValueError: where the stride is less than 1 or more than the window, or only one of the two is given.
    """
    if window_size is None:
        if stride is not None:
            raise ValueError(f"`window_size` must be given where `stride` is, got {stride} alone; pass both.")
        return None, None
    window, steps = _pair(window_size), None if stride is None else _pair(stride)
    if steps is None or not all(1 <= step <= length for length, step in zip(window, steps)):
        raise ValueError(
            f"`stride` must be from 1 to the `window_size` down and across, got {steps} for windows of {window}; "
            "windows further apart would leave pixels out, so pass a smaller stride."
        )
    return window, steps


def _pair(numbers: int | tuple[int, int]) -> tuple[int, int]:
    """One number for both directions, or the two that were given."""
    return numbers if isinstance(numbers, (tuple, list)) else (numbers, numbers)


def _windows(size, window_size, stride):
    """The windows' tops, their lefts, and their (height, width), in a photo of `size`."""
    if window_size is None:
        return [0], [0], size
    window = tuple(min(pair) for pair in zip(window_size, size))
    starts = [[*range(0, side - length, step), side - length] for side, length, step in zip(size, window, stride)]
    return *starts, window


def _window_logits(model, pixel_values):
    """Logits (B, K, h, w) at the model's resolution, in float32; scores, where the model classifies masks."""
    scores = class_scores(model_outputs(model, pixel_values=pixel_values)).float()
    check_finite(scores)
    return scores


def _source_lines(start, stop, old, new):
    """For lines start…stop of `new`, bilinearly from `old`: the two lines that each lies between, and its share."""
    position = ((torch.arange(start, stop) + 0.5) * (old / new) - 0.5).clamp(min=0)
    lower = position.long().clamp(max=old - 1)
    return lower, (lower + 1).clamp(max=old - 1), position - lower


def _resized(logits, lines, width):
    """Logits (B, K, h, w), bilinearly at `width`, and at the given lines between their rows."""
    lower, upper, share = lines
    first, last = lower[0].item(), upper[-1].item() + 1
    rows = logits[..., first:last, :]
    rows = F.interpolate(rows, (last - first, width), mode="bilinear", align_corners=False)
    lower, upper, share = (lower - first).to(rows.device), (upper - first).to(rows.device), share[:, None].to(rows)
    return rows[..., lower, :].lerp(rows[..., upper, :], share)
