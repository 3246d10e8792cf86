"""Colours of classes that are told apart easily."""

import numpy as np

IGNORE_COLOUR = (26, 26, 30)  # of pixels that have no class


def default_palette(num_labels: int) -> np.ndarray:
    """A colour for each class, each as far as possible from all before it.

    The colours are the same at every call, and those of a smaller palette begin a larger one. Distances are taken in
    the perceptual colour space Oklab (https://bottosson.github.io/posts/oklab).

    Args:
        num_labels (`int`): number of classes K, at least 1.

    Returns:
        `np.ndarray`: `uint8` of shape (K, 3), red, green and blue. They repeat after some 3,500 colours.

    Raises:
        ValueError: if `num_labels` is below 1.
    """
    if num_labels < 1:
        raise ValueError(f"`num_labels` must be at least 1, got {num_labels}.")
    levels = np.arange(7, 256, 16)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)  # (4096, 3)
    candidates = candidates[_oklab(candidates)[:, 0] > 0.35]  # darker ones look alike on a photo
    points = _oklab(candidates)
    # Colours keep away from the ignored pixels' dark, and from white, the legend's background.
    taken = _oklab(np.array([IGNORE_COLOUR, (255, 255, 255)]))
    distance = np.linalg.norm(points[:, None] - taken, axis=-1).min(axis=1)
    chosen = []
    for _ in range(min(num_labels, len(candidates))):
        chosen.append(distance.argmax())
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=-1))
    return np.resize(candidates[chosen], (num_labels, 3)).astype(np.uint8)


def _oklab(colours):
    """sRGB colours (N, 3) from 0 to 255 in Oklab, where distances are those that people see."""
    rgb = colours / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = linear @ [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
    return np.cbrt(cones) @ [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]
