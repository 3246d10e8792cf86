"""Label Studio's "JSON": tasks with polygons, brushes, boxes and ellipses, in percent of the picture."""

import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from offseg_hf.data.formats.beginnings import annotation_files, read_beginnings
from offseg_hf.data.formats.damage import naming, read_json
from offseg_hf.data.formats.outlines import box_outline, ellipse_outline, turned
from offseg_hf.data.formats.photos import PhotoFolder, photo_path
from offseg_hf.data.formats.records import Bitmap, LabelledPhoto, Labels, Polygon, Shape
from offseg_hf.data.layouts import IMAGE_SUFFIXES
from offseg_hf.data.naming import IMAGE_NAMES

# What is found in a file of tasks, whichever comes first: the runs of a brush may be longer than what is looked at.
MARKS = (
    r'"(annotations|completions|predictions|result|label)"\s*:\s*\[|"(polygon|brush|rectangle|ellipse)labels"\s*:\s*\[',
    r'"(was_cancelled|to_name|brushlabels)"\s*:|"format"\s*:\s*"rle"|labels"\s*:\s*\["|"data"\s*:\s*\{',
)
NUM_CHANNELS = 4  # of a brush's picture: red, green, blue and what is drawn
UPLOAD = re.compile(r"(/upload/\d+/)[0-9a-f]{8}-(?=[^/]+$)")  # what Label Studio sets before the names of files


def find(place: Path) -> bool:
    """Whether a file, or one of the first JSON files below a folder, is an export of Label Studio's.

    Args:
        place (`Path`): the folder or the file.

    Returns:
        `bool`
    """
    return any(all(re.search(mark, text) for mark in MARKS) for text in read_beginnings(place, ".json"))


def read(place: Path) -> Labels:
    """What an export says.

    Args:
        place (`Path`): a JSON file of tasks, with the photos in its folder, or a folder of such files, of several
            tasks or one each.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]: of each task the annotation that is marked as ground truth, else
        the newest that was submitted, which comes first in the exports of label-studio-sdk 2.1.2. Notes say how many
        tasks had several, and how many had none and are left out.

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: a file is another export than "JSON", or has what cannot be drawn.
    """
    folder = place if place.is_dir() else place.parent
    photos, uploads = PhotoFolder(folder), _names_by_upload(folder)
    labelled = []
    noted: Counter[str] = Counter()
    for source, task in _tasks(place, folder):
        with naming(source):
            annotations = _submitted(task)
            noted["tasks left out, since no annotation was submitted"] += not annotations
            noted["tasks with several annotations, of which the ground truth was taken, else the newest"] += (
                len(annotations) > 1
            )
            if annotations:
                results = annotations[0].get("result") or []
                noted["keypoints left out, since they hold no pixels"] += sum(map(_is_keypoint, results))
                labelled.append(_labelled_photo(source, task["data"], _regions(results, source), photos, uploads))
    names = tuple(sorted({shape.label for one in labelled for shape in one.shapes}))
    notes = tuple(f"{what}: {count}" for what, count in noted.items() if count)
    return Labels(names, tuple(labelled), is_complete=False, notes=notes)


def _tasks(place, folder):
    """(what errors call it, task) for each task, also of a storage, which has a file for each annotation."""
    stored: dict[Any, tuple[str, dict]] = {}
    for file in annotation_files(place, ".json"):
        content = read_json(file)
        for number, task in enumerate(content if isinstance(content, list) else [content], start=1):
            if not isinstance(task, dict):
                continue
            source = f"{file.relative_to(folder)}, task {task.get('id', number)}"
            if "annotation_id" in task:
                raise ValueError(
                    f'`{file}` must be an export as "JSON", and is one as "JSON-MIN", which does not say all; export '
                    'the project again as "JSON".'
                )
            if isinstance(task.get("task"), dict) and "result" in task:
                whole = task["task"]
                _, whole = stored.setdefault(whole.get("id"), (source, {**whole, "annotations": []}))
                whole["annotations"].append(task)
            elif isinstance(task.get("data"), dict):
                yield source, task
    yield from stored.values()


def _submitted(task):
    """The annotations that were not skipped, the one that counts first."""
    found = task.get("annotations", task.get("completions")) or []
    found = [one for one in found if not (one.get("was_cancelled") or one.get("skipped"))]
    return sorted(
        found, key=lambda one: (bool(one.get("ground_truth")), str(one.get("created_at") or "")), reverse=True
    )


def _is_keypoint(result):
    return str(result.get("type")).startswith("keypoint")


def _regions(results, source):
    """What is drawn, in its order: (first result, its label). Geometry and label may be results with the same id."""
    by_id: dict[Any, list[dict]] = {}
    for number, result in enumerate(results):
        if "value" in result and not _is_keypoint(result):
            by_id.setdefault(result.get("id", number), []).append(result)
    for group in by_id.values():
        with naming(source, f"its region {group[0].get('id')}"):
            values = [item for result in group for item in result["value"].items()]
            labels = list(dict.fromkeys(label for key, value in values if key.endswith("labels") for label in value))
        if not labels and _kind(group[0]["value"]) is None and not str(group[0].get("type")).endswith("labels"):
            continue  # an answer about the whole picture
        if len(labels) != 1:
            raise ValueError(
                f"`{source}` must have one label for each region, but its region {group[0].get('id')}, a "
                f"{group[0].get('type')}, has {', '.join(labels) or 'none'}; correct it in Label Studio and export "
                "again."
            )
        yield group[0], labels[0]


def _labelled_photo(source, data, regions, photos, uploads):
    regions = list(regions)
    pictures = {
        (result.get("to_name"), result.get("original_height"), result.get("original_width")) for result, _ in regions
    }
    if len(pictures) > 1:
        raise ValueError(
            f"`{source}` must have its regions on one picture, and has them on {len(pictures)} (name, height, width: "
            f"{sorted(map(str, pictures))}); make a task of each picture."
        )
    name, *size = next(iter(pictures), (None,))
    photo = _find_photo(source, data, name, photos, uploads)
    shapes = []
    for result, label in regions:
        try:
            shapes.append(_shape(result, label, size))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"`{source}` must have regions that can be drawn, but its region {result.get('id')}, {label}, cannot "
                f"({type(error).__name__}: {error}); draw it again in Label Studio and export again."
            ) from error
    return LabelledPhoto(photo, source, tuple(shapes), tuple(size) if size else None)


def _kind(value):
    """What a region's value describes: a key that only it has."""
    return next((key for key in ("rle", "points", "radiusX", "height") if key in value), None)


def _shape(result, label, size) -> Shape:
    """A region in percent of a picture of a size."""
    # Of the picture as it is without `image_rotation`, by which a person had it turned: `serialize` of the regions in
    # https://github.com/HumanSignal/label-studio turns them back, and label-studio-sdk takes no notice of it.
    value, kind = result["value"], _kind(result["value"])
    height, width = size
    scale = np.array([width, height]) / 100
    if kind == "rle":
        return Bitmap(label, (bytes(value["rle"]), height, width), _decode)
    if kind == "points":
        outline = np.array(value["points"], float) * scale
    elif kind == "radiusX":
        (x, y), radii = (value["x"], value["y"]) * scale, (value["radiusX"], value["radiusY"]) * scale
        outline = turned(ellipse_outline(x, y, *radii), (x, y), value.get("rotation", 0))
    elif kind == "height":
        left, top = (value["x"], value["y"]) * scale
        right, bottom = (value["width"], value["height"]) * scale + (left, top)
        outline = turned(box_outline(left, top, right, bottom), (left, top), value.get("rotation", 0))
    else:
        raise ValueError(f"{result.get('type')} is no polygon, brush, rectangle or ellipse")
    if outline.ndim != 2 or outline.shape[1] != 2 or not np.isfinite(outline).all():
        raise ValueError("its points are no pairs of numbers")
    return Polygon(label, (outline,))


def _names_by_upload(folder):
    """Names of photos by what Label Studio makes of them, which is what Django's `get_valid_filename` does."""
    names: dict[str, set[str]] = {}
    for file in folder.rglob("*"):
        if _is_image(file.name):
            stored = re.sub(r"[^-\w.]", "", file.name.strip().replace(" ", "_"))
            names.setdefault(stored, set()).add(file.name)
    return {stored: found.pop() for stored, found in names.items() if len(found) == 1}


def _find_photo(source, data, to_name, photos, uploads):
    """The photo of a task, in whichever of its data."""
    addresses = {key: value for key, value in data.items() if isinstance(value, str) and _is_image(value)}
    keys = [key for key in (to_name, *IMAGE_NAMES) if key in addresses] or list(addresses)
    if not keys or (len(addresses) > 1 and keys[0] not in (to_name, *IMAGE_NAMES)):
        raise ValueError(
            f"`{source}` must have one image file among its data, and has {', '.join(addresses) or 'none'} (data: "
            f"{', '.join(data)}); export a project in which each task is one photo."
        )
    address = addresses[keys[0]]
    names = [address, unquote(address)]
    if UPLOAD.search(address):  # the photo may be as it was before it was uploaded
        names += [UPLOAD.sub(r"\1", name) for name in names]
        names += [uploads.get(photo_path(name).name, name) for name in names]
    for name in dict.fromkeys(names):
        try:
            return photos.find(name, source)
        except FileNotFoundError as error:
            missing = error
    raise missing


def _is_image(value):
    return photo_path(value).suffix.lower() in IMAGE_SUFFIXES


def _decode(data) -> np.ndarray:
    """The pixels of a brush: where the fourth channel of its picture is not 0.

    The runs are those of https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack: a head of 32 bits with the
    number of values, 5 bits with the bits of a value less 1, and 4 times 4 bits with those of a run's length less 1;
    then for each run 1 bit, whether it repeats a value, 2 bits, which of the 4 lengths, the length less 1, the value
    or values.
    """
    rle, height, width = data
    bits, place = np.unpackbits(np.frombuffer(rle, np.uint8)), 0

    def read(count):
        nonlocal place
        first, place = place, place + count
        if place > 8 * len(rle):
            raise ValueError("the runs end too early")
        value = int.from_bytes(rle[first // 8 : -(-place // 8)], "big")
        return (value >> (-place % 8)) & ((1 << count) - 1)

    num_values, num_bits = read(32), read(5) + 1
    if num_values != height * width * NUM_CHANNELS:
        raise ValueError(f"it has {num_values} values, and the picture {height * width * NUM_CHANNELS}")
    lengths = [read(4) + 1 for _ in range(4)]
    values = np.empty(num_values, bool)
    start = 0
    while start < num_values:
        is_repeated = read(1)
        stop = start + 1 + read(lengths[read(2)])
        if is_repeated:
            values[start:stop] = read(num_bits) > 0
        else:
            end = place + (stop - start) * num_bits
            single = bits[place:end].reshape(-1, num_bits) > 0
            values[start:stop] = single.any(axis=1)[: num_values - start]
            place = end
        start = stop
    return values.reshape(height, width, NUM_CHANNELS)[..., -1]
