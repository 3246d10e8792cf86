"""Folders of image files: which photo has which mask, in official downloads and in the usual layouts."""

import itertools
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from offseg_hf.data.naming import IMAGE_NAMES, MASK_NAMES, choose_columns, choose_split
from offseg_hf.files import read_text

if TYPE_CHECKING:
    from offseg_hf.data.presets import DatasetPreset

# Of the files that are taken from a folder.
IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)


@dataclass(frozen=True)
class OfficialLayout:
    """Photos and masks of a data set as it is published.

    Args:
        images (`str`): folder of a split's photos, with `{split}` in the place of its official name.
        image_ending (`str`): what the photos' names end in.
        masks (`str`): folder of its masks, likewise.
        mask_endings (`tuple[str]`): what the masks' names may end in, in place of `image_ending`; the first that
            occurs is taken.
        splits (`dict[str, str]`): name of a split → its official name.
        names (`str`, *optional*): text file that lists the names of a split, one per line; without one, all files
            below its folder belong to it.
        roots (`tuple[str]`): folders that the download may be wrapped in.
    """

    images: str
    image_ending: str
    masks: str
    mask_endings: tuple
    splits: dict
    names: str | None = None
    roots: tuple = ("",)

    def __str__(self) -> str:
        masks = " or ".join(f"{self.masks}/*{ending}" for ending in self.mask_endings)
        return f"{self.images}/*{self.image_ending} and {masks}" + (f" and {self.names}" if self.names else "")

    def find(self, folder: str | Path) -> dict[str, Path]:
        """The splits that a folder has in this layout.

        Args:
            folder (`str` or `Path`): where the data set is.

        Returns:
            `dict[str, Path]`: split → the folder that the layout begins in; empty where the layout is another.
        """
        marks = [self.masks, self.names or self.images]
        for root in (Path(folder, root) for root in self.roots):
            found = {
                split: root
                for split, official in self.splits.items()
                if all((root / mark.format(split=official)).exists() for mark in marks)
            }
            if found:
                return found
        return {}

    def pairs(self, root: Path, split: str) -> list[tuple[Path, Path]]:
        """The photos and masks of a split.

        Args:
            root (`Path`): the folder that the layout begins in, of `find`.
            split (`str`): a key of `splits`.

        Returns:
            `list[tuple[Path, Path]]`: paths of photo and mask, sorted by name.

        Raises:
            FileNotFoundError: a photo or a mask has no partner, or is listed and not there.
        """
        official = self.splits[split]
        photos = _files_by_name(root / self.images.format(split=official), (self.image_ending,))[self.image_ending]
        masks = _files_by_name(root / self.masks.format(split=official), self.mask_endings)
        masks = next((files for files in masks.values() if files), {})
        names = photos.keys() | masks.keys()
        if self.names:
            names = set(read_text(root / self.names.format(split=official)).split())
        alone = sorted(name for name in names if name not in photos or name not in masks)
        if alone or not names:
            shown = ", ".join(alone[:5]) + (", …" if len(alone) > 5 else "")
            raise FileNotFoundError(
                f"`data_dir` must hold a photo and a mask for each name of the split {official}, but "
                f"{len(alone)} of {len(names)} have one or none of the two: {shown or root}; unpack the "
                f"official files {self} completely."
            )
        return [(photos[name], masks[name]) for name in sorted(names)]


def _files_by_name(folder, endings):
    """Ending → path below the folder without that ending → file; a name counts for the longest ending that it has."""
    files = {ending: {} for ending in endings}
    for file in folder.rglob("*"):
        fitting = [ending for ending in endings if file.name.endswith(ending)]
        if fitting and not file.name.startswith("."):
            ending = max(fitting, key=len)
            files[ending][file.relative_to(folder).as_posix().removesuffix(ending)] = file
    return files


def find_pairs(
    folder: Path,
    split: str,
    preset: "DatasetPreset | None" = None,
    image_column: str | None = None,
    mask_column: str | None = None,
) -> list[tuple[Path, Path]]:
    """The photos and masks of a split of a folder of image files.

    Args:
        folder (`Path`): see [`~offseg_hf.data.load_segmentation_dataset`], as `split`, `image_column` and
            `mask_column`.
        preset ([`~offseg_hf.data.presets.DatasetPreset`], *optional*): the data set, in whose official layout the
            folder may be.

    Returns:
        `list[tuple[Path, Path]]`: paths of photo and mask, sorted.

    Raises:
        FileNotFoundError: photos and masks do not pair up.
        ValueError: the split or the folder's layout is not clear.
    """
    for layout in preset.layouts if preset else ():
        if roots := layout.find(folder):
            name = choose_split({name: name for name in roots}, split, folder)
            return layout.pairs(roots[name], name)
    tables = {file.parent: file for file in (folder / "metadata.jsonl", *folder.glob("*/metadata.jsonl"))}
    tables = {parent: file for parent, file in tables.items() if file.exists()}
    if tables:
        table_by_split = {"train" if parent == folder else parent.name: file for parent, file in tables.items()}
        return _pairs_of_metadata(choose_split(table_by_split, split, folder), image_column, mask_column)

    by_split: dict[str, tuple[Path, Path]] = {}
    for name, photos, masks in _folders_of_splits(folder):
        if name in by_split:
            raise ValueError(
                f"`dataset` must hold one folder of photos and one of masks per split, but {folder} has several for "
                f"{name!r}: {by_split[name][1]} and {masks}; move one of them elsewhere."
            )
        by_split[name] = photos, masks
    if not by_split and preset:
        raise ValueError(
            f"`data_dir` must be the official folder of {preset.title} ({preset.layouts[0]}) or one of Parquet files, "
            f"but {folder} is neither; name the folder that these begin in."
        )
    if not by_split:
        raise ValueError(
            f"`dataset` must be a folder of Parquet files, of images/<split> and masks/<split>, of <split>/images and "
            f"<split>/masks, or with a metadata.jsonl, but {folder} is none of these."
        )
    folders = choose_split(by_split, split, folder)
    photos, masks = (_files_by_stem(part) for part in folders)
    alone = [files[stem] for files, others in ((photos, masks), (masks, photos)) for stem in files.keys() - others]
    if alone or not photos:
        raise FileNotFoundError(
            f"`dataset` must hold a mask of the same name for every photo, but of {len(photos)} photos and "
            f"{len(masks)} masks {len(alone)} have no partner: {_first(alone)}{_unread(folders)}; rename or move them."
        )
    return [(photos[stem], masks[stem]) for stem in sorted(photos)]


def _folders_of_splits(folder):
    """(split, folder of photos, folder of masks) in each of the usual layouts."""
    for image_name, mask_name in itertools.product(IMAGE_NAMES, MASK_NAMES):
        photos, masks = folder / image_name, folder / mask_name
        if photos.is_dir() and masks.is_dir():
            splits = [part.name for part in sorted(photos.iterdir()) if part.is_dir() and (masks / part.name).is_dir()]
            yield from ((name, photos / name, masks / name) for name in splits)
            if not splits:
                yield "train", photos, masks
        for part in sorted(folder.iterdir()):
            if (part / image_name).is_dir() and (part / mask_name).is_dir():
                yield part.name, part / image_name, part / mask_name


def _files_by_stem(folder):
    """Path below the folder without its suffix → image file."""
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."):
            # Of an accented letter, file systems and archives have two forms in Unicode.
            stem = unicodedata.normalize("NFC", str(file.relative_to(folder).with_suffix("")))
            if stem in files:
                raise ValueError(
                    f"`dataset` must hold one file per name, got both {files[stem]} and {file}; remove one."
                )
            files[stem] = file
    return files


def _pairs_of_metadata(table, image_column, mask_column):
    """(photo, mask) paths that the lines of a metadata.jsonl name, relative to its folder."""
    lines = [json.loads(line) for line in read_text(table).splitlines() if line.strip()]
    names = {key.removesuffix("_file_name") if key != "file_name" else "image": key for key in (lines or [{}])[0]}
    names = {name: key for name, key in names.items() if key.endswith("file_name")}
    image, mask = (names[name] for name in choose_columns(list(names), list(names), image_column, mask_column))
    pairs = [(table.parent / line[image], table.parent / line[mask]) for line in lines]
    missing = [path for path in itertools.chain.from_iterable(pairs) if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{table} must name existing files, but {len(missing)} do not exist: {_first(missing)}; correct it."
        )
    return pairs


def _unread(folders):
    """What to say of the files below some folders that are taken neither for photos nor for masks."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and file.name[0] != "."]
    suffixes = sorted({file.suffix for file in files if file.suffix.lower() not in IMAGE_SUFFIXES})
    return f" (files that end in {', '.join(suffixes[:5])} are no pictures that are read)" if suffixes else ""


def _first(paths, count=5):
    """The first few names of a list of paths."""
    shown = ", ".join(str(path) for path in sorted(paths)[:count])
    return shown + (", …" if len(paths) > count else "")
