#!/usr/bin/env bash
# label-studio-sdk 2.1.2: the converter on a task that two people labelled, or one person twice.
#
# One would guess that an export has the newest annotation of a task, as a comment in its code says ("get last"), or all
# of them on one photo, and the same ones in every format. All are exported, the newest first, each as a photo of its own.
# In COCO the photo so is listed twice under two ids, and a random split may put the same photo in both halves. In YOLO
# each writes the label file of the photo's name over the one before: what stays is the oldest, without a warning.
#
# Seen: COCO: 2 images of 1 file, cars at x = 30, 0 (the newer is at 30); YOLO: 1 label file, cars at x = 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q label-studio-sdk==2.1.2 pillow
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

from label_studio_sdk.converter import Converter
from PIL import Image

CONFIG = """<View><Image name="image" value="$image"/>
<PolygonLabels name="label" toName="image"><Label value="car"/></PolygonLabels></View>"""
here = Path.cwd()
Image.new("RGB", (60, 40)).save("a.png")


def annotation(number, month, left):
    """A car 12 pixels wide; points are percents of the photo's size."""
    points = [[left, 10], [left + 20, 10], [left + 20, 50], [left, 50]]
    region = {"id": "r", "type": "polygonlabels", "from_name": "label", "to_name": "image", "image_rotation": 0,
              "original_width": 60, "original_height": 40, "value": {"points": points, "polygonlabels": ["car"]}}
    return {"id": number, "created_at": f"2026-{month}-01T00:00:00Z", "result": [region]}


tasks = [{"id": 1, "data": {"image": str(here / "a.png")},
          "annotations": [annotation(1, "01", left=0), annotation(2, "02", left=50)]}]
Path("tasks.json").write_text(json.dumps(tasks))
converter = Converter(CONFIG, str(here), download_resources=False)
converter.convert_to_coco("tasks.json", "coco", output_image_dir="coco/images", is_dir=False)
converter.convert_to_yolo("tasks.json", "yolo", output_image_dir="yolo/images", output_label_dir="yolo/labels",
                          is_dir=False)
coco = json.loads(Path("coco/result.json").read_text())
images, files = len(coco["images"]), len({image["file_name"] for image in coco["images"]})
cars = [round(car["segmentation"][0][0]) for car in coco["annotations"]]
labels = list(Path("yolo/labels").glob("*.txt"))
lines = [line.split() for label in labels for line in label.read_text().splitlines()]
kept = [round(float(line[1]) * 60) for line in lines]
print(f"COCO: {images} images of {files} file, cars at x = {', '.join(map(str, cars))} (the newer is at 30); "
      f"YOLO: {len(labels)} label file, cars at x = {', '.join(map(str, kept))}")
assert (images, files, cars, len(labels), kept) == (2, 1, [30, 0], 1, [0])
PYTHON
