"""A look at the first label maps, before they cost a training: do their ids fit the classes?"""

import numpy as np

from offseg_hf.data.presets import DatasetPreset, LabelEncoding
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX

MAX_EXAMPLES = 200  # to read while it is not clear what their ids mean


def audit_labels(masks, num_labels, ignore_index=IGNORE_INDEX, reduce_labels=False):
    """Check that the ids of some label maps are class ids, and say what to do if they are not.

    Only what cannot be right is an error: whether an id stands for the class one thinks of cannot be known here.

    Args:
        masks (iterable of `np.ndarray` or `torch.Tensor`): integer label maps of any shape, as stored, that is before
            labels are reduced; a few dozen tell most.
        num_labels (`int`): number of classes K; ids must be 0 … K−1, or 0 and 1 for the binary K = 1.
        ignore_index (`int`): id of unlabelled pixels.
        reduce_labels (`bool`): whether label 0 means unlabelled and the classes start at 1.

    Raises:
        ValueError: an id is negative or too large, masks are black and white (0 and 255), ids are shifted by one, or
            every pixel is ignored.
    """
    ids = {int(value) for mask in masks for value in np.unique(np.asarray(mask))}
    if not ids:
        raise ValueError("`masks` must hold at least one label map, got none.")
    shown = ", ".join(map(str, sorted(ids)[:10])) + (", …" if len(ids) > 10 else "")
    classes = ids - {ignore_index} - ({0} if reduce_labels else set())
    largest = max(num_labels, 2) - 1 + reduce_labels  # as stored

    if min(ids - {ignore_index}, default=0) < 0:
        raise ValueError(
            f"`masks` must not hold negative ids, got {shown}; write {ignore_index} where a pixel is unlabelled."
        )
    if num_labels <= 2 and max(ids) == 255 and not classes - {0, 255}:
        raise ValueError(
            f"`masks` must hold the class ids 0 and 1, got only {shown}; {ignore_index} means unlabelled here, so if "
            "it marks the foreground, write 1 in its place (divide the masks by 255) and leave labels unreduced."
        )
    if not classes:
        remedy = "pass no --do_reduce_labels if 0 is a class" if 0 in ids else "check the mask column"
        raise ValueError(f"`masks` must have labelled pixels, got only {shown}, all of them ignored; {remedy}.")
    if max(classes) == largest + 1 and not reduce_labels:
        if 0 not in ids:
            remedy = "0 never occurs, so the classes seem to start at 1: pass --do_reduce_labels"
        else:
            remedy = (
                f"pass --do_reduce_labels if 0 means unlabelled, or `num_labels` {largest + 2} if 0 is a class too"
            )
        raise ValueError(f"`masks` must hold ids up to {largest} for {num_labels} classes, got {shown}; {remedy}.")
    if max(classes) > largest:
        reduced = ", before label 0 is dropped," if reduce_labels else ""
        raise ValueError(
            f"`masks` must hold ids up to {largest}{reduced} for {num_labels} classes, got {shown}; set `num_labels` "
            f"to the true number of classes, or renumber the ids and write {ignore_index} where a pixel is unlabelled."
        )


def find_label_encoding(examples, preset: DatasetPreset, num_examples: int = 16) -> LabelEncoding:
    """What the ids of some label maps mean, of what the files of a data set may store.

    Args:
        examples (iterable of `tuple[np.ndarray, str]`): the ids that occur in a label map as stored, and the path of
            its file, empty where there is none.
        preset ([`~offseg_hf.data.presets.DatasetPreset`]): the data set.
        num_examples (`int`, *optional*, defaults to 16): how many to look at, more where these do not tell.

    Returns:
        [`~offseg_hf.data.presets.LabelEncoding`]

    Raises:
        ValueError: the ids fit none of the encodings, or several.
    """
    seen, paths = set(), []
    for ids, path in examples:
        seen |= set(ids.tolist())
        paths.append(path)
        fitting = _fitting_encodings(seen, preset.encodings)
        if (len(paths) >= num_examples and len(fitting) < 2) or len(paths) == MAX_EXAMPLES:
            break
    if not paths:
        raise ValueError("`masks` must hold at least one label map, got none.")
    shown = ", ".join(map(str, sorted(seen)[:20])) + (", …" if len(seen) > 20 else "")
    if not fitting:
        reduced = preset.reduce_labels and IGNORE_INDEX in seen
        hint = f"{IGNORE_INDEX} is not among them, so labels seem to be reduced already: " if reduced else ""
        raise ValueError(
            f"`masks` must hold the ids of {preset.title}, {' or '.join(map(str, preset.encodings))}, got {shown}; "
            f"{hint}take the original files, or say what stored ids mean with `--label_table FILE`."
        )
    if len(fitting) > 1:
        fitting = [
            encoding
            for encoding in fitting
            if encoding.file_ending and all(path.endswith(encoding.file_ending) for path in paths)
        ]
    if len(fitting) != 1:
        raise ValueError(
            f"`masks` must show which ids of {preset.title} they hold, {' or '.join(map(str, preset.encodings))}, but "
            f"{shown}, all in the first {len(paths)}, fit both; say what stored ids mean with `--label_table FILE`."
        )
    return fitting[0]


def _fitting_encodings(ids, encodings):
    """The encodings that have all these ids; where none has, those that tolerate the others."""
    return [encoding for encoding in encodings if ids <= encoding.class_ids.keys()] or [
        encoding for encoding in encodings if ids <= encoding.class_ids.keys() | encoding.tolerated.keys()
    ]
