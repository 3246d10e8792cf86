import math

import numpy as np
import pytest

from offseg_hf.pictures.plots import draw_curves

TRAINING, VALIDATION, PALE, RED = (31, 98, 178), (214, 96, 22), (199, 216, 236), (200, 0, 40)
LEFT, RIGHT = 100, 960 - 40  # of the plot, in pixels
TOP, BOTTOM = 44, 300 - 46  # of the first plot


def mask_of(picture, colour):
    """Where a picture has a colour: (height, width) booleans."""
    return (np.abs(np.asarray(picture, dtype=int) - colour) < 12).all(axis=-1)


def columns_of(picture, colour, top=TOP):
    """The columns in which a plot has a colour."""
    return np.flatnonzero(mask_of(picture, colour)[top : top + BOTTOM - TOP].any(axis=0))


def losses(values):
    return [{"loss": value, "step": 10 * index} for index, value in enumerate(values, 1)]


def test_points_stand_where_their_step_and_value_say():
    picture = draw_curves([{"loss": 4.0, "step": 50}, {"loss": 1.0, "step": 100}])
    found = mask_of(picture, TRAINING)[TOP:BOTTOM]
    rows = {}
    for step, value in ((50, 4), (100, 1)):
        column = round(LEFT + step / 100 * (RIGHT - LEFT))
        rows[value] = np.flatnonzero(found[:, column - 1]).mean()
    height = BOTTOM - TOP  # of an axis from 0 to 4
    assert rows[4] == pytest.approx(0, abs=3)
    assert rows[1] == pytest.approx(height * 3 / 4, abs=3)


def test_there_is_a_plot_for_each_of_what_was_logged():
    log = [{"loss": 1.0, "learning_rate": 1e-4, "learning_rate_head": 1e-3, "step": 1}]
    assert draw_curves(log).size == (960, 600)
    assert draw_curves([*log, {"eval_loss": 1.0, "eval_mean_iou": 0.5, "step": 1}]).size == (960, 900)
    assert draw_curves([{"train_runtime": 3.0, "step": 1}]) is None


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_a_gap_and_a_red_line(lost):
    picture = draw_curves(losses([1.0, 1.0, lost, 1.0, 1.0]))
    step = (RIGHT - LEFT) / 50
    curve = columns_of(picture, TRAINING)
    between = (curve > LEFT + 22 * step) & (curve < LEFT + 38 * step)
    assert curve.size and not between.any()
    assert LEFT + 30 * step == pytest.approx(columns_of(picture, RED).mean(), abs=2)


def test_nothing_but_lost_values_can_be_drawn():
    picture = draw_curves(losses([math.nan, math.nan]))
    assert columns_of(picture, RED).size and not columns_of(picture, TRAINING).size


def test_many_points_are_pale_under_their_mean():
    def spread(picture, colour):
        return np.ptp(np.flatnonzero(mask_of(picture, colour)[TOP:BOTTOM, LEFT:].any(axis=1)))

    values = 1 + np.random.default_rng(0).normal(scale=0.2, size=5000)
    many, few = draw_curves(losses(values)), draw_curves(losses(values[:200]))
    assert spread(many, TRAINING) < 0.3 * spread(many, PALE)
    assert spread(few, TRAINING) > 0.3 * (BOTTOM - TOP)


def test_loss_is_readable_beside_an_outlier():
    values = np.linspace(4, 1, 60)
    values[20] = 1e6
    found = mask_of(draw_curves(losses(values)), TRAINING)[TOP:BOTTOM, LEFT:]
    rows = np.flatnonzero(found[:, 500:].any(axis=1))
    assert rows.max() - rows.min() >= 5  # on a linear axis it would be flat


def test_first_entry_of_a_step_counts():
    log = [{"eval_mean_iou": 0.5, "step": 1}, {"eval_mean_iou": 0.5, "step": 2}]
    again = [*log, {"eval_mean_iou": 0.1, "step": 2}]  # the best model's, which is loaded at the end
    assert np.array_equal(draw_curves(log), draw_curves(again))
