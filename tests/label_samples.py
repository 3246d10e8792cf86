"""The samples that labelling tools wrote of one scene, and label maps of what is read of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from offseg_hf.data.formats.classes import match_classes
from offseg_hf.data.formats.drawing import DrawnMask
from offseg_hf.data.formats.records import Labels

SAMPLES = Path(__file__).parent / "data" / "formats" / "samples"
# 40×60 pixels of sky 0, road 1, car 2, and 255 without a label.
TRUTH = np.array(Image.open(SAMPLES / "truth.png"))


def label_map(labels: Labels, number: int = 0, **options) -> np.ndarray:
    """The label map of a photo, all classes in the labels' order unless options of `match_classes` say another."""
    classes = match_classes(labels, **options)
    return DrawnMask(labels.photos[number], classes.class_ids, classes.unlabelled_id).draw()


def add_photo(file: Path, size: tuple[int, int] = (40, 60)) -> Path:
    """A black photo of a height and width, in folders that are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(file)
    return file
