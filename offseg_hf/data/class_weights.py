"""How often each class occurs in the masks of a data set, and the weights in the loss that make up for it."""

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from offseg_hf.models.image_processing_offseg import IGNORE_INDEX, read_mask

if TYPE_CHECKING:
    import datasets

    from offseg_hf.data.labels import LabelTable


def estimate_class_weights(
    data: "datasets.Dataset | datasets.IterableDataset",
    num_labels: int,
    *,
    label_table: "LabelTable | None" = None,
    max_examples: int | None = None,
    show_progress: bool = True,
) -> list[float]:
    """Weights of the classes by ENet's rule, 1 / ln(1.02 + p) of a class' share p of the labelled pixels.

    They lie between 1.4 and 50.5, which a class that does not occur has (Paszke et al., arXiv 1606.02147).

    Args:
        data (`datasets.Dataset` or `datasets.IterableDataset`): with the column `mask`, undecoded, as
            [`~offseg_hf.data.load_segmentation_dataset`] gives it; read once, from the first example.
        num_labels (`int`): number of classes; a single one gets two weights, of background and its own.
        label_table ([`~offseg_hf.data.labels.LabelTable`], *optional*): what makes class ids of the stored ones.
        max_examples (`int`, *optional*): how many examples to read at most, which an endless stream needs.
        show_progress (`bool`, *optional*, defaults to `True`): whether to show a bar.

    Returns:
        `list[float]`: a weight per class, rounded to four digits, for `class_weights` of a configuration.

    Raises:
        ValueError: where a label is no class, or no pixel is labelled.
    """
    counts: np.ndarray = np.zeros(max(num_labels, 2), np.int64)
    examples = tqdm(islice(data, max_examples), "class weights", max_examples, unit="mask", disable=not show_progress)
    for position, example in enumerate(examples):
        name = f"mask of example {position}"
        ids = read_mask(example["mask"], name=name)
        ids = ids if label_table is None else label_table(ids, name)
        counts += _count(ids[ids != IGNORE_INDEX], len(counts), name)
    if not counts.any():
        raise ValueError("`data` must have labelled pixels, got none; check the mask column, or give the weights.")
    shares = counts / counts.sum()
    return [round(weight, 4) for weight in (1 / np.log(1.02 + shares)).tolist()]


def _count(ids, num_classes, name):
    if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
        raise ValueError(
            f"`{name}` must hold class ids from 0 to {num_classes - 1} or {IGNORE_INDEX}, got {ids.min()} to "
            f"{ids.max()}; correct `num_labels`."
        )
    return np.bincount(ids, minlength=num_classes)
