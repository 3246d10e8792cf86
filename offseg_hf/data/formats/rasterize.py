"""Which pixels a polygon holds: each tool has its own answer, and a mask must have the one of its tool."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw


def fill_corners(outlines: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside, coordinates being those of the pixels' corners (stub: to be written)."""
    raise NotImplementedError


def fill_pillow(outlines: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """As Pillow's `ImageDraw.polygon` fills them, edges included: labelme.

    Args:
        outlines (sequence of `np.ndarray`): polygons of shape (N, 2), x and y in pixels, whose union is filled.
        size (`tuple[int, int]`): height and width of the picture in pixels.

    Returns:
        `np.ndarray`: boolean, of shape (height, width).
    """
    canvas = Image.new("1", size[::-1])
    draw = ImageDraw.Draw(canvas)
    for outline in outlines:
        draw.polygon([tuple(point) for point in outline.tolist()], outline=1, fill=1)
    return np.array(canvas)


# Name → what fills outlines: their union, as a boolean array of a size.
FILLS: dict[str, Callable[[Sequence[np.ndarray], tuple[int, int]], np.ndarray]] = {
    "corners": fill_corners,
    "pillow": fill_pillow,
}
