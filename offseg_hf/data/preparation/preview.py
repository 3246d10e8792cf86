"""One picture of a data set, to look at before a training: photos with their classes named, and what they hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from offseg_hf.data.preparation.statistics import LabelStatistics
from offseg_hf.data.presets import class_palette
from offseg_hf.models.image_processing_offseg import ImageSource, open_image, read_image
from offseg_hf.models.image_reading import EXIF_ORIENTATION, QUARTER_TURNS
from offseg_hf.pictures.fonts import default_font, fitting_text, font_of
from offseg_hf.pictures.named_regions import class_text, name_regions

NUM_PHOTOS = 16
WIDTH, MARGIN, GAP = 1600, 32, 12  # pixels
ROW_HEIGHT, HIGHEST = 290, 420  # pixels of a row of photos, about and at most
NARROWEST, WIDEST = 0.4, 3.0  # width by height of a photo's cell; what is narrower or wider has margins in it
TEXT, SMALL, TITLE = 15, 13, 28  # heights of letters
INK, PALE, RED, LINE, BAR_GROUND = "#202124", "#6b7075", "#c80028", "#d8dadd", "#f0f1f3"
VISIBLE = 0.001  # share of a photo's pixels from which on a class is seen well
NUM_SMALLEST = 5  # objects that are named


@dataclass(frozen=True, eq=False)
class PreviewExample:
    """A photo and its labels, read when they are drawn.

    Args:
        name (`str`): what is written below it, such as `"train · street/001"`.
        photo: anything that [`~offseg_hf.models.image_processing_offseg.open_image`] takes.
        class_ids (`Callable`): function that gives the upright photo's class ids, unsigned integers of shape (height,
            width), 255 for what is not labelled.
    """

    name: str
    photo: ImageSource
    class_ids: Callable[[], np.ndarray]


def choose_examples(counts: np.ndarray, num_examples: int = NUM_PHOTOS, seed: int = 0) -> list[int]:
    """Chooses examples in which every class is seen, as far as their number allows, and fills up with random ones.

    The class in the fewest photos comes first: of the photos with it, the one that shows most of the classes that are
    still missing, and of equal ones the one with most of its pixels. Classes count as shown from a thousandth of the
    photo on, or where they have no more in any.

    Args:
        counts (array-like): number of pixels of each class in each photo, of shape (N, K).
        num_examples (`int`): how many to choose at most.
        seed (`int`): of the random ones.

    Returns:
        `list[int]`: positions of `min(N, num_examples)` examples, sorted.
    """
    counts = np.asarray(counts)
    num_photos = (counts > 0).sum(0)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    is_seen = (shares > 0) & (shares >= np.minimum(VISIBLE, shares.max(0, initial=0)))
    missing = num_photos > 0
    chosen: list[int] = []
    for class_id in np.argsort(num_photos, kind="stable"):
        if missing[class_id] and len(chosen) < num_examples:
            candidates = np.flatnonzero(is_seen[:, class_id])
            num_new = is_seen[candidates][:, missing].sum(1)
            best = candidates[np.lexsort((shares[candidates, class_id], num_new))[-1]]
            chosen.append(int(best))
            missing &= ~is_seen[best]
    others = np.setdiff1d(np.arange(len(counts)), chosen)
    others = np.random.default_rng(seed).permutation(others)[: max(num_examples - len(chosen), 0)]
    return sorted([*chosen, *others.tolist()])


def preview_picture(
    examples: Sequence[PreviewExample],
    statistics: LabelStatistics,
    id2label: dict[int, str],
    *,
    title: str,
    num_photos: dict[str, int],
    near_duplicates: Sequence[Sequence[str]] | None = None,
    notes: Sequence[str] = (),
) -> Image.Image:
    """Draws what a person should see before a training: a swapped class, a rare one, objects of a few pixels.

    Args:
        examples (sequence of [`PreviewExample`]): photos to show, see [`choose_examples`].
        statistics ([`LabelStatistics`]): of all photos.
        id2label (`dict[int, str]`): names of the classes by class id, from 0.
        title (`str`): name of the data set.
        num_photos (`dict[str, int]`): number of photos in each split.
        near_duplicates (sequence of sequences of `str`, *optional*): names of the photos of each group of
            near-duplicates that lies in more than one split, where that was looked for.
        notes (sequence of `str`): sentences for the person.

    Returns:
        `PIL.Image.Image`: an RGB picture, 1,600 pixels wide.

    Raises:
        OSError, ValueError: a photo or its labels cannot be read.
    """
    palette = class_palette(id2label)
    parts = [
        _heading(title, num_photos),
        *_rows_of_photos(examples, id2label, palette),
        _class_table(statistics, id2label, palette),
        _sentences([(text, PALE) for text in _facts(statistics, id2label)] + _warnings(near_duplicates, notes)),
    ]
    picture = Image.new("RGB", (WIDTH, sum(part.height + GAP for part in parts) + 2 * MARGIN - GAP), "white")
    top = MARGIN
    for part in parts:
        picture.paste(part, (MARGIN, top))
        top += part.height + GAP
    return picture


# The photos


def _rows_of_photos(examples, id2label, palette):
    """The photos in rows that fill the width, each with its name below; one row at a time."""
    aspects = np.array([_aspect(example) for example in examples])
    width = WIDTH - 2 * MARGIN
    num_rows = max(1, round(aspects.sum() * ROW_HEIGHT / width))
    row_of = ((aspects.cumsum() - aspects / 2) * num_rows / aspects.sum()).astype(int)
    for row in np.unique(row_of):
        members = np.flatnonzero(row_of == row)
        height = min(HIGHEST, (width - (len(members) - 1) * GAP) / aspects[members].sum())
        edges = np.round(np.append(0, aspects[members].cumsum()) * height).astype(int).tolist()
        strip = Image.new("RGB", (width, round(height) + SMALL + GAP), "white")
        draw = ImageDraw.Draw(strip)
        for number, index in enumerate(members):
            left, cell = edges[number] + number * GAP, (edges[number + 1] - edges[number], round(height))
            strip.paste(_drawn(examples[index], cell, id2label, palette), (left, 0))
            _write(draw, (left, round(height) + SMALL), examples[index].name, SMALL, PALE, cell[0])
        yield strip


def _aspect(example):
    """Width by height of the cell of an upright photo, which is not decoded."""
    photo = open_image(example.photo, example.name, max_value=65535)
    is_turned = photo.getexif().get(EXIF_ORIENTATION) in QUARTER_TURNS
    aspect = photo.height / photo.width if is_turned else photo.width / photo.height
    return min(max(aspect, NARROWEST), WIDEST)


def _drawn(example, cell, id2label, palette):
    """The photo with its classes, in a cell of (width, height)."""
    opened = open_image(example.photo, example.name, max_value=65535)
    opened.draft("RGB", (2 * max(cell), 2 * max(cell)))  # of a JPEG no more is decoded than is needed
    photo, ids = read_image(opened, example.name, 65535), example.class_ids()
    scale = min(cell[0] / ids.shape[1], cell[1] / ids.shape[0])
    size = (min(cell[0], max(1, round(ids.shape[1] * scale))), min(cell[1], max(1, round(ids.shape[0] * scale))))
    if abs(size[0] - cell[0]) <= 2:  # which rounding makes of a photo that has the cell's form
        size = cell
    photo = photo.resize(size, Image.Resampling.BICUBIC)
    picture = Image.new("RGB", cell, BAR_GROUND)
    picture.paste(name_regions(photo, ids, id2label, palette), ((cell[0] - size[0]) // 2, (cell[1] - size[1]) // 2))
    return picture


# The words and the table


def _heading(title, num_photos):
    """The data set's name, and the number of its photos."""
    strip = Image.new("RGB", (WIDTH - 2 * MARGIN, TITLE + TEXT + 2 * GAP), "white")
    draw = ImageDraw.Draw(strip)
    _write(draw, (0, TITLE / 2), title, TITLE, INK, strip.width, is_bold=True)
    parts = ", ".join(f"{split} {number:,}" for split, number in num_photos.items())
    _write(draw, (0, TITLE + GAP + TEXT / 2), f"{_photos(sum(num_photos.values()))}: {parts}", TEXT, PALE, strip.width)
    return strip


def _class_table(statistics, id2label, palette):
    """A line for each class: its colour, its name, a bar of its share of the pixels, and numbers."""
    num_columns = 1 + (len(id2label) > 12)
    num_lines = -(-len(id2label) // num_columns)
    width = (WIDTH - 2 * MARGIN - (num_columns - 1) * 3 * GAP) // num_columns
    line = TEXT + 8
    strip = Image.new("RGB", (WIDTH - 2 * MARGIN, (num_lines + 1) * line + GAP), "white")
    draw = ImageDraw.Draw(strip)
    largest = max(statistics.pixels.values(), default=1)
    # Right edges of the columns of numbers, and where names and bars begin.
    smallest, objects, photos, share = (width - step for step in (0, 100, 180, 250))
    number, name, bar = 46, 56, 330
    for column in range(num_columns):
        left = column * (width + 3 * GAP)
        heads = (("photos", photos), ("objects", objects), ("smallest, px", smallest))
        _write(draw, (left + bar, line / 2), "share of the pixels", SMALL, PALE, share - bar)
        for text, right in heads:
            _write(draw, (left + right, line / 2), text, SMALL, PALE, 96, anchor="rm")
        draw.line((left, line - 1, left + width, line - 1), fill=LINE)
    for position, class_id in enumerate(sorted(id2label)):
        column, row = divmod(position, num_lines)
        left, top = column * (width + 3 * GAP), (row + 1) * line
        middle = top + line / 2
        draw.rounded_rectangle((left, top + 4, left + TEXT, top + 4 + TEXT), 3, fill=tuple(palette[class_id].tolist()))
        _write(draw, (left + number, middle), str(class_id), SMALL, PALE, 30, anchor="rm")
        text, _ = class_text(class_id, id2label, TEXT)
        num_pixels = statistics.pixels[class_id]
        _write(draw, (left + name, middle), text, TEXT, INK if num_pixels else RED, bar - name - GAP)
        if num_pixels == 0:
            _write(draw, (left + bar, middle), "does not occur", TEXT, RED, width - bar)
            continue
        ends = (left + bar, left + share - 62)
        draw.rectangle((ends[0], top + 6, ends[1], top + line - 5), fill=BAR_GROUND)
        length = max(1, round((ends[1] - ends[0]) * num_pixels / largest))
        draw.rectangle((ends[0], top + 6, ends[0] + length, top + line - 5), fill=tuple(palette[class_id].tolist()))
        numbers = (
            (_percent(num_pixels / statistics.num_pixels), share),
            (f"{statistics.photos[class_id]:,}", photos),
            (f"{statistics.objects[class_id]:,}", objects),
            (f"{statistics.smallest[class_id][0]:,}", smallest),
        )
        for text, right in numbers:
            _write(draw, (left + right, middle), text, TEXT, INK, 96, anchor="rm")
    return strip


def _facts(statistics, id2label):
    """Sentences of what was counted."""
    yield f"{_percent(statistics.share(statistics.num_unlabelled))} of the pixels are not labelled."
    if statistics.num_hidden is not None:
        hidden = _percent(statistics.share(statistics.num_hidden))
        yield f"On {hidden} of the pixels a shape lies over one of another class."
    smallest = sorted((size, class_id, name) for class_id, (size, name) in statistics.smallest.items())
    if smallest:
        shown = ", ".join(
            f"{class_text(class_id, id2label, TEXT)[0]} of {size:,} px in {name}"
            for size, class_id, name in smallest[:NUM_SMALLEST]
        )
        yield f"Smallest objects: {shown}."


def _warnings(near_duplicates, notes):
    """(sentence, colour) of what may be wrong."""
    sentences = []
    if near_duplicates:
        example = " and ".join(list(near_duplicates[0])[:2])
        groups = "1 group" if len(near_duplicates) == 1 else f"{len(near_duplicates):,} groups"
        sentences.append((f"{groups} of near-duplicates in more than one split, such as {example}.", RED))
    elif near_duplicates is not None:
        sentences.append(("No near-duplicates in different splits.", PALE))
    return sentences + [(note, RED) for note in notes]


def _sentences(sentences):
    """Text, a line for each sentence, or more where it is long."""
    width, lines = WIDTH - 2 * MARGIN, []
    for text, colour in sentences:
        line = ""
        for word in text.split():
            if line and _font(f"{line} {word}", TEXT).getlength(f"{line} {word}") > width:
                lines.append((line, colour))
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append((line, colour))
    strip = Image.new("RGB", (width, len(lines) * (TEXT + 8) + 1), "white")
    draw = ImageDraw.Draw(strip)
    for number, (line, colour) in enumerate(lines):
        _write(draw, (0, (number + 0.5) * (TEXT + 8)), line, TEXT, colour, width)
    return strip


def _write(draw, place, text, size, colour, width, anchor="lm", is_bold=False):
    """Writes as much of a text as fits into the width."""
    font = _font(text, size, is_bold)
    draw.text(place, fitting_text(text, font, width), fill=colour, font=font, anchor=anchor)


def _font(text, size, is_bold=False):
    """A font that has the text, or the usual one, which draws a box for what it lacks."""
    return font_of(text, size, is_bold) or default_font(size, is_bold)


def _photos(number):
    return "1 photo" if number == 1 else f"{number:,} photos"


def _percent(share):
    """A share in percent, to as many digits as tell something."""
    percent = 100 * share
    if 0 < percent < 0.01:
        return "<0.01 %"
    return f"{percent:.2f} %" if percent < 1 else f"{percent:.1f} %"
