"""CVAT for images 1.1: an XML file, or one for each subset, of polygons, boxes, ellipses and masks."""

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from offseg_hf.data.formats.beginnings import annotation_files, read_beginnings
from offseg_hf.data.formats.outlines import box_outline, ellipse_outline, turned
from offseg_hf.data.formats.photos import PhotoFolder
from offseg_hf.data.formats.records import Bitmap, LabelledPhoto, Labels, Polygon, Shape
from offseg_hf.data.naming import SPLIT_SPELLINGS, canonical_split

AREALESS = ("polyline", "points", "skeleton", "cuboid", "tag")  # types of shapes and of labels


def find(place: Path) -> bool:
    """Whether a file, or one of the first XML files below a folder, is CVAT's, for images or for a video.

    Args:
        place (`Path`): the folder or the file.

    Returns:
        `bool`
    """
    beginnings = read_beginnings(place, ".xml")
    return any(re.search(r"<annotations>.*?<(meta|image|track)\b", text, re.DOTALL) for text in beginnings)


def read(place: Path) -> Labels:
    """What CVAT's files say.

    Args:
        place (`Path`): a folder with XML files and the photos, in whatever sub-folders, or one such file. Classes are
            those of the task or the project, in its order. The split is the subset of an image, or of the file whose
            name is one's; without either, all are training.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]: points, lines, skeletons and cuboids hold no pixels and are left
        out, which a note says.

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: a file is damaged, or of a video.
    """
    folder = place if place.is_dir() else place.parent
    photos = PhotoFolder(folder)
    listed: list[str] = []
    labelled = []
    left_out: Counter[str] = Counter()
    for file in annotation_files(place, ".xml"):
        root = _parse(file)
        if root.tag != "annotations":
            continue
        listed += [
            label.findtext("name", "").strip() for label in root.findall("meta//labels/label") if _has_area(label)
        ]
        split = file.stem if _is_split(file.stem) else ""
        for image in root.findall("image"):
            labelled.append(_labelled_photo(image, f"{file.relative_to(folder)}", split, photos))
            left_out.update(shape.tag for shape in image if shape.tag in AREALESS and shape.tag != "tag")
    names = dict.fromkeys(listed)
    others = sorted({shape.label for one in labelled for shape in one.shapes} - names.keys())
    notes = [f"{kind} left out, since they hold no pixels: {count}" for kind, count in left_out.items()]
    return Labels((*names, *others), tuple(labelled), is_complete=not others, notes=tuple(notes))


class _Builder(ElementTree.TreeBuilder):
    """A tree of a file that declares no entities: those may stand for gigabytes, and CVAT has none."""

    def doctype(self, name: str, pubid: str, system: str) -> None:
        """Called where a document type is declared."""
        raise ValueError("it declares a document type, <!DOCTYPE …>")


def _parse(file):
    try:
        root = ElementTree.parse(file, ElementTree.XMLParser(target=_Builder())).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"`{file}` must be an XML file as CVAT writes it, but {error}; export it again.") from error
    if root.find("track") is not None:
        raise ValueError(
            f"`{file}` must have shapes on images, and has tracks through a video; export the task again, as "
            '"CVAT for images 1.1" and with its images.'
        )
    return root


def _has_area(label):
    return label.findtext("type") not in AREALESS and label.find("parent") is None


def _is_split(name):
    return any(name.lower() in spellings for spellings in SPLIT_SPELLINGS.values())


def _labelled_photo(image, file, split, photos):
    """An `<image>` with its shapes in the order in which they are drawn."""
    name = image.get("name", "")
    source = f"{file}, {name}"
    subset = image.get("subset", split)
    photo = photos.find(f"{subset}/{name}" if subset else name, source)
    try:
        size = int(image.get("height")), int(image.get("width"))
        elements = [shape for shape in image if shape.tag not in AREALESS]
        elements.sort(key=lambda shape: int(shape.get("z_order", 0)))  # stable
        shapes = tuple(_shape(element, size) for element in elements)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`{source}` must have sizes and shapes as CVAT writes them, but {type(error).__name__}: {error}; export "
            "it again."
        ) from error
    split = canonical_split(subset) if subset.lower() not in ("", "default") else "train"
    return LabelledPhoto(photo, source, shapes, size, split)


def _shape(element, size) -> Shape:
    """A shape of an XML element."""
    values, label, kind = element.attrib, element.attrib["label"], element.tag
    if kind == "mask":
        left, top, width, height = (int(values[key]) for key in ("left", "top", "width", "height"))
        if not (0 < height <= size[0] and 0 < width <= size[1]):
            raise ValueError(f"a mask of {width} x {height} pixels does not fit")
        return Bitmap(label, (values["rle"], height, width), _decode, left, top)
    degrees = float(values.get("rotation", 0))
    if kind == "polygon":
        outline = np.array([point.split(",") for point in values["points"].split(";")], float)
    elif kind == "box":
        box = [float(values[key]) for key in ("xtl", "ytl", "xbr", "ybr")]
        outline = turned(box_outline(*box), ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), degrees)
    elif kind == "ellipse":
        x, y, radius_x, radius_y = (float(values[key]) for key in ("cx", "cy", "rx", "ry"))
        outline = turned(ellipse_outline(x, y, radius_x, radius_y), (x, y), degrees)
    else:
        raise ValueError(f"it has a shape {kind}")
    if outline.shape[1] != 2 or not np.isfinite(outline).all():
        raise ValueError(f"a {kind} has points that are no pairs of numbers")
    return Polygon(label, (outline,))


def _decode(data) -> np.ndarray:
    """The pixels of run lengths along the rows, of zeros first."""
    rle, height, width = data
    counts = np.array(rle.split(","), np.int64)
    if counts.min() < 0 or counts.sum() != height * width:
        raise ValueError(f"the runs have {counts.sum()} pixels, and the mask {height * width}")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
