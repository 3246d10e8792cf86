"""Curves of a training and confusion matrices, drawn by matplotlib without a display and without its global state."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from offseg_hf.pictures.overlays import short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100  # pixels per inch; matplotlib counts in inches
BLUE, ORANGE, RED, GREY = "#1f62b2", "#d66016", "#c80028", "#e4e4e4"
# What is drawn: title of the plot, and for each curve its name, the key in the log and the colour.
PANELS = (
    ("loss", (("training", "loss", BLUE), ("validation", "eval_loss", ORANGE))),
    ("learning rate", (("encoder", "learning_rate", BLUE), ("head", "learning_rate_head", ORANGE))),
    ("mean IoU", (("validation", "eval_mean_iou", ORANGE),)),
)
PANEL_SIZE = (9.6, 3.0)  # (width, height) in inches
MAX_DOTS = 60  # points of a curve up to which each gets a dot
MAX_PLAIN = 200  # points up to which a loss is drawn as it is; beyond, pale and under its running mean
MAX_NUMBERED = 40  # classes of a confusion matrix whose cells hold numbers


def draw_curves(log_history: list[dict]) -> Image.Image | None:
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
    figure = curves_figure(log_history)
    return None if figure is None else _rendered(figure)


def curves_figure(log_history: list[dict]) -> "Figure | None":
    """What [`draw_curves`] draws, as matplotlib has it.

    Args:
        log_history (`list[dict]`): see [`draw_curves`].

    Returns:
        `matplotlib.figure.Figure` or `None`: with one `Axes` for each of loss, learning rate and mean IoU that was
        logged; `None` where none was.
    """
    from matplotlib.figure import Figure

    panels = []
    for title, curves in PANELS:
        series = [(name, *_points(log_history, key), colour) for name, key, colour in curves]
        series = [entry for entry in series if len(entry[1])]
        if series:
            panels.append((title, series))
    if not panels:
        return None
    width, height = PANEL_SIZE
    figure = Figure(figsize=(width, height * len(panels)), dpi=DPI, layout="constrained")
    last_step = max(steps[-1] for _, series in panels for _, steps, _, _ in series)
    for axes, (title, series) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels):
        _draw_panel(axes, title, series, last_step)
    return figure


def _points(log_history, key):
    """The steps, in order, and the values that were logged under a key."""
    values = {}
    for entry in log_history:
        if key in entry:
            values.setdefault(entry["step"], float(entry[key]))
    steps = sorted(values)
    return np.array(steps), np.array([values[step] for step in steps])


def _draw_panel(axes, title, series, last_step):
    """One plot; `series` holds for each curve its name, steps, values and colour."""
    from matplotlib.ticker import MaxNLocator

    lost = sorted({step for _, steps, values, _ in series for step in steps[~np.isfinite(values)].tolist()})
    for number, step in enumerate(lost):
        axes.axvline(step, color=RED, linewidth=1, label="_" if number else f"not finite ({len(lost)})")
    for name, steps, values, colour in series:
        values = np.where(np.isfinite(values), values, np.nan)  # which matplotlib leaves out
        window = len(steps) // 50 if title == "loss" and len(steps) > MAX_PLAIN else 1
        if window > 1:
            _draw_curve(axes, steps, values, color=colour, alpha=0.25, label="_")
            name, values = f"{name}, mean of {window} logged", _running_mean(values, window)
        _draw_curve(axes, steps, values, color=colour, label=name)

    finite = np.concatenate([values[np.isfinite(values)] for _, _, values, _ in series])
    if title == "loss" and len(finite) and finite.min() > 0 and finite.max() > 50 * np.median(finite):
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        if len(finite) and finite.min() >= 0:
            axes.set_ylim(bottom=0, top=1.05 * finite.max() or 1)
    axes.set_xlim(0, 1.01 * max(last_step, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.set_title(title, loc="left")
    axes.set_xlabel("step", loc="right")
    axes.grid(axis="y", color=GREY)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0)


def _draw_curve(axes, steps, values, **style):
    """A curve with a dot at each point, or where there are many, at those alone that no line reaches."""
    padded = np.pad(np.isfinite(values), 1)
    alone = padded[1:-1] & ~padded[:-2] & ~padded[2:]
    is_dotted = np.isfinite(values) if len(values) <= MAX_DOTS else alone
    marker = "o" if is_dotted.any() else None
    axes.plot(steps, values, marker=marker, markersize=4, markevery=is_dotted, linewidth=1.5, **style)


def _running_mean(values, window):
    """The mean of the finite values of a window around each; NaN where the value itself is none."""
    is_finite = np.isfinite(values)
    first = np.maximum(np.arange(len(values)) - window // 2, 0)
    behind = np.minimum(np.arange(len(values)) + (window + 1) // 2, len(values))
    sums, counts = (np.pad(np.cumsum(each), (1, 0)) for each in (np.where(is_finite, values, 0), is_finite))
    means = (sums[behind] - sums[first]) / np.maximum(counts[behind] - counts[first], 1)
    return np.where(is_finite, means, np.nan)


def confusion_matrix_picture(confusion_matrix: np.ndarray, id2label: dict[int, str]) -> Image.Image:
    """A picture of what the pixels of each class were taken for.

    Rows are labels, columns predictions, and the cells of a row sum to 100 %. With up to 40 classes, cells hold their
    percentages, but those below one half; with more, colours tell alone. The row of a class without pixels is grey.

    Args:
        confusion_matrix (array-like): numbers of pixels of shape (K, K), by label and by prediction.
        id2label (`dict[int, str]`): names of the classes; a class without one goes by its id.

    Returns:
        `PIL.Image.Image`: an RGB picture, about 900 pixels wide for 19 classes and 3,000 for 150.

    Raises:
        ValueError: if the matrix is not square.
    """
    return _rendered(confusion_matrix_figure(confusion_matrix, id2label), whole=True)


def confusion_matrix_figure(confusion_matrix: np.ndarray, id2label: dict[int, str]) -> "Figure":
    """What [`confusion_matrix_picture`] draws, as matplotlib has it.

    Args:
        confusion_matrix (array-like): see [`confusion_matrix_picture`], as `id2label`.

    Returns:
        `matplotlib.figure.Figure`: its first `Axes` is the matrix, the second one the scale of the colours. Names and
        scale stand outside of the figure's edges: save it with `bbox_inches="tight"`.

    Raises:
        ValueError: if the matrix is not square.
    """
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    counts = np.asarray(confusion_matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(
            f"`confusion_matrix` must be of shape (K, K), got {counts.shape}: leave out what stands for no class."
        )
    num_labels, is_numbered = len(counts), len(counts) <= MAX_NUMBERED
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = num_labels * (0.4 if is_numbered else 0.18)  # inches
    figure = Figure(figsize=(side, side), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    image = axes.imshow(
        np.ma.masked_array(shares, np.broadcast_to(~counts.any(axis=1)[:, None], counts.shape)),
        cmap=colormaps["Blues"].with_extremes(bad=GREY),
        norm=PowerNorm(0.5, vmin=0, vmax=1),  # by their roots, so that small shares are seen
        interpolation="nearest",
    )
    names = [short_name(index, id2label) for index in range(num_labels)]
    axes.set_xticks(range(num_labels), names, rotation=90, fontsize=9, parse_math=False)
    axes.set_yticks(range(num_labels), names, fontsize=9, parse_math=False)
    # Names stand on all sides of a large matrix, where the eye would lose its row on the way.
    axes.tick_params(length=0, labeltop=True, labelbottom=not is_numbered, labelright=not is_numbered)
    between = np.arange(1, num_labels) - 0.5
    for draw_lines in (axes.hlines, axes.vlines):
        draw_lines(between, -0.5, num_labels - 0.5, color=GREY, linewidth=0.5)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("prediction", fontsize=12, labelpad=10)
    axes.set_ylabel("label", fontsize=12, labelpad=10)
    if is_numbered:
        for row, column in zip(*np.nonzero(shares >= 0.005)):
            share = shares[row, column]
            colour = "white" if share > 0.3 else "black"
            axes.text(column, row, f"{100 * share:.0f}", color=colour, fontsize=9, ha="center", va="center")

    # Below the matrix, and below the names at its lower edge.
    below = 0.5 if is_numbered else 0.8 + 0.07 * max(map(len, names))  # inches
    scale = figure.add_axes((0, -below / side, min(max(side, 4), 8) / side, 0.15 / side))
    ticks = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
    figure.colorbar(image, cax=scale, orientation="horizontal", ticks=ticks, format=PercentFormatter(1, decimals=0))
    scale.set_title("share of the label's pixels", fontsize=9, loc="left")
    scale.tick_params(labelsize=9)
    return figure


def _rendered(figure, whole=False):
    """A figure as an RGB picture; with `whole`, including what stands outside of its edges."""
    content = io.BytesIO()
    figure.savefig(content, format="png", bbox_inches="tight" if whole else None)
    return Image.open(content).convert("RGB")
