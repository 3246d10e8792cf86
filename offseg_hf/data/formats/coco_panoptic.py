"""COCO's panoptic JSON with a folder of PNG files: https://cocodataset.org/#format-data."""

from pathlib import Path
from typing import Any

from offseg_hf.data.formats.coco_files import (
    category_names,
    coco_files,
    find_photo,
    image_size,
    images_by_id,
    look_up,
    photo_folder,
    read_document,
    split_of,
)
from offseg_hf.data.formats.damage import naming
from offseg_hf.data.formats.photos import PhotoFolder
from offseg_hf.data.formats.records import LabelledPhoto, Labels, Pixels

UNLABELLED = "unlabelled"  # black: the segment's id is 0


def find(place: Path) -> bool:
    """Whether a file, or a file in a folder, is a panoptic JSON of COCO."""
    return bool(coco_files(place, "segments"))


def read(place: Path) -> Labels:
    """What panoptic JSONs and their PNG files say; things and stuff are classes alike.

    A pixel of the PNG has its segment's id, R + 256 G + 65,536 B, and the segment has a class.

    Args:
        place (`Path`): a JSON, or a folder with one per split, above photos and PNG files; the PNG files of
            `panoptic_val.json` are in a folder called `panoptic_val`, beside it or beside the photos.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]

    Raises:
        FileNotFoundError: a photo, or a PNG file, is not there.
        ValueError: a file contradicts itself.
    """
    files = coco_files(place, "segments")
    photos = PhotoFolder(photo_folder(place), skip=tuple(file.stem for file in files))
    labelled: list[LabelledPhoto] = []
    classes: dict[str, None] = {}
    for file in files:
        document = read_document(file)
        names, images = category_names(file, document), images_by_id(file, document)
        classes |= dict.fromkeys(names.values())
        maps = PhotoFolder(_map_folder(file, photos.folder))
        pixels: dict[Any, Pixels] = {}
        for annotation in document["annotations"]:
            image = look_up(images, annotation, "image_id", file)
            if image["id"] in pixels:
                raise ValueError(
                    f"`{file}` must have one annotation per photo, but {image['file_name']} has two; remove one."
                )
            with naming(file, f"the annotation of {image['file_name']}"):
                source = f"{file.name}, {annotation['file_name']}"
                colours = _colours(annotation, names, file)
                pixels[image["id"]] = Pixels(maps.find(annotation["file_name"], source), colours)
        for image_id, image in images.items():
            shapes = (pixels[image_id],) if image_id in pixels else ()
            photo, split = find_photo(photos, image["file_name"], file), split_of(file, photos.folder)
            labelled.append(
                LabelledPhoto(photo, f"{file.name}, {image['file_name']}", shapes, image_size(image), split)
            )
    classes.setdefault(UNLABELLED)
    return Labels(tuple(classes), tuple(labelled), unlabelled=UNLABELLED)


def _map_folder(file, folder):
    """The folder of a JSON's PNG files."""
    tries = [file.with_suffix(""), folder / file.stem, *sorted(one for one in folder.rglob(file.stem) if one.is_dir())]
    found = next((one for one in tries if one.is_dir()), None)
    if found is None:
        raise FileNotFoundError(
            f"`{file}` must have its PNG files in a folder {file.stem}, and there is none below {folder}; put them "
            "there."
        )
    return found


def _colours(annotation, names, file):
    """Colours of a PNG → names of classes."""
    colours = {(0, 0, 0): UNLABELLED}
    for segment in annotation["segments_info"]:
        number = segment["id"]
        colour = (number & 255, number >> 8 & 255, number >> 16)
        if colour in colours:
            raise ValueError(
                f"`{file}` must have segments with ids of their own from 1 on, but {annotation['file_name']} has "
                f"{number} twice or for what is not labelled; export it again."
            )
        colours[colour] = look_up(names, segment, "category_id", file)
    return colours
