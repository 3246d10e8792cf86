"""V7 Darwin's JSON 2.0, one file per photo: https://docs.v7labs.com/reference/darwin-json."""

import itertools
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from offseg_hf.data.formats.damage import naming, read_json
from offseg_hf.data.formats.photos import PhotoFolder
from offseg_hf.data.formats.records import Bitmap, LabelledPhoto, Labels, Polygon

PEEK = 1 << 14  # bytes of a file's beginning that tell what it is
# Kinds of objects that have no pixels in darwin-py's masks either; some have a box besides.
LEFT_OUT = (
    "line",
    "keypoint",
    "skeleton",
    "cuboid",
    "eye",
    "table",
    "simple_table",
    "string",
    "graph",
    "bounding_box",
)


def find(place: Path) -> bool:
    """Whether a file, or the first ones in a folder, are Darwin's."""
    return any(_is_ours(file) for file in itertools.islice(_files(place), 3))


def read(place: Path) -> Labels:
    """What Darwin's files say: polygons, ellipses and masks, in the order of each file.

    Of a polygon's paths those within another are holes. The pixels are those that darwin-py 3.6.3 draws: points are
    rounded and moved into the picture, and edges, of holes too, belong to the object.

    Args:
        place (`Path`): a file, a folder of files and photos, or a data set with `images` and `releases`, of which the
            `latest` counts.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: a file is of a video or of several pictures, or has boxes and points alone.
    """
    photos = PhotoFolder(_photo_folder(place))
    labelled = []
    left_out: Counter[str] = Counter()
    for file in _files(place):
        if not _is_ours(file):
            continue
        document = read_json(file)
        with naming(file):
            labelled.append(_labelled_photo(document, file, photos, left_out))
    names = {shape.label for one in labelled for shape in one.shapes}
    counted = ", ".join(f"{count} of type {kind}" for kind, count in sorted(left_out.items()))
    if counted and not names:
        raise ValueError(f"`{place}` must have polygons or masks, got {counted}; convert them to polygons.")
    notes = [f"As in Darwin's own masks, some objects are left out: {counted}."] if counted else []
    ordered = tuple(sorted(names, key=lambda name: (name.lower(), name)))  # that of Darwin's masks
    return Labels(ordered, tuple(labelled), is_complete=False, notes=tuple(notes))


def _labelled_photo(document, file, photos, left_out):
    item = document["item"]
    slots = item["slots"]
    if len(slots) != 1 or slots[0].get("type") == "video" or slots[0].get("frame_count", 1) > 1:
        raise ValueError(
            f"`{file}` must be of one picture, got {len(slots)} slots of type "
            f"{', '.join(str(slot.get('type')) for slot in slots)}; export pictures alone."
        )
    if not (slots[0].get("height") and slots[0].get("width")):
        raise ValueError(f"`{file}` must have height and width of its picture, and has none; export it again.")
    size = (slots[0]["height"], slots[0]["width"])
    shapes = _shapes(document["annotations"], size, file, left_out)
    photo = photos.find(_photo_name(item), file.name)
    return LabelledPhoto(photo, file.name, tuple(shapes), size)


def _files(place):
    """The JSON files of a place, without those of its properties."""
    if place.is_file():
        return [place]
    releases = sorted(place.glob("releases/*/annotations"))
    folder = next((one for one in releases if one.parent.name == "latest"), releases[-1] if releases else place)
    return (file for file in sorted(folder.rglob("*.json")) if ".v7" not in file.parts)


def _is_ours(file):
    """Whether a file is Darwin's, by its beginning."""
    if file.suffix.lower() != ".json":
        return False
    with file.open("rb") as opened:
        peeked = opened.read(PEEK)
    return all(key in peeked for key in (b'"version"', b'"item"', b'"slots"'))


def _photo_folder(place):
    """The folder below which the photos are: that which has `releases`, where there is one."""
    folder = place if place.is_dir() else place.parent
    for above in (folder, *folder.parents):
        if above.name == "releases":
            return above.parent
    return folder.parent if folder.name == "annotations" else folder


def _photo_name(item):
    """What darwin-py calls the photo: the item's name, with the ending of the file that was brought to Darwin."""
    sources = item["slots"][0].get("source_files") or [{}]
    ending = PurePosixPath(sources[0].get("file_name", "")).suffix or PurePosixPath(item["name"]).suffix
    return str(PurePosixPath(item.get("path") or "/", PurePosixPath(item["name"]).stem + ending)).lstrip("/")


def _shapes(annotations, size, file, left_out) -> list[Polygon | Bitmap]:
    """The objects of a picture."""
    window = _window([one["bounding_box"] for one in annotations if "bounding_box" in one], size)
    names = {one.get("id"): one["name"].strip() for one in annotations if "mask" in one}
    shapes: list[Polygon | Bitmap] = []
    for number, one in enumerate(annotations, start=1):
        with naming(file, f"its object {number}"):
            shapes += _shapes_of(one, names, window, size, file, left_out)
    return shapes


def _shapes_of(one, names, window, size, file, left_out):
    """What is drawn of an object."""
    name = one["name"].strip()
    if "frames" in one:
        raise ValueError(f"`{file}` must be of one picture, but {name} has frames; export pictures alone.")
    if "polygon" in one:
        paths = one["polygon"].get("paths") or [one["polygon"]["path"]]
        outlines = [np.array([(point["x"], point["y"]) for point in path], float) for path in paths]
        return [_polygon(name, outlines, window)]
    if "ellipse" in one:
        return [_polygon(name, [_ellipse(one["ellipse"])], window)]
    if "raster_layer" in one:
        return _masks(one["raster_layer"], names, size, file)
    left_out.update([kind for kind in LEFT_OUT if kind in one][:1])
    return []


def _window(boxes, size):
    """First and last pixel, x and y, to which points are moved: the picture's, or beyond, where boxes go beyond."""
    first = np.array([[box["x"], box["y"]] for box in boxes] or [[0, 0]], float)
    last = first + np.array([[box["w"], box["h"]] for box in boxes] or [[0, 0]], float)
    return np.floor(np.minimum(first.min(0), 0)), np.ceil(np.maximum(last.max(0), size[::-1])) - 1


def _polygon(name, outlines, window):
    first, last = window
    if not all(np.isfinite(one).all() for one in outlines):
        raise ValueError("a point is no pair of numbers")  # which clipping would hide
    return Polygon(name, tuple(np.rint(one.clip(first, last) - first) + first for one in outlines), fill="darwin")


def _ellipse(ellipse):
    """Points of an ellipse's outline, its angle being in radians."""
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    along, across = ellipse["radius"]["x"] * np.cos(angle), ellipse["radius"]["y"] * np.sin(angle)
    cos, sin = np.cos(ellipse["angle"]), np.sin(ellipse["angle"])
    centre = np.array([ellipse["center"]["x"], ellipse["center"]["y"]])
    return centre + np.stack([cos * along - sin * across, sin * along + cos * across], 1)


def _masks(layer, names, size, file):
    """One shape per mask of a layer of pixels."""
    runs = layer["dense_rle"]
    if sum(runs[1::2]) != size[0] * size[1] or len(runs) % 2:
        raise ValueError(
            f"`{file}` must hold whole masks, but its `dense_rle` has {sum(runs[1::2])} pixels in all instead of "
            f"{size[0] * size[1]}; export it again."
        )
    for mask_id in layer["mask_annotation_ids_mapping"]:
        if mask_id not in names:
            raise ValueError(
                f"`{file}` must have an annotation of each mask, but {mask_id} has none; export it again."
            )
    return [
        Bitmap(names[mask_id], (runs, number, size), decode_layer)
        for mask_id, number in layer["mask_annotation_ids_mapping"].items()
    ]


def decode_layer(data: tuple[list[int], int, tuple[int, int]]) -> np.ndarray:
    """The pixels of one mask.

    Args:
        data (`tuple`): `dense_rle`, numbers and lengths of runs along the rows in turn; the mask's number; and height
            and width in pixels.

    Returns:
        `np.ndarray`: boolean, of shape (height, width).
    """
    runs, number, size = data
    return np.repeat(np.array(runs[::2]) == number, runs[1::2]).reshape(size)
