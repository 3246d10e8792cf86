"""labelme: a JSON file per photo, of polygons, other figures and masks, drawn as labelme itself draws them."""

import base64
import io
import math
import re
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from offseg_hf.data.formats.beginnings import annotation_files, read_beginnings
from offseg_hf.data.formats.damage import naming, read_json, read_text
from offseg_hf.data.formats.drawing import upright_size
from offseg_hf.data.formats.photos import PhotoFolder, photo_path
from offseg_hf.data.formats.records import Bitmap, LabelledPhoto, Labels, Polygon, Shape, is_outline

NAMES_FILE = "labels.txt"
# Width of lines and radius of points in pixels: `labelme.utils.shape_to_mask` of labelme 6.3.1.
LINE_WIDTH, POINT_RADIUS = 10, 5
OUTLINES = ("polygon", "oriented_rectangle", None)  # None: before there were others
# How many points a figure has.
NUM_POINTS: dict[str | None, Container[int]] = {
    **dict.fromkeys(OUTLINES, range(3, sys.maxsize)),
    **dict.fromkeys(("rectangle", "circle", "line", "mask"), (2,)),
    "linestrip": range(1, sys.maxsize),
    "point": (1,),
}
# Writes the photo of each JSON file in the folder where it runs.
EXTRACT = (
    'python -c "import base64, glob, json; from pathlib import Path, PureWindowsPath as Name; '
    "[Path(Name(d['imagePath']).name).write_bytes(base64.b64decode(d['imageData'])) "
    "for d in map(json.load, map(open, glob.glob('*.json'))) if d.get('imageData')]\""
)


def find(place: Path) -> bool:
    """Whether a file, or one of the first JSON files below a folder, is labelme's.

    Args:
        place (`Path`): the folder or the file.

    Returns:
        `bool`
    """
    return any(re.search(r'"shapes"\s*:\s*\[|"imageData"\s*:', text) for text in read_beginnings(place, ".json"))


def read(place: Path) -> Labels:
    """What labelme's files say.

    Args:
        place (`Path`): a folder of JSON files, in whatever sub-folders, or one such file. The classes are those of
            `labels.txt` in that folder or the one around it, in its order; without it, those that occur.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: a file is damaged, has a figure that labelme cannot draw, or a class that `labels.txt` lacks.
    """
    folder = place if place.is_dir() else place.parent
    photos = PhotoFolder(folder)
    labelled = []
    for file in annotation_files(place, ".json"):
        content = read_json(file)
        if isinstance(content, dict) and content.keys() & {"shapes", "imagePath"}:
            with naming(file):
                labelled.append(_labelled_photo(file, content, folder, photos))
    found = {shape.label: one.source for one in labelled for shape in one.shapes}
    names, is_complete = _names(folder, found)
    return Labels(names, tuple(labelled), is_complete)


def _labelled_photo(file, content, folder, photos):
    photo = _find_photo(file, content, folder, photos)
    size = content.get("imageHeight"), content.get("imageWidth")
    labelled = LabelledPhoto(photo, str(file.relative_to(folder)), (), size if all(size) else None)
    size = labelled.size or upright_size(labelled)
    shapes = []
    for number, shape in enumerate(content["shapes"], start=1):
        with naming(file, f"its object {number}"):
            shapes.append(_shape(shape, number, file, size))
    return LabelledPhoto(photo, labelled.source, tuple(shapes), size)


def _find_photo(file, content, folder, photos):
    name = photo_path(content.get("imagePath") or f"{file.stem}.jpg")
    if (file.parent / name).is_file():
        return file.parent / name
    try:
        return photos.find(str(file.parent.relative_to(folder) / name), str(file.relative_to(folder)))
    except FileNotFoundError as error:
        if not content.get("imageData"):
            raise
        raise FileNotFoundError(
            f"`{file}` must have its photo {name.name} beside it, and has it only inside (`imageData`); put the photo "
            f"there, or write what is inside by {EXTRACT} in {file.parent}."
        ) from error


def _names(folder, found) -> tuple[tuple[str, ...], bool]:
    """The names of the classes, and whether they are labelme's own list."""
    lists = [place / NAMES_FILE for place in (folder, folder.parent) if (place / NAMES_FILE).is_file()]
    if not lists:
        return tuple(sorted(found)), False
    lines = [line.strip() for line in read_text(lists[0]).splitlines()]
    names = tuple(dict.fromkeys(line for line in lines if line))
    if missing := sorted(found.keys() - set(names)):
        raise ValueError(
            f"`{lists[0]}` must have a line for each class, and lacks {', '.join(missing)}, which {found[missing[0]]} "
            "has; add it there, correct it in labelme, or move the file away if it is not labelme's."
        )
    return names, True


def _shape(shape: dict[str, Any], number: int, file: Path, size: tuple[int, int]) -> Shape:
    """One figure of a file."""
    label, kind, points = shape.get("label"), shape.get("shape_type"), shape.get("points")
    try:
        outline = np.array(points, float).reshape(-1, 2)
    except ValueError:
        outline = np.empty((0, 2))
    if not isinstance(label, str) or len(outline) not in NUM_POINTS.get(kind, ()) or not is_outline(outline):
        raise ValueError(
            f"`{file}` must hold figures that labelme draws, but its object {number}, {label}, is a {kind} with "
            f"{len(outline)} points; open it in labelme, delete the object or draw it as a polygon, and save it."
        )
    if kind in OUTLINES:
        return Polygon(label, (outline,), fill="pillow")
    if kind == "mask":
        left, top = outline[0].astype(int).tolist()
        extent = (outline[1].astype(int) - outline[0].astype(int) + 1).tolist()
        return Bitmap(label, (shape.get("mask"), tuple(extent)), _decode_mask, left, top)
    return Bitmap(label, (kind, outline.tolist(), size), _draw)


def _decode_mask(data) -> np.ndarray:
    """The pixels of a base64 PNG of a known width and height."""
    encoded, extent = data
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    if picture.size != extent:
        raise ValueError(f"the mask has {picture.size} pixels, and its corners {extent}")
    return np.array(picture).astype(bool)


def _draw(data) -> np.ndarray:
    """The pixels of a figure, on a canvas of the photo's size, as `labelme.utils.shape_to_mask` has them."""
    kind, points, size = data
    canvas = Image.new("L", size[::-1])
    draw = ImageDraw.Draw(canvas)
    corners = [tuple(point) for point in points]
    if kind == "rectangle":
        draw.rectangle((*np.min(points, axis=0), *np.max(points, axis=0)), fill=1, outline=1)
    elif kind in ("line", "linestrip"):
        draw.line(corners, fill=1, width=LINE_WIDTH)
    else:
        radius = POINT_RADIUS if kind == "point" else math.dist(*points)
        x, y = points[0]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    return np.array(canvas).astype(bool)
