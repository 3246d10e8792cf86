"""What tests of mask formats share: samples, and the label maps that their files must give."""

from pathlib import Path

import numpy as np
from PIL import Image

from offseg_hf.data.formats.classes import match_classes
from offseg_hf.data.formats.drawing import DrawnMask

SAMPLES = Path(__file__).parent / "data" / "formats" / "samples"
NAMES = ["sky", "road", "car"]
TRUTH = np.array(Image.open(SAMPLES / "truth.png"))  # of a.jpg in the samples
# Of Datumaro's samples: rows of classes, three pixels high, in pictures of 10 x 12 pixels.
STRIPES = {"a": [0, 1, 2], "b": [1], "c d": [2, 0], "empty": []}


def stripes(name):
    """The label map of a photo of Datumaro's samples."""
    ids = np.full((10, 12), 255, np.uint8)
    for row, class_id in enumerate(STRIPES[name]):
        ids[3 * row : 3 * row + 3, 1:10] = class_id
    return ids


def label_maps(labels, names=NAMES, **arguments):
    """Name of each photo → (split, label map)."""
    class_ids = match_classes(labels, names, **arguments)
    return {
        photo.photo.name: (photo.split, DrawnMask(photo, class_ids.class_ids, class_ids.unlabelled_id).draw())
        for photo in labels.photos
    }


def write(path, pixels, mode=None):
    """A picture of an array, or of nested lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8), mode).save(path)
    return path


def write_palette(path, ids, colours):
    """A palette picture of ids, whose colours are `colours` of each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.array(ids, np.uint8), "P")
    picture.putpalette([value for class_id in range(256) for value in colours.get(class_id, (0, 0, 0))])
    picture.save(path)
    return path
