"""Roboflow's "Semantic Segmentation Masks": photos and masks in one folder per split, with `_classes.csv`."""

from pathlib import Path

from offseg_hf.data.formats.mask_tables import VOID, MaskTable, csv_rows, labelled_photo, split_of
from offseg_hf.data.formats.records import LabelledPhoto, Labels
from offseg_hf.data.layouts import pair_files
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX

TABLE = "_classes.csv"
ID, NAME = "Pixel Value", "Class"
MAX_ID = 65_535  # in a PNG file


def find(place: Path) -> bool:
    """Whether a folder, or one in it, has Roboflow's table of pixel values.

    Args:
        place (`Path`): the folder.

    Returns:
        `bool`
    """
    tables = [place / TABLE, *place.glob(f"*/{TABLE}")] if place.is_dir() else []
    return any(table.is_file() and table.read_text("utf-8-sig", "replace").startswith(ID) for table in tables)


def read(place: Path) -> Labels:
    """What such a folder says.

    Args:
        place (`Path`): the export's folder, or that of one split.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]

    Raises:
        FileNotFoundError: a photo has no mask, or a mask no photo.
        ValueError: the table is none.
    """
    photos: list[LabelledPhoto] = []
    names: dict[str, None] = {}
    for file in sorted((place / TABLE, *place.glob(f"*/{TABLE}"))):
        if file.is_file():
            table = _table(file)
            names |= dict.fromkeys(table.names)
            split = split_of(file.parent.name)
            pairs = pair_files(file.parent, file.parent)
            photos += [labelled_photo(photo, mask, split, table, place) for photo, mask in pairs]
    return Labels(tuple(names), tuple(sorted(photos, key=lambda photo: photo.photo)))


def _table(file):
    by_id = {}
    for row in csv_rows(file, (ID, NAME)):
        if not row[ID].isdecimal() or int(row[ID]) > MAX_ID:
            raise ValueError(f"`{file}` must have whole numbers as {ID}, got {row[ID]!r}; export the masks again.")
        if int(row[ID]) in by_id:
            raise ValueError(f"`{file}` must have each {ID} once, got {row[ID]} twice; export the masks again.")
        by_id[int(row[ID])] = row[NAME]
    return MaskTable(dict(sorted(by_id.items())) | ({} if IGNORE_INDEX in by_id else {IGNORE_INDEX: VOID}), {})
