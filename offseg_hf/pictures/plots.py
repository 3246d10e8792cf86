"""Curves of a training as one picture: loss, learning rate and mean IoU against steps."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# What is drawn: label of the axis, and for each curve its name, the key in the log and the colour.
PANELS = (
    ("loss", (("training", "loss", (31, 98, 178)), ("validation", "eval_loss", (214, 96, 22)))),
    ("learning rate", (("encoder", "learning_rate", (31, 98, 178)), ("head", "learning_rate_head", (214, 96, 22)))),
    ("mean IoU", (("validation", "eval_mean_iou", (214, 96, 22)),)),
)
SCALE = 2  # drawn so many times as large and then made smaller, since Pillow's lines have hard edges
WIDTH, HEIGHT = 960 * SCALE, 300 * SCALE  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 100 * SCALE, 40 * SCALE, 44 * SCALE, 46 * SCALE  # margins, in which labels stand
FONT_SIZE = 14 * SCALE
MAX_DOTS = 60  # points of a curve up to which each gets a dot
MAX_PLAIN = 200  # points up to which a loss is drawn as it is; beyond, pale and under its running mean
GREY, PALE_GREY, RED = (90, 90, 90), (228, 228, 228), (200, 0, 40)


def draw_curves(log_history):
    """Draws loss, learning rate and mean IoU against steps, as far as they were logged.

    Losses of more than 200 points are drawn pale, below their running mean. A step whose value is not finite is a gap
    in the curve and a red line across the plot. Losses of which the largest is more than 50 times the median get a
    logarithmic axis.

    Args:
        log_history (`list[dict]`): `trainer.state.log_history`: what was logged, each with its `step`. Of several
            entries of one step the first counts.

    Returns:
        `PIL.Image.Image` or `None`: an RGB picture 960 pixels wide; `None` where there is nothing to draw.
    """
    panels = []
    for label, curves in PANELS:
        series = [(name, *_points(log_history, key), colour) for name, key, colour in curves]
        series = [entry for entry in series if len(entry[1])]
        if series:
            panels.append((label, series))
    if not panels:
        return None
    last_step = max(steps[-1] for _, series in panels for _, steps, _, _ in series)
    picture = Image.new("RGB", (WIDTH, HEIGHT * len(panels)), "white")
    for index, (label, series) in enumerate(panels):
        picture.paste(_panel(label, series, last_step), (0, index * HEIGHT))
    return picture.reduce(SCALE)


def _points(log_history, key):
    """The steps, in order, and the values that were logged under a key."""
    values = {}
    for entry in log_history:
        if key in entry:
            values.setdefault(entry["step"], float(entry[key]))
    steps = sorted(values)
    return np.array(steps), np.array([values[step] for step in steps])


def _panel(label, series, last_step):
    panel = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(size=FONT_SIZE)
    finite = np.concatenate([values[np.isfinite(values)] for _, _, values, _ in series])
    is_log = label == "loss" and len(finite) > 0 and finite.min() > 0 and finite.max() > 50 * np.median(finite)
    height_of = np.log10 if is_log else np.asarray
    ticks = _log_ticks(finite) if is_log else _ticks(min([0, *finite]), max([*finite, 0]))
    bottom, top = height_of(ticks[0]), height_of(ticks[-1])
    x_ticks = [tick for tick in _ticks(0, last_step) if tick <= last_step and tick == int(tick)]

    def x(step):
        return LEFT + step / max(last_step, 1) * (WIDTH - LEFT - RIGHT)

    def y(value):
        return HEIGHT - BOTTOM - (height_of(value) - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    for tick in ticks:
        draw.line((LEFT, y(tick), WIDTH - RIGHT, y(tick)), fill=PALE_GREY, width=SCALE)
        draw.text((LEFT - 8 * SCALE, y(tick)), f"{tick:,.6g}", fill=GREY, font=font, anchor="rm")
    for tick in x_ticks:
        draw.line((x(tick), HEIGHT - BOTTOM, x(tick), HEIGHT - BOTTOM + 5 * SCALE), fill=GREY, width=SCALE)
        draw.text((x(tick), HEIGHT - BOTTOM + 8 * SCALE), f"{int(tick):,}", fill=GREY, font=font, anchor="mt")
    for _, steps, values, _ in series:
        for step in steps[~np.isfinite(values)]:
            draw.line((x(step), TOP, x(step), HEIGHT - BOTTOM), fill=RED, width=SCALE)
    entries = []
    for name, steps, values, colour in series:
        window = len(steps) // 50 if label == "loss" and len(steps) > MAX_PLAIN else 1
        _draw_curve(draw, [x(step) for step in steps], values, y, colour, window)
        entries.append((name if window == 1 else f"{name}, mean of {window} logged", colour))
    draw.line((LEFT, TOP, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM), fill=GREY, width=SCALE)

    draw.text((LEFT, TOP / 2), label, fill="black", font=font, anchor="lm")
    draw.text((WIDTH - RIGHT, HEIGHT - 6 * SCALE), "step", fill="black", font=font, anchor="rb")
    num_lost = sum(np.count_nonzero(~np.isfinite(values)) for _, _, values, _ in series)
    if num_lost:
        entries.append((f"not finite ({num_lost})", RED))
    right = WIDTH - RIGHT
    for text, colour in reversed(entries):
        draw.text((right, TOP / 2), text, fill="black", font=font, anchor="rm")
        right -= font.getlength(text) + 6 * SCALE
        draw.line((right - 20 * SCALE, TOP / 2, right, TOP / 2), fill=colour, width=3 * SCALE)
        right -= 44 * SCALE
    return panel


def _draw_curve(draw, across, values, y, colour, window):
    """Draws a curve, in pieces between the values that are not finite."""
    is_finite = np.isfinite(values)
    pieces = np.split(np.arange(len(values)), 1 + np.flatnonzero(is_finite[1:] != is_finite[:-1]))
    pale = tuple(255 - (255 - channel) // 4 for channel in colour)
    for piece in pieces:
        if not is_finite[piece[0]]:
            continue
        lines = [(values[piece], colour)]
        if window > 1:
            lines = [(values[piece], pale), (_running_mean(values[piece], window), colour)]
        for heights, line_colour in lines:
            points = [(across[index], y(height)) for index, height in zip(piece, heights)]
            draw.line(points, fill=line_colour, width=2 * SCALE, joint="curve")
            if len(values) <= MAX_DOTS or len(points) == 1:
                for point in points:
                    draw.circle(point, 3 * SCALE, fill=line_colour)


def _running_mean(values, window):
    """The mean of a window around each value, of fewer near the ends."""
    sums = np.concatenate([[0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - window // 2, 0)
    behind = np.minimum(np.arange(len(values)) + (window + 1) // 2, len(values))
    return (sums[behind] - sums[first]) / (behind - first)


def _ticks(low, high):
    """Round numbers, 5 to 8 of them, from at most `low` to at least `high`."""
    high = high if high > low else low + 1
    span = high - low
    power = 10 ** math.floor(math.log10(span / 6))
    step = power * min(factor for factor in (1, 2, 5, 10) if factor * power >= span / 6 * (1 - 1e-9))
    return [index * step for index in range(math.floor(low / step), math.ceil(high / step - 1e-9) + 1)]


def _log_ticks(values):
    """Powers of ten, at most 8 or so, from at most the smallest to at least the largest value."""
    low, high = math.floor(math.log10(values.min())), math.ceil(math.log10(values.max()))
    return [10.0**power for power in range(low, high + 1 + max(1, (high - low) // 6), max(1, (high - low) // 6))]
