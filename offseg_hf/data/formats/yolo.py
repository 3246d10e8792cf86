"""YOLO's segmentation labels, a text file per photo: https://docs.ultralytics.com/datasets/segment."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from offseg_hf.data.formats.damage import naming, read_text
from offseg_hf.data.formats.drawing import upright_size
from offseg_hf.data.formats.photos import PhotoFolder, photo_path
from offseg_hf.data.formats.records import LabelledPhoto, Labels, Polygon
from offseg_hf.data.layouts import IMAGE_SUFFIXES
from offseg_hf.data.naming import SPLIT_SPELLINGS, canonical_split

SPLIT_KEYS = [spelling for spellings in SPLIT_SPELLINGS.values() for spelling in spellings]
LAST_DECIMAL = 1e-5  # supervision writes five decimals, so that a whole number of pixels may come out a little less


def find(place: Path) -> bool:
    """Whether a folder, or its YAML or `classes.txt`, has YOLO's labels."""
    source = _class_file(place)
    return source is not None and any(source.parent.rglob("*.txt"))


def read(place: Path) -> Labels:
    """What YOLO's text files say: polygons in the order of the lines, later ones on top.

    Points are cut to whole pixels and edges belong to objects, as in ultralytics 8.4.190, which hands `int32` points
    to OpenCV's `fillPoly`; its own semantic training puts smaller objects on top, whatever their order.

    Args:
        place (`Path`): a folder with a YAML file, or with `classes.txt`, or that file. Labels of `images/…/a.jpg` are
            in `labels/…/a.txt`, or else beside the photo.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]: photos with a text file, be it empty.

    Raises:
        FileNotFoundError: no photo has labels, or labels have no photo.
        ValueError: there are boxes instead of outlines, or a line or the YAML file cannot be understood.
    """
    source = _class_file(place)
    if source is None:
        raise FileNotFoundError(
            f"`{place}` must have a YAML file with the names of the classes, or classes.txt beside `labels`, and has "
            "none; export it with the labels."
        )
    with naming(source):
        document = _read_yaml(source) if source.suffix != ".txt" else {}
        names = _class_names(source, document)
        photos = _photos(source, document)
    labelled: dict[Path, LabelledPhoto] = {}
    used: set[Path] = set()
    # Label Studio calls a file after the photo's address where it does not copy photos.
    addresses = {photo_path(file.name).stem: file for file in source.parent.rglob("*[?]*.txt")}
    for photo, split in photos:
        file = _label_file(photo)
        file = file if file.is_file() else addresses.get(photo.stem, file)
        if not file.is_file():
            continue
        used.add(file)
        if photo in labelled and labelled[photo].split != split:
            raise ValueError(
                f"`{source}` must have each photo in one split, but {photo} is in {labelled[photo].split} and "
                f"{split}; list it once."
            )
        called = str(file.relative_to(source.parent)) if file.is_relative_to(source.parent) else str(file)
        size = upright_size(LabelledPhoto(photo, called, ()))
        lines = read_text(file).splitlines()
        shapes = [
            _shape(line.split(), names, size, f"`{file}` must have lines of a class and the x and y of an outline, ")
            for line in lines
            if line.strip()
        ]
        labelled[photo] = LabelledPhoto(photo, called, tuple(shapes), size, split)
    if not labelled:
        raise FileNotFoundError(
            f"`{source.parent}` must have photos with labels, `labels/a.txt` for `images/a.jpg`, and none has any; "
            "put them there."
        )
    _check_photos(used, source.parent)
    return Labels(tuple(names), tuple(labelled[photo] for photo in sorted(labelled)))


def _check_photos(used, folder):
    """Raises where labels beside those that were read have no photo at all."""
    stems = {photo.stem for photo in _pictures(folder)} | {file.stem for file in used}
    for file in sorted(one for parent in {file.parent for file in used} for one in parent.glob("*.txt")):
        if "labels" in file.parts and photo_path(file.name).stem not in stems:
            raise FileNotFoundError(
                f"`{file}` must have a photo of its name, and there is none below {folder}; put it there, or remove "
                "the labels."
            )


def _class_file(place):
    """The file that names the classes: a YAML with `names` or `nc`, or `classes.txt`."""
    files = [place] if place.is_file() else [*sorted(place.glob("*.y*ml"))[:3], place / "classes.txt"]
    for file in files:
        text = file.read_text("utf-8-sig", "replace") if file.suffix in (".yaml", ".yml") else ""
        if re.search(r"^(names|nc)\s*:", text, re.M):
            return file
        if file.name == "classes.txt" and file.is_file() and any(file.parent.rglob("labels/**/*.txt")):
            return file
    return None


def _read_yaml(file) -> dict[str, Any]:
    """What a YAML file says, if that is a table."""
    try:
        document = yaml.safe_load(read_text(file))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"`{file}` must be YAML, but cannot be read ({error}); correct it.") from error
    return document if isinstance(document, dict) else {}


def _class_names(file, document) -> list[str]:
    """Names by class number."""
    if file.suffix == ".txt":
        names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    else:
        listed = document.get("names") or [f"class_{number}" for number in range(int(document["nc"]))]
        listed = dict(enumerate(listed)) if isinstance(listed, list) else listed
        if not isinstance(listed, dict) or not all(type(name) in (str, int) for name in listed.values()):
            raise ValueError(
                f"`{file}` must have a list of names as `names`, got {str(document['names'])[:80]}; put each name "
                "into quotes, since yes and no are none in YAML."
            )
        names = [str(listed[number]) for number in sorted(listed)]
        if sorted(listed) != list(range(len(names))) or int(document.get("nc", len(names))) != len(names):
            raise ValueError(
                f"`{file}` must name the classes 0, 1, … and have their number as `nc`, got "
                f"{document.get('names')} and {document.get('nc')}; correct it."
            )
        if "kpt_shape" in document:
            raise ValueError(f"`{file}` must be of outlines, but has `kpt_shape`, of points; export segmentation.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"`{file}` must have each name once, got {twice[0]} for several classes; rename one.")
    return names


def _photos(file, document):
    """Photos and their splits: those that the YAML lists, or all that are there."""
    folder = file.parent
    listed = {key: document[key] for key in SPLIT_KEYS if document.get(key)}
    found = []
    for key, paths in listed.items():
        for path in [paths] if isinstance(paths, str) else paths:
            tries = [Path(folder, document.get("path") or "", path), folder / path, folder / path.removeprefix("../")]
            place = next((one.resolve() for one in tries if one.exists()), None)
            if place is None:
                continue  # Roboflow lists a test split that it does not have
            if place.is_file():
                photos = PhotoFolder(place.parent)
                lines = [line.strip() for line in read_text(place).splitlines()]
                found += [(photos.find(line, place.name), canonical_split(key)) for line in lines if line]
            else:
                found += [(photo, canonical_split(key)) for photo in _pictures(place)]
    if found:
        return found
    return [(photo, _split(photo.relative_to(folder).parts[:-1])) for photo in _pictures(folder)]


def _pictures(folder):
    return [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES]


def _split(folders):
    """The split that one of the folders is called after."""
    splits = [canonical_split(name) for name in folders]
    return next((split for split in splits if split in SPLIT_SPELLINGS), "train")


def _label_file(photo):
    """The text file of a photo, as ultralytics has it: in `labels` instead of the last `images`."""
    parts = list(photo.parts)
    folders = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    file = Path(*parts).with_suffix(".txt")
    return file if file.is_file() else photo.with_suffix(".txt")


def _shape(words, names, size, subject) -> Polygon:
    """The object of a line."""
    shown = " ".join(words)[:60]
    try:
        number, *numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{subject}got {shown}; correct it.") from None
    if number not in range(len(names)):
        raise ValueError(f"{subject}with one of the classes 0 to {len(names) - 1}, got {shown}; correct it.")
    if not all(-0.01 <= one <= 1.01 for one in numbers):
        raise ValueError(
            f"{subject}as parts of the photo's width and height, from 0 to 1, got {shown}; export it again."
        )
    if len(numbers) == 4:
        centre, extent = np.array(numbers).reshape(2, 2)
        if extent.min() > 0:
            raise ValueError(f"{subject}but {shown} is a box; export segmentation labels.")
        # supervision: a row of pixels has no outline, and its box goes from its first to its last
        outline = np.stack([centre - extent / 2, centre + extent / 2])
    elif len(numbers) % 2 or len(numbers) < 6:
        raise ValueError(f"{subject}got {len(numbers)} numbers after the class in {shown}; export it again.")
    else:
        outline = np.array(numbers).reshape(-1, 2)
    points = np.floor((outline + LAST_DECIMAL) * [size[1], size[0]])
    return Polygon(names[int(number)], (points,), fill="opencv")
