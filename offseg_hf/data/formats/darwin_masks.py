"""Semantic masks of V7 Darwin: `masks/` with `class_mapping.csv`, in ids, greys or colours."""

from pathlib import Path

from offseg_hf.data.formats.mask_tables import MaskTable, PhotosByStem, csv_rows, labels_of_masks, make_table
from offseg_hf.data.formats.records import Labels

TABLE, MASKS = "class_mapping.csv", "masks"


def find(place: Path) -> bool:
    """Whether a folder has Darwin's masks and their table.

    Args:
        place (`Path`): the folder.

    Returns:
        `bool`
    """
    return (place / TABLE).is_file() and (place / MASKS).is_dir()


def read(place: Path) -> Labels:
    """What such a folder says.

    Args:
        place (`Path`): the folder, with the photos in it too.

    Returns:
        [`~offseg_hf.data.formats.records.Labels`]

    Raises:
        FileNotFoundError: a photo is not there.
        ValueError: classes share a grey.
    """
    table, photos = _table(place / TABLE), PhotosByStem(place, [place / MASKS])
    files = sorted((place / MASKS).rglob("*.png"))
    names = [file.relative_to(place / MASKS).with_suffix("").as_posix() for file in files]
    return labels_of_masks(
        [(photos.find(name, str(file)), file, "train") for name, file in zip(names, files)], table, place
    )


def _table(file):
    rows = csv_rows(file, ("class_name", "class_color"))
    values = [[int(part) for part in row["class_color"].split() if part.isdecimal()] for row in rows]
    names = [row["class_name"] for row in rows]
    if all(len(value) == 3 for value in values):
        return make_table([(name, (red, green, blue)) for name, (red, green, blue) in zip(names, values)], file)
    if not all(len(value) == 1 and value[0] <= 255 for value in values):
        raise ValueError(f"`{file}` must have a grey or three numbers as class_color for each class; export it again.")
    greys = [value for (value,) in values]
    # Darwin paints greys over the numbers 0, 1, … one after the other: a grey that is a later number is painted again.
    merged = [names[number] for number, grey in enumerate(greys) if number < grey < len(greys)]
    if merged or len(set(greys)) < len(greys):
        raise ValueError(
            f"`{file}` must have greys that tell {len(greys)} classes apart, but Darwin's grey masks merge classes "
            f"from 17 values on ({', '.join(merged[:5])}); export semantic_mask_index or Darwin JSON."
        )
    return MaskTable(dict(zip(greys, names)), {})
