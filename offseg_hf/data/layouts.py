"""Folders of image files: which photo has which mask, in official downloads and in the usual layouts."""

import itertools
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from offseg_hf.data.formats.refusals import refuse_folder, refuse_masks
from offseg_hf.data.naming import (
    IMAGE_NAMES,
    MASK_NAMES,
    SPLIT_SPELLINGS,
    canonical_split,
    choose_columns,
    choose_split,
)
from offseg_hf.files import read_text

if TYPE_CHECKING:
    from offseg_hf.data.presets import DatasetPreset

# Of the files that are taken from a folder.
IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
TEXT_SUFFIXES = ("", ".csv", ".json", ".txt", ".xml", ".yaml", ".yml")
# Of folders, beside the names that columns have: mmsegmentation's and the official CamVid's among them.
IMAGE_FOLDERS = (*IMAGE_NAMES, "img_dir", "imgs", "photos", "pictures", "data", "701_StillsRaw_full")
MASK_FOLDERS = (*MASK_NAMES, "ann_dir", "annots", "gts", "LabeledApproved_full")
# What follows the name of a split's folder of photos in that of its masks (`trainannot` beside `train`), and the name
# of a photo in that of its mask (`a_mask.png` beside `a.jpg`).
MASK_FOLDER_ENDINGS = ("annot", "_annot", "_annotations", "_labels", "_label", "_masks", "_mask", "_gt")
MASK_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_L", "_P", "_gt", "_seg", "_segmentation", "-mask", ".mask")


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
        ValueError: the split or the folder's layout is not clear, or its masks cannot be ids of classes.
    """
    for layout in preset.layouts if preset else ():
        if roots := layout.find(folder):
            name = choose_split({name: name for name in roots}, split, folder)
            return layout.pairs(roots[name], name)
    refuse_folder(folder)
    tables = {file.parent: file for file in (folder / "metadata.jsonl", *folder.glob("*/metadata.jsonl"))}
    tables = {parent: file for parent, file in tables.items() if file.exists()}
    if tables:
        table_by_split = {"train" if parent == folder else parent.name: file for parent, file in tables.items()}
        pairs = _pairs_of_metadata(choose_split(table_by_split, split, folder), image_column, mask_column)
    else:
        for argument, column in (("image_column", image_column), ("mask_column", mask_column)):
            if column is not None:
                raise ValueError(
                    f"`{argument}` must be left out for {folder}, which has no metadata.jsonl and so no columns, got "
                    f"{column}; leave it out."
                )
        pairs = pair_files(*choose_split(_folders_by_split(folder, preset), split, folder))
    refuse_masks([mask for _, mask in pairs])
    return pairs


def _folders_by_split(folder, preset):
    """Split → folder of photos and folder of masks, of which there must be some."""
    by_split = find_folders(folder)
    if not by_split and preset:
        raise ValueError(
            f"`data_dir` must be the official folder of {preset.title} ({preset.layouts[0]}) or one of Parquet files, "
            f"but {folder} is neither; name the folder that these begin in."
        )
    if not by_split:
        raise ValueError(
            f"`dataset` must be a folder of Parquet files, of images/<split> and masks/<split>, of <split>/images and "
            f"<split>/masks, of <split> and <split>_masks, of a.jpg beside a_mask.png, or with a metadata.jsonl, but "
            f"{folder} is none of these."
        )
    return by_split


def find_folders(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The splits of a folder of photos and masks in one of the usual layouts.

    Args:
        folder (`Path`): where the data set is.

    Returns:
        `dict[str, tuple[Path, Path]]`: split → its folder of photos and its folder of masks, which may be the same
        one; empty where the layout is none of these.

    Raises:
        ValueError: a split has several.
    """
    by_split: dict[str, tuple[Path, Path]] = {}
    for name, photos, masks in _folders_of_splits(folder):
        if name in by_split:
            raise ValueError(
                f"`dataset` must hold one folder of photos and one of masks per split, but {folder} has several for "
                f"{name!r}: {by_split[name][1]} and {masks}; move one of them elsewhere."
            )
        by_split[name] = photos, masks
    return by_split


def pair_files(photo_folder: Path, mask_folder: Path) -> list[tuple[Path, Path]]:
    """The photos and masks of two folders, which may be the same one.

    Args:
        photo_folder (`Path`): where the photos are, in whatever sub-folders.
        mask_folder (`Path`): where the masks are, in the same sub-folders, with the photos' names or with one of
            `MASK_ENDINGS` after them.

    Returns:
        `list[tuple[Path, Path]]`: paths of photo and mask, sorted by name.

    Raises:
        FileNotFoundError: a photo or a mask has no partner.
        ValueError: two files have one name.
    """
    photos, masks = files_by_stem(photo_folder), files_by_stem(mask_folder)
    if not photos.keys() & masks.keys() or photo_folder == mask_folder:
        masks = _photos_masks(photos, masks) or masks
    if photo_folder == mask_folder:
        mask_files = set(masks.values())
        photos = {stem: file for stem, file in photos.items() if file not in mask_files}
    alone = [files[stem] for files, others in ((photos, masks), (masks, photos)) for stem in files.keys() - others]
    if alone or not photos:
        raise FileNotFoundError(
            f"`dataset` must hold a mask of the same name for every photo, but of {len(photos)} photos and "
            f"{len(masks)} masks {len(alone)} have no partner: {_first(alone)}"
            f"{_unread((photo_folder, mask_folder))}; rename or move them."
        )
    return [(photos[stem], masks[stem]) for stem in sorted(photos)]


def _photos_masks(photos, masks):
    """Path of a photo without its suffix → the mask of that name with an ending, for the first ending that occurs."""
    for ending in MASK_ENDINGS:
        named = {stem.removesuffix(ending): file for stem, file in masks.items() if stem.endswith(ending)}
        if photos.keys() & named:
            return named
    return {}


def _folders_of_splits(folder):
    """(split, folder of photos, folder of masks) in each of the usual layouts."""
    parts = [part for part in sorted(folder.iterdir()) if part.is_dir() and not part.name.startswith(".")]
    for image_name, mask_name in itertools.product(IMAGE_FOLDERS, MASK_FOLDERS):
        photos, masks = folder / image_name, folder / mask_name
        if _hold_images(photos, masks):
            splits = [part.name for part in sorted(photos.iterdir()) if part.is_dir() and (masks / part.name).is_dir()]
            yield from ((name, photos / name, masks / name) for name in splits)
            if not splits:
                yield "train", photos, masks
        for part in parts:
            if _hold_images(part / image_name, part / mask_name):
                yield part.name, part / image_name, part / mask_name
    splits = [part for part in parts if canonical_split(part.name) in SPLIT_SPELLINGS]
    for part, ending in itertools.product(splits, MASK_FOLDER_ENDINGS):
        if _hold_images(part, folder / f"{part.name}{ending}"):
            yield part.name, part, folder / f"{part.name}{ending}"
    for part in splits or [folder]:
        stems = {file.stem for file in part.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}
        if any(stem + ending in stems for stem in stems for ending in MASK_ENDINGS):
            yield "train" if part == folder else part.name, part, part


def _hold_images(photos, masks):
    """Whether there is an image file below a folder, and below another what is no text, as boxes and outlines are."""
    suffixes = [{file.suffix.lower() for file in folder.rglob("*") if file.is_file()} for folder in (photos, masks)]
    return bool(suffixes[0] & {*IMAGE_SUFFIXES}) and bool(suffixes[1] - {*TEXT_SUFFIXES})


def files_by_stem(folder: Path) -> dict[str, Path]:
    """The image files below a folder.

    Args:
        folder (`Path`): where they are, in whatever sub-folders.

    Returns:
        `dict[str, Path]`: path below the folder without its suffix → file; hidden files are left out.

    Raises:
        ValueError: two files have one name.
    """
    files: dict[str, Path] = {}
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
