"""Supervisely's projects: `meta.json` with the classes, and data sets with the folders `ann` and `img`."""

import base64
import io
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from offseg_hf.data.formats.damage import naming, read_json
from offseg_hf.data.formats.photos import PhotoFolder
from offseg_hf.data.formats.records import Bitmap, LabelledPhoto, Labels, Polygon
from offseg_hf.data.naming import SPLIT_SPELLINGS, canonical_split

THIN = ("point", "line", "graph")  # what has no area: points, polylines, skeletons
MAX_BYTES = 1 << 28  # of an unpacked bitmap, which is a PNG file


def find(place: Path) -> bool:
    """Whether a folder, or its `meta.json`, is a project."""
    meta = place / "meta.json" if place.is_dir() else place
    return meta.name == "meta.json" and meta.is_file() and any(meta.parent.rglob("ann/*.json"))


def read(place: Path) -> Labels:
    """What a project says: polygons and rectangles with their edges and bitmaps, in the order of the file.

    The pixels are those that supervisely 6.74.51 draws: `fillPoly` of the outer outline, and of the inner ones with 0.

    Args:
        place (`Path`): the project's folder or its `meta.json`.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]: data sets whose names are those of splits are these.

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: a file has what cannot be drawn, or a class that the project lacks.
    """
    folder = place if place.is_dir() else place.parent
    with naming(folder / "meta.json"):
        names = [one["title"] for one in read_json(folder / "meta.json")["classes"]]
    labelled = []
    thin: Counter[str] = Counter()
    for annotations in sorted(one for one in folder.rglob("ann") if one.is_dir()):
        photos = PhotoFolder(annotations.parent / "img")
        for file in sorted(annotations.glob("*.json")):
            document, source = read_json(file), str(file.relative_to(folder))
            with naming(file):
                shapes = _shapes(document, names, file, thin)
                size = (document["size"]["height"], document["size"]["width"])
            photo = photos.find(file.name.removesuffix(".json"), source)
            split = _split(annotations.parent.relative_to(folder))
            labelled.append(LabelledPhoto(photo, source, tuple(shapes), size, split))
    notes = [f"Objects without an area are left out: {_counted(thin)}."] if thin else []
    return Labels(tuple(names), tuple(labelled), notes=tuple(notes))


def _shapes(document, names, file, thin) -> list[Polygon | Bitmap]:
    """What is drawn on a picture; `thin` counts the rest."""
    if "framesCount" in document or not all(key in document for key in ("objects", "size")):
        raise ValueError(f"`{file}` must be of a picture, with `size` and `objects`; export pictures alone.")
    shapes = []
    for number, one in enumerate(document["objects"], start=1):
        with naming(file, f"its object {number}"):
            kind = one["geometryType"]
            if one["classTitle"] not in names:
                raise ValueError(
                    f"`{file}` must have classes of `meta.json` ({', '.join(map(str, names))}), but that of its "
                    f"object {number} is {one['classTitle']}; export the project again."
                )
            if kind in THIN:
                thin[kind] += 1
            else:
                shapes.append(_shape(one, kind, f"`{file}` must have what can be drawn, but its object {number}"))
    return shapes


def _split(folders):
    """The split that a data set's name, or that of one above it, is; `"train"` where none is."""
    splits = [canonical_split(name) for name in folders.parts]
    return next((split for split in reversed(splits) if split in SPLIT_SPELLINGS), "train")


def _counted(kinds):
    return ", ".join(f"{count} of type {kind}" for kind, count in sorted(kinds.items()))


def _shape(one, kind, subject) -> Polygon | Bitmap:
    """The shape of an object."""
    name = one["classTitle"]
    if kind == "bitmap":
        left, top = map(int, one["bitmap"]["origin"])
        return Bitmap(name, one["bitmap"]["data"], decode_bitmap, left, top)
    if kind not in ("polygon", "rectangle"):
        raise ValueError(f"{subject}, {name}, is of type {kind}; convert it to a polygon or a mask in Supervisely.")
    outer, *inner = (np.array(one, float) for one in (one["points"]["exterior"], *one["points"]["interior"]))
    if kind == "rectangle":
        (left, top), (right, bottom) = outer
        outer = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return Polygon(name, (outer,), tuple(inner), "opencv")


def decode_bitmap(data: str) -> np.ndarray:
    """The pixels of a bitmap.

    Args:
        data (`str`): base64 of a PNG file, compressed by zlib or as it is. Inside are pixels that are not transparent,
            or, in a file without transparency, not black.

    Returns:
        `np.ndarray`: boolean, of shape (height, width).

    Raises:
        OSError, ValueError, zlib.error: it is damaged, or far too large.
    """
    content: Any = base64.b64decode(data)
    if not content.startswith(b"\x89PNG"):
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(content, MAX_BYTES)
        if not unpacker.eof:
            raise ValueError("its data is cut off or far too large")
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        if picture.has_transparency_data:
            return np.array(picture.convert("RGBA").getchannel("A")) > 0
        return np.array(picture.convert("RGB")).any(-1)
