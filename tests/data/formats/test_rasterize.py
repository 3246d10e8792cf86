import json
from pathlib import Path

import numpy as np
import pytest
from tool_venv import run_with

from offseg_hf.data.formats.rasterize import FILLS, fill_corners, fill_darwin, fill_opencv, fill_pillow

SQUARE = np.array([[2, 1], [6, 1], [6, 4], [2, 4]])
SIZE = (24, 32)
# Which pixels the tools' own libraries fill, at `size`: of `outlines.json`, one list of outlines per object.
TOOLS = {
    "corners": (
        ["pycocotools==2.0.11", "numpy"],
        "from pycocotools import mask\n"
        "def fill(outlines, h, w):\n"
        "    return mask.decode(mask.merge(mask.frPyObjects([sum(outline, []) for outline in outlines], h, w)))",
    ),
    "opencv": (
        ["opencv-python-headless==4.11.0.86", "numpy"],
        "import cv2\n"
        "def fill(outlines, h, w):\n"
        "    inside = np.zeros((h, w), np.uint8)\n"
        "    for outline in outlines:\n"
        "        cv2.fillPoly(inside, [np.array(outline, np.int32)], 1)\n"
        "    return inside",
    ),
    "darwin": (
        ["upolygon==0.2.3", "numpy"],
        "from upolygon import draw_polygon\n"
        "fill = lambda outlines, h, w: draw_polygon(np.zeros((h, w), np.uint8), [sum(o, []) for o in outlines], 1)",
    ),
}
RUN = """
import json
import numpy as np
{fill}
objects = json.load(open("outlines.json"))
print(json.dumps([np.packbits(fill(outlines, {height}, {width})).tobytes().hex() for outlines in objects]))
"""


def random_objects(fill, count):
    """Outlines of all kinds: crossing themselves, out of the picture, on one line, within a pixel, several."""
    random = np.random.default_rng(0)
    height, width = SIZE
    objects = []
    for number in range(count):
        outlines = []
        for _ in range(random.integers(1, 4)):
            points = random.uniform(0, 1, (random.integers(3, 12), 2)) * [width, height]
            if number % 5 == 1 and fill != "darwin":  # darwin-py moves points into the picture
                points = points * 2 - [width / 2, height / 2]
            elif number % 5 == 2:
                points = points / 20 + [7, 9]
            elif number % 5 == 3:
                points = points[:1] + np.linspace(0, 1, len(points))[:, None] * (points[-1] - points[0])
            points = points.round(1) if fill == "corners" else points.astype(int)
            outlines.append(points.tolist())
        objects.append(outlines)
    return objects


def pixels(fill, outlines):
    return np.packbits(FILLS[fill]([np.array(one) for one in outlines], SIZE, (0, 0))).tobytes().hex()


@pytest.mark.parametrize("fill", TOOLS)
def test_fill_is_the_tools_in_kept_results(fill):
    kept = json.loads(Path(__file__).with_name("samples").joinpath("fills.json").read_text())[fill]
    assert len(kept) == 25
    assert [pixels(fill, outlines) for outlines in random_objects(fill, 25)] == kept


@pytest.mark.network
@pytest.mark.parametrize("fill", TOOLS)
def test_fill_is_the_tools(fill, tmp_path):
    packages, code = TOOLS[fill]
    objects = random_objects(fill, 2000)
    (tmp_path / "outlines.json").write_text(json.dumps(objects))
    found = json.loads(run_with(packages, RUN.format(fill=code, height=SIZE[0], width=SIZE[1]), tmp_path))
    assert [pixels(fill, outlines) for outlines in objects] == found


@pytest.mark.parametrize(
    "fill, num_pixels", [(fill_corners, 4 * 3), (fill_pillow, 5 * 4), (fill_opencv, 5 * 4), (fill_darwin, 5 * 4)]
)
def test_square_has_its_edges_or_not(fill, num_pixels):
    inside = fill([SQUARE], (8, 10))
    assert inside.dtype == bool and inside.shape == (8, 10) and inside.sum() == num_pixels
    assert inside[1:4, 2:6].all()


@pytest.mark.parametrize("name", FILLS)
def test_part_of_a_picture_is_what_the_picture_has_there(name):
    outline = np.array([[3.1, 2.3], [27.7, 5.5], [20.9, 21.3], [8.5, 13.1]])
    if name in ("opencv", "darwin"):
        outline = outline.round()
    whole = FILLS[name]([outline], SIZE, (0, 0))
    part = FILLS[name]([outline], (21, 27), (2, 1))
    assert part.any() and (part == whole[1:22, 2:29]).all()


def test_outlines_are_united_but_in_darwin():
    inner = SQUARE * 0 + [[3, 2], [5, 2], [5, 3], [3, 3]]
    outer = np.array([[0, 0], [9, 0], [9, 7], [0, 7]])
    for fill in (fill_corners, fill_pillow, fill_opencv):
        assert (fill([outer, inner], (8, 10)) == fill([outer], (8, 10))).all()
    assert fill_darwin([outer, inner], (8, 10)).all()  # the hole of 3x2 pixels is all edge
    wide = np.array([[2, 2], [6, 2], [6, 5], [2, 5]])
    assert fill_darwin([outer, wide], (8, 10)).sum() == 80 - 3 * 2
