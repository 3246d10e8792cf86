"""A photo with its classes laid over it, and their names written on them."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from offseg_hf.pictures.fonts import default_font, fitting_text, font_of
from offseg_hf.pictures.overlays import IGNORE_INDEX, overlay

PADDING = 3  # pixels around a name
DOT = 3  # radius in pixels of the dot on what is too small for its name
LONGEST = 0.45  # of the picture's width, that a name may take
FARTHEST = 100  # pixels from a name to its dot


def name_regions(
    photo: Image.Image, label_map: np.ndarray, id2label: dict[int, str], palette: np.ndarray, font_size: int = 14
) -> Image.Image:
    """The photo in the colours of its classes, with the name of each on its largest region.

    A name stands where its region is widest; that of a region which is too small for it stands beside, and a line
    leads to a dot on the region. No name lies over another; the smallest regions come first, and where there is no
    room near a region, its dot must do. Even a class of a single pixel is marked.

    Args:
        photo (`PIL.Image.Image`): the photo as it is to be shown.
        label_map (`np.ndarray`): class ids, unsigned integers of shape (height, width) of any size; 255 for what is
            not labelled, where the photo stays as it is.
        id2label (`dict[int, str]`): names of the classes; one without is `class 3`, as is one that no font has.
        palette (`np.ndarray`): colours of the K classes, uint8 of shape (K, 3).
        font_size (`int`): height of the letters, in pixels.

    Returns:
        `PIL.Image.Image`: an RGB picture of the photo's size.

    Raises:
        ValueError: if an id has no colour.
    """
    shown = np.asarray(Image.fromarray(label_map.astype(np.int32)).resize(photo.size, Image.Resampling.NEAREST))
    picture = overlay(photo, shown, palette)
    regions = _regions(label_map, shown)
    is_free = np.ones(shown.shape, bool)
    for _, _, dot in regions:  # no name hides another's dot, which is all that one sees of a small region
        _take(is_free, _box_around(dot, DOT, DOT))
    names, leaders = [], []
    for class_id, region, dot in regions:
        text, font = class_text(class_id, id2label, font_size)
        shortened = fitting_text(text, font, LONGEST * picture.width)
        text = shortened if shortened == text or len(shortened) > 4 else str(class_id)
        half = (font_size // 2 + PADDING, round(font.getlength(text)) // 2 + PADDING)
        centre, is_inside = _place(region, dot, is_free, half)
        if not is_inside:
            leaders.append((dot, centre or dot, class_id))
        if centre:
            names.append((centre, half, text, font, class_id))
            _take(is_free, _box_around(centre, *half))

    draw = ImageDraw.Draw(picture)
    colours = [tuple(colour) for colour in palette.tolist()]
    for dot, centre, class_id in leaders:
        for ink, width in ((ink_on(colours[class_id]), 3), (colours[class_id], 1)):
            draw.line([dot[::-1], centre[::-1]], ink, width)
    for dot, _, class_id in leaders:
        draw.ellipse(_box_around(dot, DOT, DOT), colours[class_id], ink_on(colours[class_id]))
    for centre, half, text, font, class_id in names:
        ink = ink_on(colours[class_id])
        draw.rounded_rectangle(_box_around(centre, *half), PADDING, colours[class_id], ink)
        draw.text(centre[::-1], text, ink, font, anchor="mm")
    return picture


def class_text(class_id: int, id2label: dict[int, str], font_size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """How a class is called in pictures.

    Args:
        class_id (`int`): the class id.
        id2label (`dict[int, str]`): names of the classes.
        font_size (`int`): in pixels.

    Returns:
        `tuple[str, PIL.ImageFont.FreeTypeFont]`: its name on one line and a font that has it; `"class 3"` where there
        is no name, or no font has it.
    """
    text = " ".join(str(id2label.get(class_id, "")).split()) or f"class {class_id}"
    font = font_of(text, font_size)
    return (text, font) if font else (f"class {class_id}", default_font(font_size))


def ink_on(colour: tuple[int, int, int]) -> str:
    """`"black"` or `"white"`, whichever is read more easily on a colour."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _regions(label_map, shown):
    """(class id, its largest region or None, (row, column) on it) of each class in the picture, the smallest first."""
    found = []
    for class_id in np.unique(label_map).tolist():
        if class_id == IGNORE_INDEX:
            continue
        parts, num_parts = ndimage.label(shown == class_id, np.ones((3, 3)))
        if num_parts == 0:  # it is lost where the map was reduced
            rows, columns = np.nonzero(label_map == class_id)
            middle = len(rows) // 2
            scale = np.array(shown.shape) / label_map.shape
            row, column = ((np.array([rows[middle], columns[middle]]) + 0.5) * scale).astype(int).tolist()
            found.append((0, class_id, None, (row, column)))
            continue
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        region = parts == sizes.argmax()
        dot = _position(_depth(region).argmax(), region.shape)
        found.append((int(sizes.max()), class_id, region, dot))
    return [entry[1:] for entry in sorted(found, key=lambda entry: entry[:2])]


def _depth(region, sampling=None):
    """How far inside of a region each pixel is; the picture's edge bounds it too."""
    depth = np.zeros(region.shape)
    box = ndimage.find_objects(region.astype(np.uint8))[0]  # of the region, which mostly is a small part
    depth[box] = ndimage.distance_transform_edt(np.pad(region[box], 1), sampling)[1:-1, 1:-1]
    return depth


def _place(region, dot, is_free, half):
    """(row, column) of a name's centre, or None, and whether the name lies on its region."""
    if region is not None:
        depth = _depth(region, (0.5 / half[0], 0.5 / half[1]))  # counted in sizes of the name
        own = is_free.copy()  # a name that lies on its region may hide the region's own dot, which is not drawn then
        _take(own, _box_around(dot, DOT, DOT), True)
        depth = np.where(_allowed(own, half), depth, 0)
        best = _position(depth.argmax(), depth.shape)
        if depth[best] >= 0.5:
            return best, True
    rows, columns = np.ogrid[: is_free.shape[0], : is_free.shape[1]]
    distance = np.hypot(rows - dot[0], columns - dot[1])
    distance[~_allowed(is_free, half)] = np.inf
    best = _position(distance.argmin(), distance.shape)
    return (best if distance[best] <= FARTHEST else None), False


def _allowed(is_free, half):
    """The pixels on which a name's centre may lie: all below the name is free and in the picture."""
    size = (2 * half[0] + 3, 2 * half[1] + 3)
    return ndimage.minimum_filter(is_free, size, mode="constant", cval=False)


def _box_around(centre, half_height, half_width):
    """(left, top, right, bottom) around a (row, column)."""
    row, column = centre
    return (column - half_width, row - half_height, column + half_width, row + half_height)


def _take(is_free, box, value=False):
    """Marks the pixels of a box as taken, or as free again."""
    left, top, right, bottom = box
    is_free[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = value


def _position(index, shape):
    """(row, column) of an index into the flat array."""
    row, column = np.unravel_index(index, shape)
    return int(row), int(column)
