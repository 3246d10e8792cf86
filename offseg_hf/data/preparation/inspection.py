"""What a person should see and decide before a training: the preview, and which photos are for validation."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from offseg_hf.data.formats.drawing import DrawnMask
from offseg_hf.data.labels import LabelTable
from offseg_hf.data.preparation.held_out import groups_of_names, hold_out
from offseg_hf.data.preparation.near_duplicates import groups_between, joined_groups, near_duplicate_groups
from offseg_hf.data.preparation.preview import PreviewExample, choose_examples, preview_picture
from offseg_hf.data.preparation.survey import Survey, class_ids, survey
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX
from offseg_hf.pictures.saving import save_picture

Pairs = dict[str, list[tuple[Path, Path | DrawnMask]]]  # split → its photos and masks
PREVIEW = "preview.jpg"
NUMBERS = {class_id: f"id {class_id}" for class_id in range(IGNORE_INDEX)}  # what ids without names are called


class Inspection:
    """All examples, looked at once.

    Args:
        pairs (`dict[str, list]`): split → photos and masks.
        id2label (`dict[int, str]`, *optional*): names of the classes, all K of them; by default the ids that occur, up
            to 254, go by their numbers.
        table ([`~offseg_hf.data.labels.LabelTable`], *optional*): what stored ids mean.
        num_proc (`int`): number of processes.
    """

    def __init__(self, pairs: Pairs, id2label: dict[int, str] | None, table: LabelTable | None, num_proc: int):
        self.id2label = NUMBERS if id2label is None else id2label
        if len(self.id2label) == 1:  # a single class is 1, and 0 is the background
            self.id2label = {0: "background", 1: self.id2label[0]}
        self.table = table
        self.notes: list[str] = []
        examples = [(split, *pair) for split in pairs for pair in pairs[split]]
        found: Survey = survey([example[1:] for example in examples], len(self.id2label), table, num_proc)
        self.examples = [examples[position] for position in found.positions]
        self.statistics = found.statistics
        self._unread = [examples[position] for position in sorted({*range(len(examples))} - {*found.positions})]
        if not found.positions:  # who writes them says why
            return
        self.counts = np.stack(found.counts)
        if id2label is None:
            num_labels = int(np.flatnonzero(self.counts.any(0)).max(initial=0)) + 1
            self.counts, self.id2label = self.counts[:, :num_labels], {i: NUMBERS[i] for i in range(num_labels)}
        self.groups = near_duplicate_groups(np.stack(found.hashes))

    def hold_out(self, fraction: float, group_by: str | None, seed: int) -> Pairs:
        """Sets photos aside for validation, see [`~offseg_hf.data.preparation.held_out.hold_out`].

        Args:
            fraction (`float`): share of the photos, between 0 and 1.
            group_by (`str`, *optional*): regular expression; photos whose names agree in what it finds stay together.
            seed (`int`): of the choice.

        Returns:
            `dict[str, list]`: `train` and `validation`; examples that cannot be read are in `train`.

        Raises:
            ValueError: there are too few photos or groups, the expression does not fit, or nothing can be read.
        """
        self._check_any()
        names, groups = _names([photo for _, photo, _ in self.examples]), self.groups
        if group_by is not None:
            groups = joined_groups(groups, groups_of_names(names, group_by))
        held, notes = hold_out(names, self.counts, groups, fraction, seed=seed, id2label=self.id2label)
        self.notes += notes
        splits = np.where(held, "validation", "train").tolist()
        self.examples = [(split, *example[1:]) for split, example in zip(splits, self.examples)]
        pairs: Pairs = {"train": [], "validation": []}
        for split, photo, mask in (*self.examples, *(("train", *example[1:]) for example in self._unread)):
            pairs[split].append((photo, mask))
        return pairs

    def write_preview(self, path: Path, title: str, seed: int, notes: Sequence[str] = ()) -> None:
        """Draws the preview, see [`~offseg_hf.data.preparation.preview.preview_picture`].

        Args:
            path (`Path`): JPEG file to write.
            title (`str`): name of the data set.
            seed (`int`): of the choice of photos.
            notes (sequence of `str`): sentences for the person.

        Raises:
            ValueError: nothing can be read.
        """
        self._check_any()
        splits = [split for split, *_ in self.examples]
        names = [""] * len(splits)
        for split in dict.fromkeys(splits):
            members = [position for position, each in enumerate(splits) if each == split]
            for position, name in zip(members, _names([self.examples[position][1] for position in members])):
                names[position] = f"{split} · {name}"
        shown = []
        for position in choose_examples(self.counts, seed=seed):
            _, photo, mask = self.examples[position]
            shown.append(PreviewExample(names[position], photo, partial(class_ids, photo, mask, self.table)))
        between = groups_between(self.groups, splits)
        picture = preview_picture(
            shown,
            self.statistics,
            self.id2label,
            title=title,
            num_photos={split: splits.count(split) for split in dict.fromkeys(splits)},
            near_duplicates=[[names[position] for position in group] for group in between],
            notes=[*notes, *self.notes],
        )
        save_picture(picture, path, quality=90)

    def _check_any(self):
        if not self.examples:
            raise ValueError(
                f"`dataset` must have photos and masks that can be read, and {self._unread[0][1]} and all others "
                "cannot; prepare without `--validation_fraction` and `--only_preview`, which says why."
            )

    def record(self) -> dict[str, Any]:
        """`dict`: what was counted, for `preparation.json`."""
        return self.statistics.record(self.id2label)


def _names(photos):
    """The photos' names below the folder that they share."""
    parent = os.path.commonpath([photo.parent for photo in photos])
    return [photo.relative_to(parent).with_suffix("").as_posix() for photo in photos]
