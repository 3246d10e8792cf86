"""Pictures of a benchmark: time and memory against the picture's size, and the paper's accuracy against time."""

import math
import os
from functools import partial
from pathlib import Path

from benchmark_models import MODELS
from PIL import Image, ImageDraw, ImageFont

from offseg_hf.variants import VARIANTS

WIDER = "measured with 768 channels, not the paper's 256"
COLOURS = {"offseg": (31, 98, 178), "segformer": (214, 96, 22), "literal": (120, 120, 120)}
NAMES = {"offseg": "OffSeg", "segformer": "SegFormer", "literal": "OffSeg, literally"}
# Label of the vertical axis, and what a second or a byte is on it.
AXES = {
    "forward": ("forward pass, ms", 1000),
    "photo": ("photo to label map, ms", 1000),
    "training": ("step of training, ms", 1000),
    "photo_memory": ("memory of photo to label map, MiB", 2**-20),
    "training_memory": ("memory of a step of training, MiB", 2**-20),
}
SCALE = 2  # drawn so many times as large and then made smaller, since Pillow's lines have hard edges
WIDTH, HEIGHT = 640 * SCALE, 420 * SCALE  # of a plot
LEFT, RIGHT, TOP, BOTTOM = 84 * SCALE, 36 * SCALE, 76 * SCALE, 60 * SCALE  # margins, in which labels stand
FONT_SIZE = 14 * SCALE  # of Pillow's own font, which has no ×
GREY, PALE_GREY = (90, 90, 90), (228, 228, 228)


def write_pictures(folder, record):
    """Writes `benchmark.png` where a record has several sizes, and `accuracy.png` where it has several variants.

    Args:
        folder (`str` or `Path`): where to; files there are replaced.
        record (`dict`): what [`~benchmark_report.start_record`] returns, with cases.

    Returns:
        `list[Path]`: the files written.
    """
    written = []
    for name, picture in (("benchmark.png", draw_sizes(record)), ("accuracy.png", draw_accuracy(record))):
        if picture is not None:
            path = Path(folder) / name
            unfinished = path.with_name(f".unfinished-{name}")
            picture.save(unfinished, "PNG")
            os.replace(unfinished, path)
            written.append(path)
    return written


def draw_sizes(record):
    """Draws time and memory against the number of pixels, a plot for each measure, variant, classes and batch.

    Args:
        record (`dict`): see [`write_pictures`].

    Returns:
        `PIL.Image.Image` or `None`: an RGB picture; `None` where nothing was measured at several sizes.
    """
    groups = {}
    for case in record["cases"]:
        if case["measure"] in AXES:
            fields = ("measure", "variant", "num_labels", "batch_size")
            groups.setdefault(tuple(case[field] for field in fields), []).append(case)
    plots = []
    for (measure, variant, num_labels, batch_size), cases in groups.items():
        ticks = {case["height"] * case["width"]: f"{case['height']}x{case['width']}" for case in cases}
        if len(ticks) > 1:
            label, factor = AXES[measure]
            curves = _curves(cases, lambda case, name: (case["height"] * case["width"], ""), factor)
            title = f"{variant}, {num_labels} classes, batch of {batch_size}"
            plots.append(draw_plot(title, curves, ("height x width, pixels", ticks), (label, None)))
    return _grid(plots)


def draw_accuracy(record):
    """Draws the paper's mean IoU on ADE20K against the measured time of a forward pass, a point for each variant.

    Args:
        record (`dict`): see [`write_pictures`].

    Returns:
        `PIL.Image.Image` or `None`: an RGB picture, a plot for each size, classes and batch; `None` where no forward
        pass was measured of several variants.
    """
    groups = {}
    for case in record["cases"]:
        if case["measure"] == "forward" and case["variant"] in VARIANTS:
            fields = ("height", "width", "num_labels", "batch_size")
            groups.setdefault(tuple(case[field] for field in fields), []).append(case)
    plots = []
    for (height, width, num_labels, batch_size), cases in groups.items():
        if len(cases) > 1:
            decoder_size = record["settings"]["segformer_decoder_size"]
            curves = _curves(cases, partial(_accuracy, decoder_size), 1000)
            curves = {name: [(y, x, text) for x, y, text in points] for name, points in curves.items()}
            title = f"{height}x{width} pixels, {num_labels} classes, batch of {batch_size}"
            title += f"; * {WIDER}" if any("*" in point[2] for points in curves.values() for point in points) else ""
            plots.append(draw_plot(title, curves, ("forward pass, ms", None), ("mIoU on ADE20K, the paper's", None)))
    return _grid(plots)


def draw_plot(title, curves, x_axis, y_axis):
    """Draws points that are joined by lines, on logarithmic axes.

    Args:
        title (`str`): what stands above.
        curves (`dict[str, list[tuple]]`): by the name of a model, points (x, y, text), x and y above 0.
        x_axis (`tuple[str, dict | None]`): its label; the values that get a tick with their texts, or `None` for round
            numbers.
        y_axis (`tuple[str, dict | None]`): likewise.

    Returns:
        `PIL.Image.Image`: an RGB picture of 1280×840 pixels, to be made smaller.
    """
    plot = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(plot), ImageFont.load_default(size=FONT_SIZE)
    points = [point for curve in curves.values() for point in curve]
    scales = []
    for index, ((_, ticks), start, end) in enumerate(((x_axis, LEFT, WIDTH - RIGHT), (y_axis, HEIGHT - BOTTOM, TOP))):
        scales.append(_Scale([point[index] for point in points], ticks, start, end))
    x, y = scales
    for tick, text in x.ticks.items():
        draw.line((x(tick), HEIGHT - BOTTOM, x(tick), TOP), fill=PALE_GREY, width=SCALE)
        draw.text((x(tick), HEIGHT - BOTTOM + 8 * SCALE), text, fill=GREY, font=font, anchor="mt")
    for tick, text in y.ticks.items():
        draw.line((LEFT, y(tick), WIDTH - RIGHT, y(tick)), fill=PALE_GREY, width=SCALE)
        draw.text((LEFT - 8 * SCALE, y(tick)), text, fill=GREY, font=font, anchor="rm")
    draw.line((LEFT, TOP, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM), fill=GREY, width=SCALE)
    draw.text((LEFT, 18 * SCALE), title, fill="black", font=font, anchor="lm")
    draw.text((LEFT, 42 * SCALE), y_axis[0], fill="black", font=font, anchor="lm")
    draw.text((WIDTH - RIGHT, HEIGHT - 8 * SCALE), x_axis[0], fill="black", font=font, anchor="rb")
    right = WIDTH - RIGHT
    for name, curve in reversed(curves.items()):
        places = [(x(across), y(up)) for across, up, _ in curve]
        draw.line(places, fill=COLOURS[name], width=2 * SCALE, joint="curve")
        for place, (_, _, text) in zip(places, curve):
            draw.circle(place, 4 * SCALE, fill=COLOURS[name])
            draw.text((place[0], place[1] - 8 * SCALE), text, fill=COLOURS[name], font=font, anchor="mb")
        draw.text((right, 42 * SCALE), NAMES[name], fill="black", font=font, anchor="rm")
        right -= font.getlength(NAMES[name]) + 10 * SCALE
        draw.circle((right, 42 * SCALE), 4 * SCALE, fill=COLOURS[name])
        right -= 20 * SCALE
    return plot


class _Scale:
    """A logarithmic axis: value → place."""

    def __init__(self, values, ticks, start, end):
        low, high = min(values), max(values)
        self.ticks = ticks or _round_ticks(low, high)
        low, high = min(low, *self.ticks) / 1.05, max(high, *self.ticks) * 1.05
        self.low, self.span, self.start, self.end = math.log(low), math.log(high / low), start, end

    def __call__(self, value):
        return self.start + (math.log(value) - self.low) / self.span * (self.end - self.start)


def _round_ticks(low, high):
    """Round numbers around values, more of them where the values are close together."""
    power = 10.0 ** math.floor(math.log10(low))
    mantissas = (1, 2, 5) if high / low > 4 else (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9)
    values = [mantissa * power * 10**index for index in range(12) for mantissa in mantissas]
    first = max(index for index, value in enumerate(values) if value <= low * (1 + 1e-9))
    last = min(index for index, value in enumerate(values) if value >= high * (1 - 1e-9))
    return {value: f"{value:,.6g}" for value in values[first : max(last, first + 1) + 1]}


def _curves(cases, place, factor):
    """For each model the points (x, its median, text), those that cannot be on a logarithmic axis left out."""
    curves = {}
    for name in MODELS:
        points = [(*place(case, name), case["models"][name]["median"] * factor) for case in cases]
        curves[name] = sorted((x, median, text) for x, text, median in points if median > 0)
    return {name: points for name, points in curves.items() if points}


def _accuracy(decoder_size, case, name):
    size = case["variant"].rpartition("-")[2]
    if name != "segformer":
        return VARIANTS[case["variant"]].ade20k, size.upper()
    is_wider = decoder_size is None and size not in ("b0", "b1")  # than what the paper's figures are of
    return VARIANTS[f"segformer-{size}"].ade20k, size.upper() + "*" * is_wider


def _grid(plots):
    """The plots, two in a row; `None` of none."""
    if not plots:
        return None
    columns = min(len(plots), 2)
    grid = Image.new("RGB", (columns * WIDTH, math.ceil(len(plots) / columns) * HEIGHT), "white")
    for index, plot in enumerate(plots):
        grid.paste(plot, (index % columns * WIDTH, index // columns * HEIGHT))
    return grid.reduce(SCALE)
