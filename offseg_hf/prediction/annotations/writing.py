"""The formats of annotations that label maps are written in."""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

# Name of a format, as `offseg_hf.data.formats.table.FORMATS` has it → name of the file here that writes it.
FORMATS = {"coco": "coco", "cvat": "cvat", "label-studio": "label_studio", "labelme": "labelme"}


def write_annotations(
    format_name: str,
    predictions: Iterable[tuple[Path, np.ndarray]],
    id2label: Mapping[int, str],
    folder: Path,
    overwrite: bool = False,
) -> Path:
    """Writes label maps as a labelling tool imports them; drawn again by the tool they are the same, pixel by pixel.

    One photo at a time is in memory, and each file appears whole.

    Args:
        format_name (`str`): a key of `FORMATS`.
        predictions (iterable of `(Path, np.ndarray)`): photos and their label maps: class ids of shape (height, width)
            of the photo as its EXIF orientation has it shown, as
            [`~offseg_hf.prediction.label_maps.predict_label_map`] gives them.
        id2label (`dict[int, str]`): names by class id; pixels of other ids, such as 255, are not labelled.
        folder (`Path`): where to write, made if need be.
        overwrite (`bool`): whether annotations that exist are replaced.

    Returns:
        `Path`: the file to import, or the folder for a format with a file per photo.

    Raises:
        FileExistsError: there are annotations already.
        ValueError: there is no such format, or two photos have the same name.
    """
    annotation_files(format_name, folder, (), overwrite)
    writer = _writer(format_name)
    return writer.write(_checked(predictions, writer, folder, overwrite), id2label, folder)


def annotation_files(format_name: str, folder: Path, photos: Iterable[Path], overwrite: bool = False) -> list[Path]:
    """The files that annotations of photos would be, found before hours of predicting.

    Args:
        format_name (`str`): a key of `FORMATS`.
        folder (`Path`): where to write.
        photos (iterable of `Path`): the photos.
        overwrite (`bool`): whether files that exist are replaced.

    Returns:
        `list[Path]`

    Raises:
        FileExistsError, ValueError: as [`write_annotations`].
    """
    if format_name not in FORMATS:
        raise ValueError(f"`format_name` must be one of {', '.join(FORMATS)}, got {format_name!r}; take one of them.")
    writer = _writer(format_name)
    names: dict[str, Path] = {}
    files = [folder / name for name in writer.FILES]
    for photo in photos:
        files += _photo_files(writer, folder, photo, names)
    _check_free(files, overwrite)
    return files


def _writer(format_name) -> ModuleType:
    return importlib.import_module(f"offseg_hf.prediction.annotations.{FORMATS[format_name]}")


def _photo_files(writer, folder, photo, names) -> list[Path]:
    """The files that a photo has for itself; `names` are those of the photos before it."""
    pattern = getattr(writer, "PHOTO_FILE", None)
    name = pattern.format(stem=photo.stem) if pattern else photo.name
    if name.lower() in names:
        raise ValueError(
            f"`predictions` must be of photos with names of their own, and {names[name.lower()]} and {photo} have the "
            "same; rename one, or write them into different folders."
        )
    names[name.lower()] = photo
    return [folder / name] if pattern else []


def _check_free(files, overwrite):
    if there := [file for file in files if file.exists() and not overwrite]:
        raise FileExistsError(f"`{there[0]}` must not be there already; name another folder, or move it away.")


def _checked(predictions, writer, folder, overwrite) -> Iterator[tuple[Path, np.ndarray]]:
    """The predictions, as long as their photos have names and files of their own."""
    names: dict[str, Path] = {}
    for photo, label_map in predictions:
        _check_free(_photo_files(writer, folder, photo, names), overwrite)
        yield photo, label_map
