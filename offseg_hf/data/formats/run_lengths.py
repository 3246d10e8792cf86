"""COCO's run lengths, as a list or in pycocotools' text."""

import numpy as np


def decode_run_lengths(data: tuple[list[int] | str, tuple[int, int]]) -> np.ndarray:
    """The pixels of COCO's run lengths, which go down the columns and begin with a run outside.

    Args:
        data (`tuple`): `counts`, as a list or in the compressed text of pycocotools 2.0.11 (`rleToString`), and
            `size`, height and width in pixels.

    Returns:
        `np.ndarray`: boolean, of shape (height, width).

    Raises:
        ValueError: the runs do not fill the picture, or the text is damaged.
    """
    counts, (height, width) = data
    runs = _decompress(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"its runs have {runs.sum()} pixels in all instead of {height * width}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _decompress(text):
    """Run lengths of text: digits of 5 bits, the lowest first; from the fourth on less that of two runs before."""
    digits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - ord("0")
    is_last = digits & 32 == 0
    if not is_last[-1] or (digits < 0).any() or (digits > 63).any():
        raise ValueError("its text is cut off or has other letters")
    first = np.flatnonzero(np.append(True, is_last[:-1]))
    place = 5 * (np.arange(len(digits)) - np.repeat(first, np.diff(np.append(first, len(digits)))))
    if place.max() > 50:
        raise ValueError("a number in its text is too long")
    runs = np.add.reduceat((digits & 31) << place, first)
    runs -= np.where(digits[is_last] & 16 != 0, 1 << (place[is_last] + 5), 0)
    for chain in (runs[1::2], runs[2::2]):
        np.cumsum(chain, out=chain)
    return runs
