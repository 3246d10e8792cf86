"""Tables beside masks that are stored as pictures: which id or colour is which class."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from offseg_hf.data.formats.classes import is_unlabelled
from offseg_hf.data.formats.damage import naming, read_json, read_text
from offseg_hf.data.formats.records import LabelledPhoto, Labels, Pixels
from offseg_hf.data.formats.refusals import refuse_mask
from offseg_hf.data.layouts import IMAGE_SUFFIXES
from offseg_hf.data.naming import SPLIT_SPELLINGS, canonical_split
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX, open_image

Colour = tuple[int, int, int]
BLACK: Colour = (0, 0, 0)
VOID = "void"  # the name of 255 where a table has no other


@dataclass(frozen=True)
class MaskTable:
    """What the pixels of masks mean.

    Args:
        by_id (`dict[int, str]`): stored id → name of the class.
        by_colour (`dict[tuple, str]`): (red, green, blue) → name of the class; empty where masks hold ids only.
        has_own_colours (`bool`): whether the table itself says the colours; if not, they are VOC's.
    """

    by_id: dict[int, str]
    by_colour: dict[Colour, str]
    has_own_colours: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """`tuple[str]`: names of the classes, in the order of the table."""
        return tuple(dict.fromkeys([*self.by_colour.values(), *self.by_id.values()]))

    def pixels(self, mask: Path) -> Pixels:
        """A mask by this table: by its colours where the file is in colour, else by its ids.

        Args:
            mask (`Path`): its file, of which only the header is read.

        Returns:
            [`~offseg_hf.data.formats.records.Pixels`]

        Raises:
            ValueError: the file cannot be a mask.
        """
        refuse_mask(str(mask))
        mode = open_image(mask, max_value=65535).mode
        is_grey = self.has_own_colours and all(len(set(colour)) == 1 for colour in self.by_colour)
        has_colours = mode in ("RGB", "RGBA", "CMYK") or (mode == "P" and self.has_own_colours) or is_grey
        return Pixels(mask, dict(self.by_colour if self.by_colour and (has_colours or not self.by_id) else self.by_id))


def make_table(entries: Sequence[tuple[str, Colour | None]], file: Path, background_first: bool = False) -> MaskTable:
    """The table of a file that lists names, all with a colour or none.

    Args:
        entries (sequence of `tuple[str, tuple | None]`): name and colour of each line.
        file (`Path`): what errors call it.
        background_first (`bool`, *optional*, defaults to `False`): whether the id 0, and black, are the background
            wherever the file lists it, or although it does not, as Datumaro has it in `label_colors.txt`; if not, ids
            are the numbers of the lines from 0.

    Returns:
        [`MaskTable`]: without colours in the file, with those of VOC.

    Raises:
        ValueError: there is no name, or two of them have one colour.
    """
    if not entries:
        raise ValueError(f"`{file}` must list the classes, one a line, and lists none; export the masks again.")
    if not all(isinstance(name, str) and name for name, _ in entries):
        raise ValueError(f"`{file}` must have a name for each class, but one has none; write it there.")
    has_own_colours = any(colour is not None for _, colour in entries)
    if background_first:
        fitting = [entry for entry in entries if entry[1] == BLACK] + [e for e in entries if e[0] == "background"]
        background = fitting[0] if fitting else ("background", BLACK if has_own_colours else None)
        entries = [background, *(entry for entry in entries if entry != background)]
    by_id = dict(enumerate(name for name, _ in entries))
    if not has_own_colours:
        entries = [(name, voc_colour(class_id)) for class_id, name in by_id.items()]
    by_colour: dict[Colour, str] = {}
    for name, colour in entries:
        if colour is not None and by_colour.setdefault(colour, name) != name:
            raise ValueError(
                f"`{file}` must have a colour for each class, but {by_colour[colour]} and {name} share "
                f"{','.join(map(str, colour))}, so that masks do not tell them apart; give each its own and export "
                "the masks again."
            )
    return MaskTable(by_id | ({} if IGNORE_INDEX in by_id else {IGNORE_INDEX: VOID}), by_colour, has_own_colours)


def voc_colour(class_id: int) -> Colour:
    """The colour of an id in Pascal VOC's colour map.

    Args:
        class_id (`int`): from 0 to 255.

    Returns:
        `tuple[int, int, int]`: the id's bits, dealt out to red, green and blue, the highest bits first (VOC's
        development kit, `VOClabelcolormap.m`).
    """
    red, green, blue = (
        sum((class_id >> (3 * place + channel) & 1) << (7 - place) for place in range(8)) for channel in range(3)
    )
    return red, green, blue


# The files


def read_labelmap(file: Path) -> MaskTable:
    """The table of VOC's `labelmap.txt`: lines of `name:red,green,blue:parts:actions`, of which the last two may lack.

    Args:
        file (`Path`): the file.

    Returns:
        [`MaskTable`]

    Raises:
        ValueError: a colour is none, or the table cannot be right, see [`make_table`].
    """
    entries = []
    for line in _lines(file):
        name, _, rest = line.partition(":")
        entries.append((name.strip(), _colour(rest.partition(":")[0].split(","), line, file)))
    return make_table(entries, file)


def read_label_colors(file: Path, background_first: bool = True) -> MaskTable:
    """The table of `label_colors.txt`, CamVid's and others': lines of `red green blue name`, or of names alone.

    Args:
        file (`Path`): the file.
        background_first (`bool`, *optional*, defaults to `True`): see [`make_table`].

    Returns:
        [`MaskTable`]

    Raises:
        ValueError: the table cannot be right, see [`make_table`].
    """
    entries: list[tuple[str, Colour | None]] = []
    for line in _lines(file):
        found = re.fullmatch(r"(\d+)\s+(\d+)\s+(\d+)\s+(.+)", line)
        entries.append((found[4], _colour(found.groups()[:3], line, file)) if found else (line, None))
    return make_table(entries, file, background_first)


def read_names(file: Path) -> MaskTable:
    """The table of a file with a name per line, whose ids are the numbers of the lines from 0: labelme's, fast.ai's.

    Args:
        file (`Path`): the file; a first name `__ignore__` belongs to −1, which is 255 in a file of 8 bits.

    Returns:
        [`MaskTable`]

    Raises:
        ValueError: there is no name.
    """
    names = _lines(file, comment=None)
    table = make_table([(name, None) for name in names if name != "__ignore__"], file)
    return replace(table, by_id=table.by_id | {IGNORE_INDEX: "__ignore__"}) if "__ignore__" in names[:1] else table


def read_class_dict(file: Path) -> MaskTable:
    """The table of a `class_dict.csv`: columns `name`, `r`, `g` and `b`.

    Args:
        file (`Path`): the file.

    Returns:
        [`MaskTable`]

    Raises:
        ValueError: a column lacks, or the table cannot be right, see [`make_table`].
    """
    rows = csv_rows(file, ("name", "r", "g", "b"))
    return make_table([(row["name"], _colour([row[key] for key in "rgb"], str(row), file)) for row in rows], file)


def read_dataset_meta(file: Path, background_first: bool = False) -> MaskTable:
    """The table of Datumaro's `dataset_meta.json`: `label_map` of id → name, and `segmentation_colors` by id.

    Args:
        file (`Path`): the file; where it has no `label_map`, `labels` is the list of names.
        background_first (`bool`, *optional*, defaults to `False`): see [`make_table`].

    Returns:
        [`MaskTable`]

    Raises:
        ValueError: the table cannot be right, see [`make_table`].
    """
    meta = read_json(file)
    with naming(file):
        names = meta.get("label_map") or dict(enumerate(meta.get("labels", [])))
        names = [name for _, name in sorted(names.items(), key=lambda entry: int(entry[0]))]
        colours = meta.get("segmentation_colors") or [""] * len(names)
        colours = [_colour(colour or [""], str(meta), file) for colour in colours]
        entries = list(zip(names, colours, strict=True))
    return make_table(entries, file, background_first)


def datumaro_table(place: Path) -> Path:
    """Where Datumaro writes the table of CamVid, Cityscapes and KITTI masks.

    Args:
        place (`Path`): the folder.

    Returns:
        `Path`: `dataset_meta.json` where it is there alone, else `label_colors.txt`, which may not be there.
    """
    file, meta = place / "label_colors.txt", place / "dataset_meta.json"
    return meta if meta.is_file() and not file.is_file() else file


def read_datumaro_table(file: Path, background_first: bool = True) -> MaskTable:
    """What the file says that [`datumaro_table`] finds.

    Args:
        file (`Path`): the file.
        background_first (`bool`, *optional*, defaults to `True`): see [`make_table`].

    Returns:
        [`MaskTable`]

    Raises:
        ValueError: the table cannot be right, see [`make_table`].
    """
    return (read_label_colors if file.suffix == ".txt" else read_dataset_meta)(file, background_first)


def csv_rows(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Args:
        file (`Path`): the file, with or without a byte order mark, whose cells may have blanks around them.
        columns (sequence of `str`): names of the columns that it must have.

    Returns:
        `list[dict[str, str]]`: column → cell, for each row.

    Raises:
        ValueError: a column lacks, or a cell of one.
    """
    lines = list(csv.reader(read_text(file).splitlines(), skipinitialspace=True))
    header = [cell.strip() for cell in lines[0]] if lines else []
    if missing := [column for column in columns if column not in header]:
        raise ValueError(
            f"`{file}` must have the columns {', '.join(columns)}, but {', '.join(missing)} is missing (it has "
            f"{', '.join(header)}); correct its first line."
        )
    rows = [dict(zip(header, (cell.strip() for cell in line))) for line in lines[1:] if any(map(str.strip, line))]
    for row in rows:
        if not all(row.get(column) for column in columns):
            raise ValueError(
                f"`{file}` must have {', '.join(columns)} in each line, got {','.join(row.values())!r}; correct it."
            )
    return rows


def _lines(file, comment="#"):
    lines = (line.strip() for line in read_text(file).splitlines())
    return [line for line in lines if line and not (comment and line.startswith(comment))]


def _colour(parts, line, file):
    """Three numbers from 0 to 255, or `None` where there is nothing."""
    parts = [str(part).strip() for part in parts]
    if parts == [""]:
        return None
    if len(parts) != 3 or not all(part.isdecimal() and int(part) <= 255 for part in parts):
        raise ValueError(f"`{file}` must have colours of three numbers from 0 to 255, got {line[:80]!r}; correct it.")
    return tuple(int(part) for part in parts)


# Photos and masks


def split_of(name: str) -> str:
    """The split that a subset's name means: `train` for all that is none of a split's spellings."""
    return canonical_split(name) if canonical_split(name) in SPLIT_SPELLINGS else "train"


class PhotosByStem:
    """The photos below a folder, found by names without their suffix.

    Args:
        folder (`Path`): where they are, in whatever sub-folders.
        skip (sequence of `Path`): folders that hold masks.
    """

    def __init__(self, folder: Path, skip: Sequence[Path] = ()):
        self.folder = folder
        self._by_stem: dict[str, list[Path]] = {}
        for file in sorted(folder.rglob("*")):
            is_photo = file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
            if is_photo and not any(file.is_relative_to(part) for part in skip):
                self._by_stem.setdefault(file.stem, []).append(file)

    def find(self, name: str, source: str) -> Path:
        """The photo of a name.

        Args:
            name (`str`): its path below some folder, without suffix.
            source (`str`): what errors call that which names it.

        Returns:
            `Path`: the file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: there are several.
        """
        wanted = PurePosixPath(name)
        files = self._by_stem.get(wanted.name, [])
        same = [file for file in files if file.with_suffix("").parts[-len(wanted.parts) :] == wanted.parts]
        files = same or files
        if not files:
            raise FileNotFoundError(
                f"`{source}` must have its photo, and there is no {wanted.name}.jpg or .png below {self.folder}; put "
                "the photos into this folder."
            )
        if len(files) > 1:
            raise ValueError(
                f"`{source}` must have one photo, but it may be {files[0]} or {files[1]}; move one of them elsewhere."
            )
        return files[0]


def labels_of_masks(
    masks: Iterable[tuple[Path, Path | None, str]], table: MaskTable, place: Path, notes: tuple[str, ...] = ()
) -> Labels:
    """What masks say by one table.

    Args:
        masks (iterable of `tuple[Path, Path | None, str]`): photo, its mask or `None` where nothing is labelled, and
            split.
        table ([`MaskTable`]): what they store.
        place (`Path`): the folder below which errors name files.
        notes (`tuple[str]`, *optional*): what the person should know.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]

    Raises:
        FileNotFoundError: there is no photo.
        ValueError: a file cannot be a mask.
    """
    photos = tuple(labelled_photo(photo, mask, split, table, place) for photo, mask, split in sorted(masks, key=str))
    if not photos:
        raise FileNotFoundError(
            f"`dataset` must have masks that belong to photos, and {place} has none; put both into this folder."
        )
    labels = Labels(table.names, photos, notes=notes)
    black = table.by_colour.get(BLACK)
    if black and table.has_own_colours and not is_unlabelled(labels, black):
        note = (
            f"Black means {black} in these masks, and tools paint it where nothing is labelled too; say null for it "
            "in `--label_table FILE` if it shall be ignored."
        )
        labels = replace(labels, notes=(*notes, note))
    return labels


def labelled_photo(photo: Path, mask: Path | None, split: str, table: MaskTable, place: Path) -> LabelledPhoto:
    """A photo with its mask by a table.

    Args:
        photo, mask, split, table, place: see [`labels_of_masks`].

    Returns:
        [`~offseg_hf.data.formats.records.LabelledPhoto`]

    Raises:
        ValueError: the file cannot be a mask.
    """
    shapes = (table.pixels(mask),) if mask else ()
    return LabelledPhoto(photo, (mask or photo).relative_to(place).as_posix(), shapes, split=split)
