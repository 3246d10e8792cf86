"""labelme: a JSON file per photo, with masks."""

import base64
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from offseg_hf.files import write_json, write_text
from offseg_hf.prediction.annotations.class_masks import class_masks

FILES = ("labels.txt",)
PHOTO_FILE = "{stem}.json"


def write(predictions: Iterable[tuple[Path, np.ndarray]], id2label: Mapping[int, str], folder: Path) -> Path:
    """Writes a file for each photo, of one mask for each class, and the list of the classes.

    They are opened by `labelme PHOTOS --output FOLDER --labels FOLDER/labels.txt`.

    Args:
        predictions (iterable of `(Path, np.ndarray)`): photos and their label maps, of shape (height, width).
        id2label (`dict[int, str]`): names by class id.
        folder (`Path`): where `PHOTO.json` and `labels.txt` are to be.

    Returns:
        `Path`: the folder.
    """
    for photo, label_map in predictions:
        height, width = label_map.shape
        content = {
            "version": "6.3.1",
            "flags": {},
            "shapes": [_shape(mask) for mask in class_masks(label_map, id2label)],
            "imagePath": Path(os.path.relpath(photo, folder)).as_posix(),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_json(folder / PHOTO_FILE.format(stem=photo.stem), content)
    write_text(folder / FILES[0], "".join(f"{name}\n" for name in id2label.values()))
    return folder


def _shape(mask):
    """A mask as labelme has it: a PNG of 0 and 1, between two corners that belong to it."""
    png = io.BytesIO()
    Image.fromarray(mask.cropped.astype(np.uint8)).save(png, "PNG")
    return {
        "label": mask.label,
        "points": [[mask.left, mask.top], [mask.left + mask.width - 1, mask.top + mask.height - 1]],
        "shape_type": "mask",
        "flags": {},
        "group_id": None,
        "description": "",
        "mask": base64.b64encode(png.getvalue()).decode(),
    }
