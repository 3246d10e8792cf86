"""Label maps as pictures: colours, overlays on the photo, legends, sheets that compare several."""

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from offseg_hf.pictures.palettes import IGNORE_COLOUR

IGNORE_INDEX = 255
IGNORE_NAME = "(ignored)"
LONGEST_NAME = 48  # characters of a class name in a legend; longer ones are cut
ERROR_COLOUR = (230, 30, 30)


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


def add_legend(image: Image.Image, label_map: np.ndarray, id2label: dict[int, str], palette: ArrayLike) -> Image.Image:
    """The picture with a legend below: the classes found, the largest first, with their shares of all pixels.

    Args:
        image (`PIL.Image.Image`): a picture of any size, for instance from [`overlay`].
        label_map (`np.ndarray`): integer class ids of shape (height, width); 255 for ignored pixels.
        id2label (`dict[int, str]`): names of the classes; a class without one goes by its id.
        palette (array-like): colours of the K classes, shape (K, 3), integers from 0 to 255.

    Returns:
        `PIL.Image.Image`: an RGB picture, higher than the given one, and wider where a name needs the room.

    Raises:
        ValueError: if an id has no colour, or the label map is not of shape (height, width).
    """
    label_map, colours = _checked(label_map, palette)
    counts = np.bincount(label_map.ravel(), minlength=len(colours))
    entries = []
    for index in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]:
        share = 100 * counts[index] / label_map.size
        share = "<0.1" if share < 0.05 else f"{share:.1f}"
        entries.append((colours[index], f"{_class_name(index, id2label, palette)}  {share} %"))
    return _with_legend(image.convert("RGB"), entries)


def mark_errors(image: Image.Image, is_wrong: np.ndarray) -> Image.Image:
    """The photo in grey, with the pixels in red whose class is wrong.

    Args:
        image (`PIL.Image.Image`): the photo.
        is_wrong (`np.ndarray`): booleans of shape (height, width), the photo's size.

    Returns:
        `PIL.Image.Image`: an RGB picture of the same size.
    """
    picture = image.convert("L").convert("RGB")
    red = Image.blend(picture, Image.new("RGB", picture.size, ERROR_COLOUR), 0.75)
    picture.paste(red, mask=Image.fromarray(np.asarray(is_wrong)))
    return picture


def picture_sheet(
    rows: Sequence[Sequence[Image.Image | np.ndarray]],
    headers: Sequence[str],
    id2label: dict[int, str],
    palette: ArrayLike,
    cell_width: int = 384,
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """One picture to compare by eye: rows of photos and label maps, a header over each column, a legend below.

    Args:
        rows (sequence of sequences): the cells, as many a row as there are headers: photos (`PIL.Image.Image`), and
            label maps (integer `np.ndarray` of shape (height, width); 255 for ignored pixels) that are coloured.
        headers (sequence of `str`): the columns' names, such as `("image", "truth", "prediction")`.
        id2label (`dict[int, str]`): names of the classes; a class without one goes by its id.
        palette (array-like): colours of the K classes, shape (K, 3), integers from 0 to 255.
        cell_width (`int`): width that every cell is scaled to, in pixels, at least 32; its ratio is kept.
        captions (sequence of `str`, *optional*): a line of text above each row.

    Returns:
        `PIL.Image.Image`: an RGB picture.

    Raises:
        ValueError: if a row has more or fewer cells than there are headers, there is no row, the captions are not as
            many as the rows, or an id has no colour.
    """
    if not rows or any(len(row) != len(headers) for row in rows):
        raise ValueError(
            f"`rows` must have at least one row and a cell for each of the {len(headers)} headers in each, got "
            f"{[len(row) for row in rows]} cells."
        )
    if captions is not None and len(captions) != len(rows):
        raise ValueError(f"`captions` must be one for each of the {len(rows)} rows, got {len(captions)}.")
    gap, found = 8, set()
    font_size = max(12, cell_width // 20)
    font = ImageFont.load_default(size=font_size)
    top = font_size + 2 * gap
    caption_height = font_size + gap if captions else 0
    strips = []
    for row in rows:
        cells = []
        for cell in row:
            if isinstance(cell, Image.Image):
                picture, resampling = cell, Image.Resampling.BICUBIC
            else:
                picture, resampling = colorize(cell, palette), Image.Resampling.NEAREST
                found.update(np.flatnonzero(np.bincount(cell.ravel())).tolist())
            size = (cell_width, max(1, round(picture.height * cell_width / picture.width)))
            cells.append(picture.convert("RGB").resize(size, resampling))
        strips.append(cells)

    heights = [max(cell.height for cell in cells) for cells in strips]
    width = len(headers) * (cell_width + gap) + gap
    sheet = Image.new("RGB", (width, top + sum(heights) + (gap + caption_height) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, header in enumerate(headers):
        centre = gap + column * (cell_width + gap) + cell_width / 2
        draw.text((centre, top / 2), header, fill="black", font=font, anchor="mm")
    for index, (cells, height) in enumerate(zip(strips, heights)):
        if captions:
            draw.text((gap, top + font_size / 2), _plain(captions[index]), fill="black", font=font, anchor="lm")
            top += caption_height
        for column, cell in enumerate(cells):
            sheet.paste(cell, (gap + column * (cell_width + gap), top))
        top += height + gap
    if not found:
        return sheet
    colours = _colour_table(palette)
    entries = [(colours[index], _class_name(index, id2label, palette)) for index in sorted(found)]
    return _with_legend(sheet, entries, font_size)


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


def _class_name(index, id2label, palette):
    """What a legend calls a class."""
    if index == IGNORE_INDEX >= len(palette):
        return IGNORE_NAME
    return short_name(index, id2label)


def short_name(index: int, id2label: dict[int, str]) -> str:
    """The name of a class as pictures show it.

    Args:
        index (`int`): the class id.
        id2label (`dict[int, str]`): names of the classes.

    Returns:
        `str`: at most 48 ASCII characters; the id where there is no name, or none in ASCII.
    """
    name = _plain(str(id2label.get(int(index), int(index)))) or str(index)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."


def _plain(text):
    """Text in ASCII; for all else, Pillow's own font, the only one that is there on every machine, draws boxes."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().strip()


def _with_legend(image, entries, font_size=None):
    """The picture above lines of (colour, text) entries."""
    font = ImageFont.load_default(size=font_size or max(12, min(48, max(image.size) // 45)))
    gap = font.size // 2
    column_width = font.size + 3 * gap + math.ceil(max(font.getlength(text) for _, text in entries))
    num_columns = max(1, (image.width - gap) // column_width)
    line_height = font.size + gap
    num_lines = math.ceil(len(entries) / num_columns)
    size = (max(image.width, gap + column_width), image.height + gap + num_lines * line_height)
    picture = Image.new("RGB", size, "white")
    picture.paste(image)
    draw = ImageDraw.Draw(picture)
    for position, (colour, text) in enumerate(entries):
        line, column = divmod(position, num_columns)
        x, y = gap + column * column_width, image.height + gap + line * line_height
        draw.rectangle((x, y, x + font.size - 1, y + font.size - 1), fill=tuple(colour.tolist()), outline="grey")
        draw.text((x + font.size + gap, y + font.size / 2), text, fill="black", font=font, anchor="lm")
    return picture
