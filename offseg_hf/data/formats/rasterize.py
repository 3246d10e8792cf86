"""Which pixels a polygon holds: each tool has its own answer, and a mask must have the one of its tool.

All take outlines of shape (N, 2), x and y in pixels of the picture, and give a part of the picture, so that a small
object costs little: `size` is the part's height and width, and `corner` the x and y of its top left pixel.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

COCO_GRID = 5  # pycocotools walks along the edges on a grid that is this much finer than the pixels
FRACTION_BITS = 16  # of OpenCV's fixed point


def fill_corners(
    outlines: Sequence[np.ndarray], size: tuple[int, int], corner: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """The union of outlines as COCO has it, coordinates being those of the pixels' corners.

    The same pixels as `frPyObjects`, `merge` and `decode` of pycocotools 2.0.11 (`rleFrPoly`): a column begins and
    ends where the edges cross its middle, by points of a grid of fifths of a pixel.

    Args:
        outlines (sequence of `np.ndarray`): polygons of shape (N, 2), x and y in pixels.
        size (`tuple[int, int]`): height and width in pixels of what is given back.
        corner (`tuple[int, int]`): x and y of its first pixel in the picture.

    Returns:
        `np.ndarray`: boolean, of shape (height, width).
    """
    height, width = size
    inside: np.ndarray = np.zeros(size, bool)
    for outline in outlines:
        start = (COCO_GRID * np.asarray(outline, float) + 0.5).astype(np.int64)  # towards zero, as C casts
        end = np.roll(start, -1, axis=0)
        x, y = _grid_points(start, end)
        left, row = np.minimum(x[1:], x[:-1]), np.minimum(y[1:], y[:-1])
        crosses = (x[1:] != x[:-1]) & (left % COCO_GRID == COCO_GRID // 2)  # the middle of a column
        column = left[crosses] // COCO_GRID - corner[0]
        row = -((COCO_GRID // 2 - row[crosses]) // COCO_GRID) - corner[1]  # the first whose middle is not above
        is_here = (column >= 0) & (column < width)
        inside |= _between(row[is_here].clip(0, height), column[is_here], height, width)
    return inside


def fill_pillow(outlines: Sequence[np.ndarray], size: tuple[int, int], corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The union of outlines as Pillow's `ImageDraw.polygon` has it, edges included: labelme.

    Args:
        outlines (sequence of `np.ndarray`): polygons of shape (N, 2), x and y in pixels.
        size (`tuple[int, int]`): height and width in pixels of what is given back.
        corner (`tuple[int, int]`): x and y of its first pixel in the picture.

    Returns:
        `np.ndarray`: boolean, of shape (height, width).
    """
    left, top = corner
    canvas = Image.new("1", (left + size[1], top + size[0]))  # from the picture's corner: Pillow rounds slopes from it
    draw = ImageDraw.Draw(canvas)
    for outline in outlines:
        draw.polygon([tuple(point) for point in outline.tolist()], outline=1, fill=1)
    return np.array(canvas)[top:, left:]


def fill_opencv(outlines: Sequence[np.ndarray], size: tuple[int, int], corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The union of outlines as OpenCV's `fillPoly` has it, edges included: Supervisely, ultralytics, supervision.

    Args:
        outlines (sequence of `np.ndarray`): polygons of shape (N, 2), x and y in pixels; they are whole numbers, since
            each tool has its own way to make such of others.
        size (`tuple[int, int]`): height and width in pixels of what is given back.
        corner (`tuple[int, int]`): x and y of its first pixel in the picture.

    Returns:
        `np.ndarray`: boolean, of shape (height, width).
    """
    inside: np.ndarray = np.zeros(size, bool)
    for outline in outlines:
        start = np.asarray(outline).astype(np.int64) - np.array(corner)
        end = np.roll(start, -1, axis=0)
        first, last = _clip(start, end, size)
        _draw_lines(inside, first, last)
        inside |= _scanlines(start, end, first, last, size)
    return inside


def fill_darwin(outlines: Sequence[np.ndarray], size: tuple[int, int], corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    """What an odd number of the outlines holds, and their edges: Darwin, of holes too.

    The same pixels as `draw_polygon` of upolygon 0.2.3, which darwin-py 3.6.3 draws masks with.

    Args:
        outlines (sequence of `np.ndarray`): polygons of shape (N, 2), x and y in pixels, whole numbers.
        size (`tuple[int, int]`): height and width in pixels of what is given back.
        corner (`tuple[int, int]`): x and y of its first pixel in the picture.

    Returns:
        `np.ndarray`: boolean, of shape (height, width).
    """
    starts = [np.asarray(outline).astype(np.int64) - np.array(corner) for outline in outlines]
    ends = [np.roll(start, -1, axis=0) for start in starts]
    start, end = np.concatenate(starts), np.concatenate(ends)
    inside = _scanlines(start, end, start, end, size)
    _draw_lines(inside, start, end, with_lower_right_end=False)
    return inside


def _grid_points(start, end):
    """The points of all edges one after another, in the direction of the outline: x and y."""
    way = end - start
    count = np.abs(way).max(1) + 1
    edge, step = _repeated(count)
    is_flat = np.abs(way[:, 0]) >= np.abs(way[:, 1])
    major = np.where(is_flat, 0, 1)
    rows = np.arange(len(start))
    # Each edge is walked from its smaller end, which decides how halves are rounded.
    is_flipped = way[rows, major] < 0
    first = np.where(is_flipped[:, None], end, start)
    length = (count - 1).astype(float)
    slope = np.where(is_flipped, -1, 1) * way[rows, 1 - major] / np.maximum(length, 1)
    along = np.where(is_flipped[edge], count[edge] - 1 - step, step)
    across = (first[rows, 1 - major][edge] + slope[edge] * along + 0.5).astype(np.int64)
    along = along + first[rows, major][edge]
    return np.where(is_flat[edge], along, across), np.where(is_flat[edge], across, along)


def _scanlines(start, end, first, last, size):
    """Pixels from an odd edge to the next in each row, both included; edges do not have their lower end.

    An edge goes from start to end on the line through first and last, which are those but for what was rounded when
    the edge was clipped.
    """
    height, width = size
    top = np.minimum(start[:, 1], end[:, 1]).clip(0, height)
    bottom = np.maximum(start[:, 1], end[:, 1]).clip(0, height)
    edge, step = _repeated(bottom - top)
    row = top[edge] + step
    is_level = first[:, 1] == last[:, 1]  # cut off: its columns are known, its rows are not
    first[is_level, 1], last[is_level, 1] = start[is_level, 1], end[is_level, 1]
    run, rise = ((last - first) * [1 << FRACTION_BITS, 1]).T
    slope = np.sign(run * rise) * (np.abs(run) // np.maximum(np.abs(rise), 1))  # towards zero
    upper = np.where((rise > 0)[:, None], first, last)[edge]
    place = (upper[:, 0] << FRACTION_BITS) + (row - upper[:, 1]) * slope[edge]
    order = np.lexsort((place, row))
    place, row = place[order], row[order][::2]
    left = -(-place[::2] >> FRACTION_BITS)
    right = (place[1::2] >> FRACTION_BITS) + 1
    is_wide = left < right
    marks = np.zeros((height, width + 1), np.int64)
    np.add.at(marks, (row[is_wide], left[is_wide].clip(0, width)), 1)
    np.add.at(marks, (row[is_wide], right[is_wide].clip(0, width)), -1)
    return marks.cumsum(1)[:, :-1] > 0


def _between(place, line, length, num_lines):
    """Of each line the pixels between its first and second place, its third and fourth, …: (length, num_lines)."""
    marks = np.bincount(line * (length + 1) + place, minlength=num_lines * (length + 1)).astype(np.uint8)
    return np.bitwise_xor.accumulate(marks.reshape(num_lines, length + 1) & 1, axis=1)[:, :-1].T.astype(bool)


def _draw_lines(canvas, start, end, with_lower_right_end=True):
    """Draws 8-connected lines from left to right, halves rounded towards their beginning."""
    is_left = (start[:, 0] <= end[:, 0])[:, None]
    first, last = np.where(is_left, start, end), np.where(is_left, end, start)
    way = last - first
    longer = np.abs(way).max(1)
    edge, step = _repeated(longer + (with_lower_right_end | (way[:, 0] == 0) | (way[:, 1] <= 0)))
    length = np.maximum(longer, 1)[edge]
    moved = [(2 * np.abs(one[edge]) * step + length - 1) // (2 * length) * np.sign(one[edge]) for one in way.T]
    x, y = first[edge, 0] + moved[0], first[edge, 1] + moved[1]
    is_here = (x >= 0) & (x < canvas.shape[1]) & (y >= 0) & (y < canvas.shape[0])
    canvas[y[is_here], x[is_here]] = True


def _clip(start, end, size):
    """Lines cut off at the picture's borders as OpenCV does it, the new ends rounded towards the old ones."""
    ends, limit = (start.copy(), end.copy()), np.array(size[::-1]) - 1
    for axis in (1, 0):
        sides = [(one > limit).astype(int) - (one < 0) for one in ends]
        may_cross = ~((sides[0] == sides[1]) & (sides[0] != 0)).any(1)
        for side, mine, other in ((sides[0], *ends), (sides[1], *ends[::-1])):
            cut = may_cross & (side[:, axis] != 0)
            border = np.where(side[cut, axis] < 0, 0, limit[axis])
            way = (other - mine)[cut]
            mine[cut, 1 - axis] += ((border - mine[cut, axis]) * way[:, 1 - axis] / way[:, axis]).astype(np.int64)
            mine[cut, axis] = border
    return ends


def _repeated(count):
    """For each edge as many steps as its count: number of the edge, number of the step."""
    edge = np.repeat(np.arange(len(count)), count)
    return edge, np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)


# Name → what fills outlines: a boolean array of a size, whose first pixel is the one at a corner.
FILLS: dict[str, Callable[[Sequence[np.ndarray], tuple[int, int], tuple[int, int]], np.ndarray]] = {
    "corners": fill_corners,
    "darwin": fill_darwin,
    "opencv": fill_opencv,
    "pillow": fill_pillow,
}
