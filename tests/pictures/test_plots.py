import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from offseg_hf.pictures.plots import confusion_matrix_figure, confusion_matrix_picture, curves_figure, draw_curves

BLUE, ORANGE, RED = (to_rgb(colour) for colour in ("#1f62b2", "#d66016", "#c80028"))
NAMES = {0: "road", 1: "tree", 2: "sky"}


def losses(values):
    return [{"loss": value, "step": 10 * index} for index, value in enumerate(values, 1)]


def lines(log, colour, panel=0):
    """The lines of one colour in one of the plots, the pale ones first."""
    return [line for line in curves_figure(log).axes[panel].lines if to_rgb(line.get_color()) == colour]


def legend(log, panel=0):
    return [text.get_text() for text in curves_figure(log).axes[panel].get_legend().get_texts()]


def is_of(picture, colour):
    """Where a picture has a colour: (height, width) booleans."""
    return (np.abs(np.asarray(picture, dtype=int) - 255 * np.array(colour)) < 12).all(axis=-1)


# Curves


def test_points_stand_where_their_step_and_value_say():
    (line,) = lines([{"loss": 4.0, "step": 50}, {"loss": 1.0, "step": 100}], BLUE)
    np.testing.assert_array_equal(line.get_xydata(), [[50, 4], [100, 1]])
    assert line.get_marker() == "o"  # a curve of few points shows each
    axes = line.axes
    assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] >= 100
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 4 and axes.get_yscale() == "linear"


def test_there_is_a_plot_for_each_of_what_was_logged():
    log = [{"loss": 1.0, "learning_rate": 1e-4, "learning_rate_head": 1e-3, "step": 1}]
    assert [axes.get_title(loc="left") for axes in curves_figure(log).axes] == ["loss", "learning rate"]
    assert legend(log, 1) == ["encoder", "head"]
    log = [*log, {"eval_loss": 1.0, "eval_mean_iou": 0.5, "step": 1}]
    assert [axes.get_title(loc="left") for axes in curves_figure(log).axes] == ["loss", "learning rate", "mean IoU"]
    assert legend(log) == ["training", "validation"]
    assert draw_curves([{"train_runtime": 3.0, "step": 1}]) is None


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_a_gap_and_a_red_line(lost):
    log = losses([1.0, 1.0, lost, 1.0, 1.0])
    (curve,), (lost_step,) = lines(log, BLUE), lines(log, RED)
    assert np.isnan(curve.get_ydata()).tolist() == [False, False, True, False, False]
    assert list(lost_step.get_xdata()) == [30, 30]
    assert legend(log) == ["not finite (1)", "training"]
    picture = draw_curves(log)
    red, curve = (np.flatnonzero(is_of(picture, colour)[30:250].any(axis=0)) for colour in (RED, BLUE))
    assert red.size and curve.size and not ((curve > red.min() - 60) & (curve < red.max() + 60)).any()


def test_nothing_but_lost_values_can_be_drawn():
    picture = draw_curves(losses([math.nan, math.nan]))
    assert is_of(picture, RED)[30:250].any() and not is_of(picture, BLUE)[30:250].any()


def test_many_points_are_pale_under_their_mean():
    values = 1 + np.random.default_rng(0).normal(scale=0.2, size=5000)
    pale, mean = lines(losses(values), BLUE)
    assert pale.get_alpha() < 0.5 and mean.get_alpha() is None
    np.testing.assert_array_equal(pale.get_ydata(), values)
    assert mean.get_ydata()[2500] == pytest.approx(values[2450:2550].mean())
    assert np.ptp(mean.get_ydata()) < 0.3 * np.ptp(values)
    assert legend(losses(values)) == ["training, mean of 100 logged"]
    (alone,) = lines(losses(values[:200]), BLUE)
    np.testing.assert_array_equal(alone.get_ydata(), values[:200])


def test_a_point_between_lost_ones_is_a_dot_where_points_are_many():
    values = np.ones(100)
    values[[40, 42]] = math.nan
    (line,) = lines(losses(values), BLUE)
    assert np.flatnonzero(line.get_markevery()).tolist() == [41]


def test_loss_is_readable_beside_an_outlier():
    values = np.linspace(4, 1, 60)
    values[20] = 1e6
    (axes,) = curves_figure(losses(values)).axes
    assert axes.get_yscale() == "log"
    heights = axes.transData.transform(np.stack([np.arange(60), values], axis=1))[:, 1]  # in pixels
    assert heights[30] - heights[-1] >= 5  # on a linear axis it would be flat


def test_first_entry_of_a_step_counts():
    log = [{"eval_mean_iou": 0.5, "step": 1}, {"eval_mean_iou": 0.5, "step": 2}]
    again = [*log, {"eval_mean_iou": 0.1, "step": 2}]  # the best model's, which is loaded at the end
    np.testing.assert_array_equal(lines(again, ORANGE)[0].get_ydata(), [0.5, 0.5])


def test_picture_has_the_same_width_for_every_training():
    log = [{"loss": 1.0, "step": 1}, {"learning_rate": 1e-5, "step": 1}]
    assert draw_curves(log).size == (960, 600) and draw_curves(log[:1]).size == (960, 300)
    assert draw_curves(log).mode == "RGB"


def test_drawing_needs_no_display_and_leaves_the_global_state_alone():
    code = """
import sys
import offseg_hf.pictures.overlays, offseg_hf.pictures.plots as plots
assert "matplotlib" not in sys.modules
import matplotlib
before = matplotlib.rcParams.copy()
plots.draw_curves([{"loss": 1.0, "step": 1}]), plots.confusion_matrix_picture([[1]], {0: "road"})
assert "matplotlib.pyplot" not in sys.modules and matplotlib.rcParams.copy() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Confusion matrices


def cells(matrix, names):
    """The colours (K, K, 3) of the cells, and the texts in them."""
    axes = confusion_matrix_figure(matrix, names).axes[0]
    (image,) = axes.images
    return image.to_rgba(image.get_array())[..., :3], {text.get_position(): text.get_text() for text in axes.texts}


def test_confusion_matrix_is_darker_where_more_pixels_of_a_row_went():
    matrix = np.zeros((19, 19), int)
    matrix[0, :3] = (1000, 0, 0)
    matrix[1, :3] = (30, 60, 10)  # of fewer pixels: rows count by themselves
    colours, texts = cells(matrix, {})
    darkness = 1 - colours.mean(axis=-1)
    assert darkness[0, 0] > darkness[1, 1] > darkness[1, 0] > darkness[1, 2] > darkness[0, 1]
    assert darkness[0, 1] < 0.04
    assert (colours[2:] == to_rgb("#e4e4e4")).all()  # no pixel has these labels
    assert texts == {(0, 0): "100", (0, 1): "30", (1, 1): "60", (2, 1): "10"}  # (column, row)


def test_cells_below_half_a_percent_have_no_number():
    _, texts = cells([[995, 5], [996, 4]], {})
    assert texts == {(0, 0): "100", (1, 0): "0", (0, 1): "100"}


def test_rows_are_labels_and_columns_predictions_by_name():
    axes, scale = confusion_matrix_figure(np.eye(3, dtype=int), {0: "road", 1: "tree"}).axes
    assert axes.get_xlabel() == "prediction" and axes.get_ylabel() == "label"
    for axis in (axes.xaxis, axes.yaxis):
        assert [text.get_text() for text in axis.get_ticklabels()] == ["road", "tree", "2"]
    assert [text.get_text() for text in scale.get_xticklabels()][0::7] == ["0%", "100%"]


def test_confusion_matrix_of_150_classes_has_room_for_every_name_and_no_numbers():
    figure = confusion_matrix_figure(np.eye(150, dtype=int), {index: f"class {index}" for index in range(150)})
    axes = figure.axes[0]
    assert not axes.texts and axes.get_window_extent().height == pytest.approx(150 * 18)
    assert axes.yaxis.get_ticklabels()[0].get_fontsize() * figure.dpi / 72 < 18  # pixels


@pytest.mark.parametrize("num_labels", [2, 41])
def test_no_name_of_the_confusion_matrix_is_cut(num_labels):
    names = dict.fromkeys(range(num_labels), "a name as long as names can be in a legend of ours")
    picture = np.asarray(confusion_matrix_picture(np.eye(num_labels, dtype=int), names))
    edges = picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]
    assert all((edge == 255).all() for edge in edges)
    assert picture.shape[1] > 500  # the whole scale of colours


def test_names_are_shown_as_they_are_where_they_look_like_formulas():
    confusion_matrix_picture(np.eye(3, dtype=int), {0: "$frac{", 1: "a_b^$x$", 2: "50 %"})
    labels = confusion_matrix_figure(np.eye(2, dtype=int), {0: "$x$", 1: "y"}).axes[0].get_xticklabels()
    assert not labels[0].get_parse_math() and labels[0].get_text() == "$x$"


def test_confusion_matrix_that_is_not_square_raises():
    with pytest.raises(ValueError, match=r"`confusion_matrix` must be of shape \(K, K\), got \(2, 3\)"):
        confusion_matrix_picture(np.zeros((2, 3)), NAMES)
