"""Draws a benchmark's record: time and memory against the picture's size, and the paper's accuracy against time.

    python scripts/benchmarks/benchmark_pictures.py results/benchmark.json --output results
    python scripts/benchmarks/benchmark_pictures.py outputs/benchmark/benchmark.json --output outputs/benchmark

`compare_speed.py` draws the same pictures when it has measured; this draws them again without measuring.
"""

import argparse
import json
import math
from pathlib import Path

from benchmark_models import MODELS
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from offseg_hf.files import whole_file
from offseg_hf.variants import VARIANTS

WIDER = "* measured with 768 channels, not with the paper's 256"
# Colour, marker and name of each model; literal is drawn first, where curves lie upon each other.
STYLES = {
    "offseg": ("#1f62b2", "o", "OffSeg"),
    "segformer": ("#d66016", "s", "SegFormer"),
    "literal": ("#787878", "^", "OffSeg, as the paper writes it"),
}
# Label of the vertical axis, and what a second or a byte is on it.
AXES = {
    "forward": ("forward pass (ms)", 1000),
    "photo": ("photo to label map (ms)", 1000),
    "training": ("training step (ms)", 1000),
    "photo_memory": ("memory, photo to label map (MiB)", 2**-20),
    "training_memory": ("memory, training step (MiB)", 2**-20),
}
PLOT_SIZE = (6.4, 4.2)  # inches, of which each is 100 pixels


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="The benchmark.json to draw.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the pictures, which are replaced.")
    args = parser.parse_args(argv)
    try:
        record = json.loads(args.record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"`record` must be the JSON file of a benchmark, got {args.record} ({error}); name another.")
    for path in write_pictures(args.output, record):
        print(path)


def write_pictures(folder, record):
    """Writes `benchmark.png` where a record has several sizes, and `accuracy.png` where it has several variants.

    Args:
        folder (`str` or `Path`): where to; files there are replaced.
        record (`dict`): what [`~benchmark_report.start_record`] returns, with cases.

    Returns:
        `list[Path]`: the files written.
    """
    written = []
    for name, figure in (("benchmark.png", draw_sizes(record)), ("accuracy.png", draw_accuracy(record))):
        if figure is not None:
            path = Path(folder) / name
            with whole_file(path) as unfinished:
                figure.savefig(unfinished, format="png", dpi=100)
            written.append(path)
    return written


def draw_sizes(record):
    """Draws time and memory against the number of pixels, a plot for each measure, variant, classes and batch.

    Args:
        record (`dict`): see [`write_pictures`].

    Returns:
        `matplotlib.figure.Figure` or `None`: both axes of each plot are logarithmic; `None` where nothing was measured
        at several sizes.
    """
    groups = _groups(record, lambda case: case["measure"] in AXES, ("measure", "variant", "num_labels", "batch_size"))
    groups = {key: cases for key, cases in groups.items() if len({_pixels(case) for case in cases}) > 1}
    figure, plots = _plots(len(groups))
    for axes, ((measure, variant, num_labels, batch_size), cases) in zip(plots, groups.items()):
        label, factor = AXES[measure]
        axes.set_title(f"{variant}, {num_labels} classes, batch of {batch_size}", loc="left", fontsize="medium")
        axes.set(xscale="log", yscale="log")
        axes.minorticks_off()
        ticks = {_pixels(case): f"{case['height']}×{case['width']}" for case in sorted(cases, key=_pixels)}
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlabel("height × width (pixels)")
        _ticks_of_logarithms(axes.yaxis)
        axes.set_ylabel(label)
        for name, points in _curves(cases, factor).items():
            _draw_curve(axes, name, [(_pixels(case), median) for case, median in points])
        axes.legend(frameon=False, loc="upper left")
    return figure


def draw_accuracy(record):
    """Draws the paper's mean IoU on ADE20K against the measured time of a forward pass, a point for each variant.

    Args:
        record (`dict`): see [`write_pictures`].

    Returns:
        `matplotlib.figure.Figure` or `None`: a plot for each size, classes and batch, with time on a logarithmic axis;
        `None` where no forward pass was measured of several variants.
    """
    is_shown = lambda case: case["measure"] == "forward" and case["variant"] in VARIANTS  # noqa: E731
    groups = _groups(record, is_shown, ("height", "width", "num_labels", "batch_size"))
    groups = {key: cases for key, cases in groups.items() if len(cases) > 1}
    is_released = record["settings"]["segformer_decoder_size"] is None  # not the paper's size of SegFormer's decoder
    figure, plots = _plots(len(groups))
    for axes, ((height, width, num_labels, batch_size), cases) in zip(plots, groups.items()):
        title = [f"{height}×{width} pixels, {num_labels} classes, batch of {batch_size}"]
        axes.set_xscale("log")
        _ticks_of_logarithms(axes.xaxis)
        axes.set_xlabel("forward pass (ms)")
        axes.set_ylabel("the paper's mean IoU on ADE20K (%)")
        axes.margins(x=0.1)
        for name, points in _curves(cases, 1000).items():
            curve = []
            for case, median in points:
                size = case["variant"].rpartition("-")[2]
                is_wider = name == "segformer" and is_released and size not in ("b0", "b1")
                published = VARIANTS[f"segformer-{size}" if name == "segformer" else case["variant"]]
                curve.append((median, published.ade20k, size.upper() + "*" * is_wider))
            _draw_curve(axes, name, [(x, y) for x, y, _ in curve])
            if name != "literal":  # its points are OffSeg's, moved to the right
                place, side = ((-6, 4), "right") if name == "offseg" else ((6, -11), "left")  # where no curve is
                for x, y, text in curve:
                    axes.annotate(text, (x, y), place, textcoords="offset points", ha=side, color=STYLES[name][0])
            if any("*" in text for *_, text in curve):
                title.append(WIDER)
        axes.set_title("\n".join(title), loc="left", fontsize="medium")
        axes.legend(frameon=False, loc="lower right")
    return figure


def _groups(record, is_shown, fields):
    """The cases that are shown, together where they are equal in some fields."""
    groups = {}
    for case in filter(is_shown, record["cases"]):
        groups.setdefault(tuple(case[field] for field in fields), []).append(case)
    return groups


def _plots(count):
    """A figure and its empty plots, two in a row; `None` and no plots for a count of 0."""
    if count == 0:
        return None, []
    columns, rows = min(count, 2), math.ceil(count / 2)
    figure = Figure(figsize=(PLOT_SIZE[0] * columns, PLOT_SIZE[1] * rows), layout="constrained")
    plots = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    for axes in plots:
        axes.grid(color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
    return figure, plots


def _ticks_of_logarithms(axis):
    """Ticks at 1, 2 and 5 of each power of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:,.6g}"))
    axis.set_minor_locator(NullLocator())


def _draw_curve(axes, name, points):
    colour, marker, label = STYLES[name]
    x, y = zip(*points)
    axes.plot(x, y, color=colour, marker=marker, label=label, zorder=2 if name == "literal" else 3)


def _curves(cases, factor):
    """For each model (case, median), the smallest picture and the fastest first; 0 has no place on these axes."""
    curves = {}
    for name in MODELS:
        points = [(case, case["models"][name]["median"] * factor) for case in cases]
        points = sorted((point for point in points if point[1] > 0), key=lambda point: (_pixels(point[0]), point[1]))
        if points:
            curves[name] = points
    return curves


def _pixels(case):
    return case["height"] * case["width"]


if __name__ == "__main__":
    main()
