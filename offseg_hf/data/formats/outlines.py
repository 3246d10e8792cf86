"""Outlines of boxes and ellipses that may be turned."""

import math

import numpy as np

NUM_ELLIPSE_POINTS = 360  # the outline is then less than 0.04 pixels off at a radius of 1,000


def turned(points: np.ndarray, pivot: tuple[float, float], degrees: float) -> np.ndarray:
    """Points turned clockwise, as pictures are seen: x to the right, y down.

    Args:
        points (`np.ndarray`): x and y in pixels, of shape (N, 2).
        pivot (`tuple[float, float]`): x and y of the point that stays.
        degrees (`float`): angle; points that are not turned are given back as they are.

    Returns:
        `np.ndarray`: of the same shape.
    """
    if not degrees:
        return points
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (points - pivot) @ np.array([[cos, sin], [-sin, cos]]) + pivot


def box_outline(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The corners of an upright box, clockwise, x and y in pixels: of shape (4, 2)."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def ellipse_outline(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    """A polygon that is an upright ellipse round a centre, x and y in pixels: of shape (360, 2)."""
    angles = np.linspace(0, 2 * np.pi, NUM_ELLIPSE_POINTS, endpoint=False)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
