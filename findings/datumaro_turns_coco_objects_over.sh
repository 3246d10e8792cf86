#!/usr/bin/env bash
# datumaro 1.13.12: a data set of two polygons that lie over each other, written as COCO and read again.
#
# One would guess that the objects come back in their order, since a mask drawn from them has the later ones on top, and
# that Datumaro's `z_order` is kept at least as the order in the file. The file has the objects as they were given, without
# `z_order`, and the reader gives them in the reverse order, all at `z_order` 0. So a mask made from what was read has the
# lower object on top: a conversion by way of COCO labels other pixels, in silence. By way of CVAT, objects stay as they
# were.
#
# Seen (at a pixel that car and road share, the road on top): as given road, by CVAT road, by COCO car
#   order: as given car, road; in COCO's file car, road; read from it road, car
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datumaro==1.13.12
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import datumaro
import numpy as np
from PIL import Image

NAMES = ["car", "road"]
COLOURS = {(128, 0, 0): "car", (0, 128, 0): "road"}  # VOC's colour map


def square(name, first, last, z_order):
    corners = [first, first, last, first, last, last, first, last]
    return datumaro.Polygon(corners, label=NAMES.index(name), z_order=z_order)


def on_top(dataset, name):
    """The class of a pixel that both hold, in Datumaro's own mask."""
    masks = datumaro.Dataset.from_iterable(list(dataset), categories=dataset.categories())
    masks.transform("polygons_to_masks")
    masks.export(name, "voc_segmentation", save_media=True)
    return COLOURS[Image.open(f"{name}/SegmentationClass/a.png").convert("RGB").getpixel((10, 10))]


def order(dataset):
    return [NAMES[shape.label] for item in dataset for shape in item.annotations if isinstance(shape, datumaro.Polygon)]


photo = datumaro.Image.from_numpy(np.zeros((40, 60, 3), np.uint8))
shapes = [square("car", 5, 20, z_order=0), square("road", 0, 30, z_order=1)]
given = datumaro.Dataset.from_iterable([datumaro.DatasetItem("a", media=photo, annotations=shapes)], categories=NAMES)
given.export("coco", "coco_instances", save_media=True)
given.export("cvat", "cvat", save_media=True)
by_coco = datumaro.Dataset.import_from("coco", "coco_instances")
by_cvat = datumaro.Dataset.import_from("cvat", "cvat")
document = json.loads(Path("coco/annotations/instances_default.json").read_text())
in_file = [NAMES[entry["category_id"] - 1] for entry in document["annotations"]]
top = [on_top(given, "masks_given"), on_top(by_cvat, "masks_cvat"), on_top(by_coco, "masks_coco")]
print("as given {}, by CVAT {}, by COCO {}".format(*top))
print(f"order: as given {', '.join(order(given))}; in COCO's file {', '.join(in_file)}; "
      f"read from it {', '.join(order(by_coco))}")
assert top == ["road", "road", "car"]
assert order(given) == in_file == ["car", "road"] and order(by_coco) == ["road", "car"]
PYTHON
