"""Compares the time to draw polygons as COCO means them with that of pycocotools, object by object.

    python scripts/benchmarks/rasterize.py
    python scripts/benchmarks/rasterize.py --num_objects 1000 --num_rounds 11

Objects are drawn as those of COCO are: outlines of 10 to 200 vertices, 20 to 300 pixels wide, in photos of 640×480
pixels. Each of the two makes one label map of all, in one process on one thread. Without pycocotools, `pip install
pycocotools`, there is no comparison.
"""

import argparse
import importlib.util
import math
import statistics
import time

SIZE = (480, 640)  # height and width


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_objects", type=int, default=300, help="Objects per round.")
    parser.add_argument("--num_rounds", type=int, default=7, help="Rounds, of which the median counts.")
    args = parser.parse_args(argv)

    outlines = drawn_outlines(args.num_objects)
    functions = [draw_ours] + [draw_theirs] * (importlib.util.find_spec("pycocotools") is not None)
    seconds = {function: [] for function in functions}
    label_maps = {}
    for number in range(args.num_rounds + 1):
        for function, times in seconds.items():
            start = time.perf_counter()
            label_maps[function] = function(outlines)
            if number:  # the first round warms up
                times.append(time.perf_counter() - start)
            assert (label_maps[function] == label_maps[draw_ours]).all(), "the two differ"
    median = statistics.median(seconds[draw_ours]) / len(outlines)
    print(f"polygons: {1000 * median:.2f} ms an object, {1 / median:.0f} a second and core")
    if draw_theirs in seconds:
        ratios = [ours / theirs for ours, theirs in zip(seconds[draw_ours], seconds[draw_theirs])]
        print(f"pycocotools: {1000 * statistics.median(seconds[draw_theirs]) / len(outlines):.2f} ms an object")
        print(
            f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)"
        )
    return 1 / median


def drawn_outlines(count):
    """Star-shaped outlines with two decimals, as COCO has them."""
    import numpy as np

    random = np.random.default_rng(0)
    outlines = []
    for _ in range(count):
        num_vertices = int(math.exp(random.uniform(math.log(10), math.log(200))))
        width, height = np.exp(random.uniform(math.log(20), math.log(300), 2))
        angle = np.sort(random.uniform(0, 2 * math.pi, num_vertices))
        points = (
            np.stack([width * np.cos(angle), height * np.sin(angle)], 1)
            * random.uniform(0.3, 0.5, num_vertices)[:, None]
        )
        centre = random.uniform([width / 2, height / 2], [SIZE[1] - width / 2, SIZE[0] - height / 2])
        outlines.append((points + centre).round(2))
    return outlines


def draw_ours(outlines):
    """A label map of the objects by this package."""
    from pathlib import Path

    from offseg_hf.data.formats.drawing import DrawnMask
    from offseg_hf.data.formats.records import LabelledPhoto, Polygon

    shapes = tuple(Polygon(str(number % 80), (outline,)) for number, outline in enumerate(outlines))
    class_ids = {str(number): number for number in range(80)}
    return DrawnMask(LabelledPhoto(Path("a.jpg"), "a.json", shapes, SIZE), class_ids).draw()


def draw_theirs(outlines):
    """The same by pycocotools."""
    import numpy as np
    from pycocotools import mask

    label_map = np.full(SIZE, 255, np.uint8)
    for number, outline in enumerate(outlines):
        inside = mask.decode(mask.merge(mask.frPyObjects([outline.ravel().tolist()], *SIZE)))
        label_map[inside.astype(bool)] = number % 80
    return label_map


if __name__ == "__main__":
    main()
