"""What COCO's JSONs of objects and of segments have in common: files, classes, photos, splits."""

import mmap
import re
from pathlib import Path
from typing import Any

from offseg_hf.data.formats.damage import read_json
from offseg_hf.data.formats.photos import PhotoFolder, photo_path
from offseg_hf.data.naming import SPLIT_SPELLINGS, canonical_split

# What a JSON lists → what such files are called, beside captions and keypoints of the same photos.
NAMES = {"objects": ("instances", "_annotations.coco"), "segments": ("panoptic",)}
MAX_FILES = 12  # of a folder that are looked at, whatever their names: where there are more, it is one per photo


def coco_files(place: Path, listed: str) -> list[Path]:
    """The COCO JSONs of a place.

    Args:
        place (`Path`): a file, or a folder that has them in itself or in its sub-folders.
        listed (`str`): what they list: `"objects"` or `"segments"`.

    Returns:
        `list[Path]`: sorted; empty where there are none.
    """
    files = [place]
    if place.is_dir():
        files = sorted(file for pattern in ("", "*/", "*/annotations/") for file in place.glob(f"{pattern}*.json"))
        called = [file for file in files if file.name.startswith(NAMES[listed]) and _listed(file) == listed]
        if called or len(files) > MAX_FILES:
            return list(dict.fromkeys(called))
    return [file for file in dict.fromkeys(files) if _listed(file) == listed]


def _listed(file):
    """What a file lists: "objects", "segments", or None where it is no COCO JSON."""
    if file.suffix.lower() != ".json" or not file.stat().st_size:
        return None
    # Label Studio has the categories in the middle, behind as many images as there are.
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b'"images"') < 0 or content.find(b'"categories"') < 0:
            return None
        return "segments" if content.find(b'"segments_info"') >= 0 else "objects"


def read_document(file: Path) -> dict[str, Any]:
    """A COCO JSON with its three lists.

    Args:
        file (`Path`): the file.

    Returns:
        `dict`: it has `images`, `categories` and `annotations`.

    Raises:
        ValueError: it is no JSON, or lacks what these must have.
    """
    document = read_json(file)
    wanted = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ("image_id",)}
    for name, keys in wanted.items():
        listed = document.get(name) if isinstance(document, dict) else None
        lacking = [one for one in listed if not _has(one, keys)] if isinstance(listed, list) else [listed]
        if lacking:
            raise ValueError(
                f"`{file}` must have a list `{name}`, each with {' and '.join(keys)}, got {str(lacking[0])[:100]}; "
                "export objects with their outlines."
            )
    return document


def _has(one, keys):
    """Whether an entry has keys: ids are text or numbers, names are text."""
    return isinstance(one, dict) and all(
        isinstance(one.get(key), (str, int, float) if key.endswith("id") else str) and one[key] != "" for key in keys
    )


def category_names(file: Path, document: dict[str, Any]) -> dict[Any, str]:
    """The classes of a COCO JSON.

    Args:
        file (`Path`): what errors call it.
        document (`dict`): what it says.

    Returns:
        `dict`: category id, of whatever kind → name, in the file's order.

    Raises:
        ValueError: two categories have one name or one id.
    """
    names: dict[Any, str] = {}
    for category in document["categories"]:
        for other_id, other in names.items():
            if category["name"] == other or category["id"] == other_id:
                raise ValueError(
                    f"`{file}` must have each category once, but has {other!r} with id {other_id} and "
                    f"{category['name']!r} with id {category['id']}; rename or renumber one of them."
                )
        names[category["id"]] = category["name"]
    return names


def images_by_id(file: Path, document: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    """The photos of a COCO JSON.

    Args:
        file (`Path`): what errors call it.
        document (`dict`): what it says.

    Returns:
        `dict`: image id → what the file says of it.

    Raises:
        ValueError: two have one id.
    """
    images: dict[Any, dict[str, Any]] = {}
    for image in document["images"]:
        other = images.setdefault(image["id"], image)
        if other is not image:
            raise ValueError(
                f"`{file}` must have each image id once, but {other['file_name']} and {image['file_name']} both have "
                f"{image['id']}; renumber one of them and its annotations."
            )
    return images


def look_up(known: dict[Any, Any], annotation: dict[str, Any], key: str, file: Path) -> Any:
    """What an id of an annotation refers to.

    Args:
        known (`dict`): photos or classes by id.
        annotation (`dict`): an annotation, or a segment of one.
        key (`str`): `"image_id"` or `"category_id"`.
        file (`Path`): what errors call the file.

    Returns:
        `Any`: the value of `known`.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(annotation.get(key), (str, int, float)) or annotation[key] not in known:
        raise ValueError(
            f"`{file}` must list what its annotations are of, but `{key}` {annotation.get(key)!r} of annotation "
            f"{annotation.get('id')} is not among its {'images' if key == 'image_id' else 'categories'}; add it, or "
            "remove the annotation."
        )
    return known[annotation[key]]


def image_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width in pixels of a photo, if the file has them."""
    return (image["height"], image["width"]) if image.get("height") and image.get("width") else None


def photo_folder(place: Path) -> Path:
    """The folder below which the photos of a place are: beside its `annotations`."""
    folder = place if place.is_dir() else place.parent
    return folder.parent if folder.name == "annotations" else folder


def split_of(file: Path, folder: Path) -> str:
    """The split of a file's photos by its name, or that of a folder on the way to it; `"train"` where none tells."""
    for part in reversed(file.relative_to(folder).with_suffix("").parts):
        for word in re.findall("[a-z]+", part.lower()):
            if canonical_split(word) in SPLIT_SPELLINGS:
                return canonical_split(word)
    return "train"


def find_photo(photos: PhotoFolder, name: str, file: Path) -> Path:
    """The photo of a name in a COCO JSON; of several, that in the folder of the JSON's split.

    Args:
        photos ([`~offseg_hf.data.formats.photos.PhotoFolder`]): where photos are.
        name (`str`): the photo's `file_name`.
        file (`Path`): the JSON, below the same folder.

    Returns:
        `Path`

    Raises:
        FileNotFoundError, ValueError: there is none, or there are several.
    """
    folders = [file.stem.split("_")[-1], *file.relative_to(photos.folder).parts[-2::-1]]
    for folder in folders:
        if any((above / folder).is_dir() for above in (photos.folder, photos.folder / "images")):
            return photos.find(f"{folder}/{photo_path(name)}", file.name)
    return photos.find(name, file.name)
