#!/usr/bin/env bash
# upolygon 0.2.3 (what darwin-py 3.6.3 draws masks with): draw_polygon of an outline with a hole, as two paths.
#
# One would guess that the hole takes away the pixels that it would hold as an object, as filling it with zeros would, or
# that pixels are counted by an odd number of paths. Edges are always drawn, those of the hole too: a square hole with
# corners at 4 and 7 holds 16 pixels as an object, and 4 as a hole. An object that fills the hole so shares its border with
# the one around it, and the later of the two has these pixels. The hole with the object's own outline leaves its edges.
#
# Seen: outline 100, hole as an object 16, both 96 (84 expected); a square and itself as a hole: 12
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q upolygon==0.2.3 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import upolygon


def square(first, last):
    return [first, first, last, first, last, last, first, last]


def count(*paths):
    return int(np.sum(upolygon.draw_polygon(np.zeros((12, 12), np.int32), list(paths), 1)))


outline, hole = square(1, 10), square(4, 7)
seen = [count(outline), count(hole), count(outline, hole), count(hole, hole)]
print("outline {}, hole as an object {}, both {} ({expected} expected); a square and itself as a hole: {}".format(
    *seen, expected=seen[0] - seen[1]))
assert seen == [100, 16, 96, 12]
PYTHON
