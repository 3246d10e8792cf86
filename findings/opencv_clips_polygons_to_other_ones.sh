#!/usr/bin/env bash
# opencv-python-headless 4.14.0.94: cv2.fillPoly of a polygon that sticks out of the picture, at whole pixels.
#
# One would guess that the pixels in the picture are those that a larger picture has there: so tiles of a photo are
# labelled by moving the outlines. But an edge is first cut at the picture's borders, to whole pixels, and then drawn with
# the slope of what is left. Inside the picture the edge lies elsewhere, along its whole length: 30 pixels of a photo of
# 100 by 100 here. Tiles, and crops drawn alone, so have other masks than the crop of the mask.
#
# Seen: 2450 pixels, in a larger picture 2420, of which differ 30; inside both: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opencv-python-headless==4.14.0.94
"$folder/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np


def filled(outline, size):
    return cv2.fillPoly(np.zeros((size, size), np.uint8), [np.array(outline, np.int32)], 1)


def compared(outline):
    """Pixels in a picture of 100 by 100, in the same place of a larger one, and how many of them differ."""
    alone = filled(outline, 100)
    part = filled(np.array(outline) + 200, 500)[200:300, 200:300]
    return int(alone.sum()), int(part.sum()), int((alone != part).sum())


out = compared([(-100, 0), (99, 9), (99, 30), (-100, 30)])
inside = compared([(1, 0), (99, 9), (99, 30), (1, 30)])
print("{} pixels, in a larger picture {}, of which differ {}; ".format(*out) + f"inside both: {inside[2]}")
assert out == (2450, 2420, 30) and inside[2] == 0
PYTHON
