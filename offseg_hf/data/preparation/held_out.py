"""Which photos are held out for validation, where a data set comes without a split."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

NUM_SHOWN = 5  # of the classes that a note names


def groups_of_names(names: Sequence[str], pattern: str) -> np.ndarray:
    """Groups of photos whose names agree in what a regular expression finds.

    Args:
        names (sequence of `str`): names of N photos.
        pattern (`str`): what is searched in each; its first group tells the photo's group, the whole match where the
            expression has none or found none.

    Returns:
        `np.ndarray`: the group of each photo, integers from 0 of shape (N,).

    Raises:
        ValueError: the expression is none, or is not found in a name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"`group_by` must be a regular expression, got {pattern!r} ({error}); correct it, or put `\\` before a "
            "character that stands for itself."
        ) from error
    number_of: dict[str, int] = {}
    groups = []
    for name in names:
        match = expression.search(name)
        if match is None:
            raise ValueError(
                f"`group_by` must be found in the name of every photo, but {pattern!r} is not in {name}; let it also "
                "match such a name, for instance by `|.*` at its end, a group for each such name."
            )
        key = match[1] if expression.groups and match[1] is not None else match[0]
        groups.append(number_of.setdefault(key, len(number_of)))
    return np.array(groups, np.int64)


def hold_out(
    names: Sequence[str],
    counts: np.ndarray,
    groups: np.ndarray,
    fraction: float,
    *,
    seed: int = 0,
    id2label: dict[int, str] | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Chooses photos for validation, so that both parts have every class that they can, in like shares.

    Groups stay whole. Classes are taken one after another, the one in the fewest groups first. Its groups that are
    not placed yet are taken in random order: each goes to validation where this brings the number of photos with the
    class closer to `fraction` of all of them, else to train. If validation then still lacks the class, it gets the
    smallest group that has it. No group goes to validation that is the last one of train with any of its classes. At
    the end the same is done with photos of any kind. This is iterative stratification (Sechidis et al., "On the
    stratification of multi-label data", 2011) for groups.

    The choice is the same for the same photos and seed, whatever their order.

    Args:
        names (sequence of `str`): names of N photos, all different.
        counts (array-like): number of pixels of each class in each photo, of shape (N, K); photos count that have any.
        groups (array-like): the group of each photo, integers of shape (N,), see [`groups_of_names`] and
            [`~offseg_hf.data.preparation.near_duplicates.near_duplicate_groups`].
        fraction (`float`): share of the photos to hold out, between 0 and 1.
        seed (`int`): another one chooses others.
        id2label (`dict[int, str]`, *optional*): names of the classes in the notes.

    Returns:
        `tuple[np.ndarray, list[str]]`: whether each photo is held out, booleans of shape (N,); and notes for the
        person, a sentence each: which classes are in one part alone, and where the share is another one.

    Raises:
        ValueError: `fraction` is not between 0 and 1, leaves one part without photos, or all photos are one group.
    """
    num_photos = len(names)
    _check_fraction(fraction, num_photos)
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    num_groups = int(group_of.max()) + 1
    if num_groups == 1:
        raise ValueError(
            f"`validation_fraction` must leave photos in both parts, but all {num_photos} photos are one group of "
            "near-duplicates, or of `--group_by`; add photos of something else, or bring a split of your own."
        )
    has_class = np.asarray(counts) > 0
    has_class = np.column_stack([has_class, np.ones(num_photos, bool)])  # the last one: photos of any kind
    photos = np.zeros((num_groups, has_class.shape[1]), np.int64)  # with each class in each group
    np.add.at(photos, group_of, has_class)
    order = _random_order(names, group_of, seed)

    is_in = photos > 0  # (G, K + 1)
    wanted = fraction * photos.sum(0)
    held: np.ndarray = np.zeros(num_groups, bool)
    is_placed: np.ndarray = np.zeros(num_groups, bool)
    num_held = np.zeros(photos.shape[1], np.int64)  # photos of validation with each class
    num_left = is_in.sum(0)  # groups of train with each class

    def can_go(group):
        return not held[group] and (num_left[is_in[group]] > 1).all()

    def move(group):
        nonlocal num_held, num_left
        held[group] = True
        num_held += photos[group]
        num_left -= is_in[group]

    for index in np.argsort(num_left, kind="stable"):
        members = order[is_in[order, index]]
        for group in members[~is_placed[members]]:
            if photos[group, index] < 2 * (wanted[index] - num_held[index]) and can_go(group):
                move(group)
        is_placed[members] = True
        if not num_held[index]:
            free = [group for group in members if can_go(group)]
            if free:
                move(min(free, key=lambda group: photos[group, -1]))
    if not held.any():
        raise ValueError(
            f"`validation_fraction` must leave photos in both parts, but each of the {num_groups} groups of photos "
            "has a class that no other one has; label more photos, or bring a split of your own."
        )
    return held[group_of], _notes(is_in[:, :-1], held, num_held[-1], wanted[-1], num_photos, id2label or {})


def _check_fraction(fraction, num_photos):
    if not 0 < fraction < 1:
        raise ValueError(
            f"`validation_fraction` must lie between 0 and 1, got {fraction}; pass 0.1 for a tenth of the photos."
        )
    if num_photos < 2:
        raise ValueError(
            f"`validation_fraction` must leave photos in both parts, and there are {num_photos}; label more photos."
        )
    if round(fraction * num_photos) in (0, num_photos):
        raise ValueError(
            f"`validation_fraction` must leave photos in both parts, but {fraction} of {num_photos} photos is "
            f"{round(fraction * num_photos)}; label more photos, or pass {max(1, num_photos // 10) / num_photos:.2g}."
        )


def _random_order(names, group_of, seed):
    """All groups in an order that the names and the seed alone decide."""
    keys = [""] * (int(group_of.max()) + 1)
    for name, group in zip(names, group_of.tolist()):
        key = hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()
        keys[group] = max(keys[group], key)
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


def _notes(is_in, held, num_held, wanted, num_photos, id2label):
    """What the person should know of the two parts."""
    num_groups, num_held_groups = is_in.sum(0), is_in[held].sum(0)
    notes = []
    for reason, is_concerned in (
        ("in one group of photos only", num_groups == 1),
        ("in photos only that train cannot spare", num_groups > 1),
    ):
        classes = np.flatnonzero(is_concerned & (num_held_groups == 0)).tolist()
        if classes:
            shown = ", ".join(id2label.get(class_id, str(class_id)) for class_id in classes[:NUM_SHOWN])
            more = f" and {len(classes) - NUM_SHOWN} more classes" if len(classes) > NUM_SHOWN else ""
            verb = ("is", "stays") if len(classes) == 1 else ("are", "stay")
            notes.append(f"{shown}{more} {verb[0]} {reason}, and {verb[1]} in train.")
    if abs(num_held - wanted) > max(1, 0.2 * wanted):
        notes.append(
            f"validation has {num_held:,} of {num_photos:,} photos, not {wanted:.0f}, since groups stay whole and "
            "every class shall be in both parts."
        )
    return notes
