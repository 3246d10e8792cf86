"""COCO's JSON of objects, as many tools write it: https://cocodataset.org/#format-data."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from offseg_hf.data.formats.coco_files import (
    category_names,
    coco_files,
    find_photo,
    image_size,
    images_by_id,
    look_up,
    photo_folder,
    read_document,
    split_of,
)
from offseg_hf.data.formats.damage import naming
from offseg_hf.data.formats.photos import PhotoFolder
from offseg_hf.data.formats.records import Bitmap, LabelledPhoto, Labels, Polygon, Shape
from offseg_hf.data.formats.run_lengths import decode_run_lengths

CENTRES_NOTE = (
    "The areas in {name} tell that its outlines go through the outermost pixels, so these belong to objects."
)


def find(place: Path) -> bool:
    """Whether a file, or a file in a folder, is a COCO JSON of objects."""
    return bool(coco_files(place, "objects"))


def read(place: Path) -> Labels:
    """What COCO JSONs of objects say.

    Objects of a photo lie over each other in the order of the file. `iscrowd` is not heeded: tools set it for any
    object that is stored as pixels.

    Args:
        place (`Path`): a file, or a folder with one file per split, above the photos; `annotations` lies beside them.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: a file contradicts itself, or has no outlines.
    """
    photos = PhotoFolder(photo_folder(place))
    labelled: list[LabelledPhoto] = []
    categories: list[dict[str, Any]] = []
    notes, used = [], set()
    for file in coco_files(place, "objects"):
        document = read_document(file)
        categories += document["categories"]
        names, images = category_names(file, document), images_by_id(file, document)
        fill = "corners"
        if sum(_vote_for_centres(annotation, file) for annotation in document["annotations"]) > 0:
            fill = "opencv"
            notes.append(CENTRES_NOTE.format(name=file.name))
        shapes: dict[Any, list[Shape]] = defaultdict(list)
        for annotation in document["annotations"]:
            image = look_up(images, annotation, "image_id", file)
            name = look_up(names, annotation, "category_id", file)
            used.add(name)
            with naming(file, f"annotation {annotation.get('id')}, {name}, of {image['file_name']},"):
                shapes[image["id"]] += _shapes(annotation, name, image, fill, file)
        for image_id, image in images.items():
            source = f"{file.name}, {image['file_name']}"
            photo, split = find_photo(photos, image["file_name"], file), split_of(file, photos.folder)
            labelled.append(LabelledPhoto(photo, source, tuple(shapes[image_id]), image_size(image), split))
    classes = dict.fromkeys(
        one["name"] for one in categories if one["name"] in used or not _is_heading(one, categories)
    )
    return Labels(tuple(classes), tuple(labelled), notes=tuple(notes))


def _is_heading(category, categories):
    """Whether a category is the super-category of all others, as Roboflow's number 0 is."""
    others = [other for other in categories if other["name"] != category["name"]]
    return bool(others) and all(other.get("supercategory") == category["name"] for other in others)


def _shapes(annotation, name, image, fill, file):
    """The object of an annotation: one shape, or none if it has no pixels."""
    segmentation, box = annotation.get("segmentation"), annotation.get("bbox")
    called = f"annotation {annotation.get('id')}, {name}, of {image['file_name']}"
    if isinstance(segmentation, dict) and segmentation:
        return _pixels(segmentation, name, image, f"`{file}` must hold whole masks, but {called},")
    if segmentation and not isinstance(segmentation[0], list):
        segmentation = [segmentation]
    outlines = []
    for numbers in segmentation or ():
        outline = np.asarray(numbers, float)
        if outline.ndim != 1 or outline.size % 2 or not np.isfinite(outline).all():
            raise ValueError(
                f"`{file}` must have outlines x, y, x, y, …, but that of {called} is {str(numbers)[:60]}; correct it."
            )
        if outline.size >= 6:  # a point or a line holds no pixels
            outlines.append((np.rint(outline) if fill == "opencv" else outline).reshape(-1, 2))
    if outlines:
        return [Polygon(name, tuple(outlines), fill=fill)]
    if box and min(box[2:]) == 0:  # supervision: a row of pixels has no outline, and its box ends at its last pixel
        return [Polygon(name, (np.rint([box[:2], np.add(box[:2], box[2:])]),), fill="opencv")]
    if segmentation:
        return []
    raise ValueError(
        f"`{file}` must have outlines of its objects, but {called} has a box or points alone; export segmentation, or "
        "remove what has none."
    )


def _pixels(segmentation, name, image, subject):
    """The object of run lengths, checked as far as needs no decoding."""
    counts, size = segmentation["counts"], tuple(segmentation.get("size") or ())
    if not isinstance(counts, (list, str)):
        raise ValueError("`counts` is no list or text")
    if not counts:
        return []
    if len(size) != 2 or size != (image_size(image) or size):
        raise ValueError(
            f"{subject} has a mask with `size` {list(size)}, and the photo's height and width are "
            f"{list(image_size(image) or ())}; export it again."
        )
    if isinstance(counts, list) and sum(counts) != size[0] * size[1]:
        raise ValueError(
            f"{subject} has `counts` of {sum(counts)} pixels in all instead of {size[0] * size[1]}; export it again."
        )
    image["height"], image["width"] = size  # where the photo's entry has none, all its masks must have this
    return [Bitmap(name, (counts, size), decode_run_lengths)]


def _vote_for_centres(annotation, file):
    """Whether an outline goes through the outermost pixels: 1 if so, -1 if not, 0 where its area does not tell.

    The area is then the count of the pixels on and in it. By Pick's theorem these are A + B/2 + 1, where A is the area
    within an outline through whole numbers and B counts the pixels on it. An area that is the box's, as in Roboflow's
    files, tells nothing.
    """
    segmentation, area, box = (annotation.get(key) for key in ("segmentation", "area", "bbox"))
    if not area or not isinstance(segmentation, list) or len(segmentation) != 1:
        return 0
    with naming(file, f"annotation {annotation.get('id')}"):
        if (
            any(number % 1 for number in segmentation[0])
            or len(segmentation[0]) % 2
            or (box and area == box[2] * box[3])
        ):
            return 0
        outline = np.array(segmentation[0], np.int64).reshape(-1, 2)
        way = np.roll(outline, -1, axis=0) - outline
        within = abs(int((outline[:, 0] * way[:, 1] - outline[:, 1] * way[:, 0]).sum())) / 2
        with_edges = within + int(np.gcd(way[:, 0], way[:, 1]).sum()) / 2 + 1
        return 1 if abs(area - with_edges) < abs(area - within) else -1
