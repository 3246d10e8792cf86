"""A folder or file that a labelling tool wrote → photos and label maps by split, as `datasets` has them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from offseg_hf.data.formats.classes import Classes, match_classes, read_name_table
from offseg_hf.data.formats.colours import read_with_colours
from offseg_hf.data.formats.drawing import DrawnMask
from offseg_hf.data.formats.records import Labels
from offseg_hf.data.formats.table import FORMATS
from offseg_hf.data.labels import read_colour_table
from offseg_hf.data.naming import canonical_split, choose_split

FEATURES = datasets.Features(image=datasets.Image(decode=False), mask=datasets.Image(decode=False))
MAX_SHARDS = 64  # of a stream: enough to shuffle and to feed many workers


@dataclass(frozen=True, eq=False)
class LabelledDataset:
    """Photos labelled in a tool, with the classes to learn: see [`open_labelled_dataset`].

    Args:
        place (`Path`): the folder or file that it was read from.
        format (`str`): a key of [`~offseg_hf.data.formats.table.FORMATS`].
        labels ([`~offseg_hf.data.formats.records.Labels`]): what the files say.
        classes ([`~offseg_hf.data.formats.classes.Classes`]): the classes, and what the tool's names mean.
    """

    place: Path
    format: str
    labels: Labels
    classes: Classes

    def __str__(self) -> str:
        return str(self.place.resolve())

    @property
    def id2label(self) -> dict[int, str]:
        """`dict[int, str]`: names of the classes by id."""
        return self.classes.id2label

    @property
    def splits(self) -> list[str]:
        """`list[str]`: names of the splits, sorted."""
        return sorted({labelled.split for labelled in self.labels.photos})

    def masks(self, split: str) -> list[DrawnMask]:
        """The label maps of a split, with their photos, not drawn yet.

        Args:
            split (`str`): its name, in any of the usual spellings.

        Returns:
            `list[DrawnMask]`

        Raises:
            ValueError: there is no such split.
        """
        if canonical_split(split) == "validation" and split not in self.splits and self.splits == ["train"]:
            raise ValueError(
                f"`split` must be one that the labels have, and {self.place} has no {split}, only train; set photos "
                "aside by `offseg prepare --validation_fraction 0.1`, or train without a measurement by "
                "`--eval_split none`."
            )
        chosen = choose_split({name: name for name in self.splits}, split, self.place)
        classes = self.classes
        return [
            DrawnMask(labelled, classes.class_ids, classes.unlabelled_id)
            for labelled in self.labels.photos
            if labelled.split == chosen
        ]

    def load(self, split: str, streaming: bool = False) -> datasets.Dataset | datasets.IterableDataset:
        """A split as two columns of files, `image` and `mask`, like [`~offseg_hf.data.load_segmentation_dataset`].

        Args:
            split (`str`): its name.
            streaming (`bool`): whether label maps are drawn while iterating; by default all are drawn first, with a
                progress bar, and kept in the cache of `datasets`.

        Returns:
            `datasets.Dataset` or `datasets.IterableDataset`
        """
        return drawn_dataset(self.masks(split), streaming)

    def description(self) -> str:
        """`str`: one line for the person: what was found, and what it was understood as."""
        numbers = ", ".join(
            f"{sum(labelled.split == split for labelled in self.labels.photos):,} of {split}" for split in self.splits
        )
        ignored = [name for name, class_id in self.classes.class_ids.items() if class_id not in self.id2label]
        background = self.id2label.get(self.classes.unlabelled_id)
        rest = f"what is not labelled is {background}" if background else "what is not labelled is ignored"
        return "; ".join(
            [
                f"{self.place}: {FORMATS[self.format].title}, {numbers} photos",
                "classes "
                + ", ".join(f"{class_id} {name}" for class_id, name in list(self.id2label.items())[:20])
                + (", …" if len(self.id2label) > 20 else ""),
                rest + (f", so is {', '.join(ignored)}" if ignored else ""),
                *self.labels.notes,
            ]
        )


def open_labelled_dataset(
    dataset: str | Path | Sequence[str],
    *,
    format: str | None = None,
    names: Sequence[str] | None = None,
    background: str | None = None,
    label_table: str | Path | None = None,
) -> LabelledDataset | None:
    """What a labelling tool wrote: all labels are read and checked, no photo is decoded.

    Args:
        dataset (`str` or `list[str]`): one folder or file.
        format (`str`, *optional*): a key of [`~offseg_hf.data.formats.table.FORMATS`]; by default it is found from
            what lies there.
        names (sequence of `str`, *optional*): names of the classes in the order of their ids; by default the tool's.
        background (`str`, *optional*): name of the class of pixels without a label; by default they are ignored.
        label_table (`str` or `Path`, *optional*): JSON file of a name in the tool's files, or of a colour of masks
            (`"#4682b4"` or `"70,130,180"`) → the class that it means, or `null` for what shall be ignored.

    Returns:
        [`LabelledDataset`], or `None` where no tool's format lies there, so that masks of ids are read.

    Raises:
        FileNotFoundError, ValueError: the files are damaged, a photo is missing, or names do not agree.
    """
    sources = [dataset] if isinstance(dataset, (str, Path)) else list(dataset)
    place = Path(sources[0]).expanduser()
    if format is not None and format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}; correct it.")
    if len(sources) != 1 or not place.exists():
        if format is not None:
            raise FileNotFoundError(
                f"`dataset` must be one folder or file with `format` {format}, and {' '.join(map(str, sources))} is "
                "none; correct the path."
            )
        return None
    colours = None if label_table is None else read_colour_table(str(label_table), dict(enumerate(names or ())))
    if colours is not None:
        labels = read_with_colours(place, colours)
        return LabelledDataset(place, "masks", labels, match_classes(labels, names, background))
    if format is None:
        format = next((name for name, known in FORMATS.items() if known.find(place)), None)
        if format is None:
            return None
    table = None if label_table is None else read_name_table(label_table)
    labels = FORMATS[format].read(place)
    if not labels.photos:
        raise ValueError(f"`dataset` must have labelled photos, and {place} ({FORMATS[format].title}) has none.")
    return LabelledDataset(place, format, labels, match_classes(labels, names, background, table))


def drawn_dataset(masks: Sequence[DrawnMask], streaming: bool = False) -> datasets.Dataset | datasets.IterableDataset:
    """Photos and their label maps as two columns of files; see [`LabelledDataset.load`]."""
    if not streaming:
        # One shard: what is cached does not depend on the number of processes, but on what is drawn.
        digest = hashlib.sha256("".join(mask.digest() for mask in masks).encode()).hexdigest()
        kwargs = {"masks": [list(masks)], "digest": digest}
        return datasets.Dataset.from_generator(_draw, FEATURES, gen_kwargs=kwargs, split="train")
    count = min(len(masks), MAX_SHARDS)
    shards = [list(masks[len(masks) * i // count : len(masks) * (i + 1) // count]) for i in range(count)]
    return datasets.IterableDataset.from_generator(_draw, FEATURES, gen_kwargs={"masks": shards})


def _draw(masks: list[list[DrawnMask]], digest: str = "") -> Iterator[dict[str, Any]]:
    """Rows of undecoded files; the digest is for the cache alone."""
    for mask in (mask for shard in masks for mask in shard):
        yield {
            "image": {"bytes": None, "path": str(mask.labelled.photo)},
            "mask": {"bytes": mask.read_bytes(), "path": str(mask)},
        }
