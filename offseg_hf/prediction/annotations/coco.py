"""COCO JSON with run lengths: CVAT, Roboflow, Supervisely, FiftyOne."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from offseg_hf.files import whole_file
from offseg_hf.prediction.annotations.class_masks import class_masks, run_lengths

FILES = ("annotations/instances_default.json",)  # as CVAT and Datumaro have it in their archives


def write(predictions: Iterable[tuple[Path, np.ndarray]], id2label: Mapping[int, str], folder: Path) -> Path:
    """Writes a COCO file, one object for each class of each photo; what runs of pixels say is the label map exactly.

    Objects are no crowds (`iscrowd` is 0), since trainings leave out those that are. Category ids are class ids + 1:
    0 is what many programs take for the background.

    Args:
        predictions (iterable of `(Path, np.ndarray)`): photos and their label maps, of shape (height, width).
        id2label (`dict[int, str]`): names by class id.
        folder (`Path`): where `annotations/instances_default.json` is to be.

    Returns:
        `Path`: the file.
    """
    images = []
    separator, number = "\n", 0
    with whole_file(folder / FILES[0]) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write('{"annotations": [')  # first, since the images are few words, and kept until the end
        for image_id, (photo, label_map) in enumerate(predictions, start=1):
            height, width = label_map.shape
            images.append({"id": image_id, "file_name": photo.name, "height": height, "width": width})
            for mask in class_masks(label_map, id2label):
                number += 1
                annotation = {
                    "id": number,
                    "image_id": image_id,
                    "category_id": mask.class_id + 1,
                    "segmentation": {"size": [height, width], "counts": run_lengths(mask.inside.ravel(order="F"))},
                    "area": int(mask.inside.sum()),
                    "bbox": [mask.left, mask.top, mask.width, mask.height],
                    "iscrowd": 0,
                }
                file.write(separator + json.dumps(annotation))
                separator = ",\n"
        categories = [{"id": class_id + 1, "name": name, "supercategory": ""} for class_id, name in id2label.items()]
        rest = {"images": images, "categories": categories, "info": {}, "licenses": []}
        file.write("\n], " + json.dumps(rest, ensure_ascii=False)[1:] + "\n")
    return folder / FILES[0]
