"""CVAT for images 1.1, an XML file with masks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from offseg_hf.files import whole_file
from offseg_hf.prediction.annotations.class_masks import class_masks, run_lengths

FILES = ("annotations.xml",)


def write(predictions: Iterable[tuple[Path, np.ndarray]], id2label: Mapping[int, str], folder: Path) -> Path:
    """Writes a file for CVAT's "Upload annotations", one mask for each class of each photo.

    The task must have the photos by their names, and labels of the classes' names.

    Args:
        predictions (iterable of `(Path, np.ndarray)`): photos and their label maps, of shape (height, width).
        id2label (`dict[int, str]`): names by class id.
        folder (`Path`): where `annotations.xml` is to be.

    Returns:
        `Path`: the file.
    """
    labels = "".join(f"<label><name>{escape(name)}</name><attributes/></label>" for name in id2label.values())
    with whole_file(folder / FILES[0]) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(f"<meta><task><labels>{labels}</labels></task></meta>\n")
        for number, (photo, label_map) in enumerate(predictions):
            height, width = label_map.shape
            file.write(f'<image id="{number}" name={quoteattr(photo.name)} width="{width}" height="{height}">\n')
            for mask in class_masks(label_map, id2label):
                runs = ", ".join(map(str, run_lengths(mask.cropped.ravel())))
                file.write(
                    f'<mask label={quoteattr(mask.label)} source="auto" occluded="0" rle="{runs}" left="{mask.left}" '
                    f'top="{mask.top}" width="{mask.width}" height="{mask.height}" z_order="0"></mask>\n'
                )
            file.write("</image>\n")
        file.write("</annotations>\n")
    return folder / FILES[0]
