"""A look at all photos and masks before a preparation: what the split and the preview need to know of them."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from offseg_hf.data.formats.drawing import DrawnMask
from offseg_hf.data.labels import LabelTable
from offseg_hf.data.preparation.near_duplicates import photo_hash
from offseg_hf.data.preparation.shards import end_with_parent
from offseg_hf.data.preparation.statistics import LabelStatistics, class_counts
from offseg_hf.models.image_processing_offseg import open_image, read_mask

CHUNK = 8  # examples that a process looks at in one go


@dataclass
class Survey:
    """What was found in N examples, those that cannot be read left out.

    Args:
        positions (`list[int]`): which examples could be read.
        counts (`list[np.ndarray]`): pixels of each class in each of them, of shape (K,).
        hashes (`list[np.ndarray]`): what each of them looks like, see
            [`~offseg_hf.data.preparation.near_duplicates.photo_hash`].
        statistics ([`~offseg_hf.data.preparation.statistics.LabelStatistics`]): of all of them.
    """

    positions: list[int] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)
    statistics: LabelStatistics = field(default_factory=LabelStatistics)


def class_ids(photo: Path, mask: Path | DrawnMask, table: LabelTable | None) -> np.ndarray:
    """The class ids of a photo, upright, 255 for what is not labelled.

    Args:
        photo (`Path`): its file.
        mask (`Path` or [`~offseg_hf.data.formats.drawing.DrawnMask`]): its mask.
        table ([`~offseg_hf.data.labels.LabelTable`], *optional*): what stored ids mean.

    Returns:
        `np.ndarray`: unsigned integers of shape (height, width).

    Raises:
        OSError, ValueError, TypeError: a file cannot be read, or they do not fit each other.
    """
    opened = open_image(photo, max_value=65535)  # whatever value is white
    ids = read_mask(mask.draw() if isinstance(mask, DrawnMask) else mask, opened, str(mask))
    return ids if table is None else table(ids, str(mask))


def survey(
    examples: Sequence[tuple[Path, Path | DrawnMask]], num_labels: int, table: LabelTable | None, num_proc: int
) -> Survey:
    """Looks at all examples in many processes, with a progress bar.

    Args:
        examples (sequence of `(Path, Path | DrawnMask)`): photos and masks.
        num_labels (`int`): number of classes K.
        table ([`~offseg_hf.data.labels.LabelTable`], *optional*): what stored ids mean.
        num_proc (`int`): number of processes, each of which holds one example at a time.

    Returns:
        [`Survey`]: examples that cannot be read are left out; who writes them says why.
    """
    found = Survey()
    starts = range(0, len(examples), CHUNK)
    with (
        ProcessPoolExecutor(num_proc, initializer=end_with_parent) as executor,
        tqdm(total=len(examples), unit="examples", desc="Looking") as progress,
    ):
        parts = [executor.submit(_look, start, examples[start : start + CHUNK], num_labels, table) for start in starts]
        for part in (future.result() for future in parts):
            found.positions += part.positions
            found.counts += part.counts
            found.hashes += part.hashes
            found.statistics.merge(part.statistics)
            progress.update(CHUNK if progress.n + CHUNK <= len(examples) else len(examples) - progress.n)
    return found


def _look(start, examples, num_labels, table):
    """The survey of a few examples, of which the first has this position."""
    found = Survey()
    for position, (photo, mask) in enumerate(examples, start):
        try:
            ids, looks = class_ids(photo, mask, table), photo_hash(photo)
        except (OSError, ValueError, TypeError):
            continue
        found.positions.append(position)
        found.counts.append(class_counts(ids, num_labels))
        found.hashes.append(looks)
        is_drawn = isinstance(mask, DrawnMask)
        found.statistics.add(
            ids,
            photo.name,
            num_objects=mask.num_objects() if is_drawn else None,
            num_hidden=mask.num_hidden() if is_drawn else None,
        )
    return found
