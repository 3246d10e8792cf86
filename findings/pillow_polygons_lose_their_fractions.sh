#!/usr/bin/env bash
# Pillow 13.0.0: ImageDraw.polygon takes floats, and draws the polygon of their whole parts.
#
# One would guess that a corner at 10.9 is rounded to 11, or drawn as exactly as a row of pixels allows, and that a part
# of a picture can be drawn alone by moving the outline. Each number is cut toward zero: 10.9 is 10, as 10.0 is, and -0.9
# is 0. So labels with fractions lie up to a pixel too far to the left and the top, and where an outline sticks out at
# these two sides, its corners there are cut the other way: the picture is not what the same outline gives in a larger
# one.
#
# Seen:
#   10.9 to 20.9: pixels 10 to 20; -0.9 to 5.9: pixels 0 to 5
#   1000 polygons: 1000 as those of their whole parts, 0 as those of rounded numbers
#   a triangle that sticks out: 277 pixels, in a larger picture 277, of which differ 50
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from PIL import Image, ImageDraw


def drawn(outline, size=30):
    canvas = Image.new("1", (size, size))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in np.asarray(outline).tolist()], fill=1, outline=1)
    return np.array(canvas)


def square(first, last):
    rows = np.flatnonzero(drawn([(first, first), (last, first), (last, last), (first, last)]).any(1))
    return f"{first} to {last}: pixels {rows[0]} to {rows[-1]}"


squares = f"{square(10.9, 20.9)}; {square(-0.9, 5.9)}"
outlines = np.random.default_rng(0).uniform(-20, 50, (1000, 4, 2))
cut = sum(np.array_equal(drawn(outline), drawn(np.trunc(outline))) for outline in outlines)
rounded = sum(np.array_equal(drawn(outline), drawn(np.round(outline))) for outline in outlines)
triangle = np.array([(-10.5, 45.5), (33, -0.5), (29, -13.5)])
alone, part = drawn(triangle), drawn(triangle + 40, 70)[40:, 40:]
seen = (int(alone.sum()), int(part.sum()), int((alone != part).sum()))
print(squares)
print(f"1000 polygons: {cut} as those of their whole parts, {rounded} as those of rounded numbers")
print("a triangle that sticks out: {} pixels, in a larger picture {}, of which differ {}".format(*seen))
assert squares == "10.9 to 20.9: pixels 10 to 20; -0.9 to 5.9: pixels 0 to 5"
assert cut == 1000 and rounded < 500 and seen == (277, 277, 50)
PYTHON
