"""Label Studio: tasks with predictions, which are brushes."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from offseg_hf.files import whole_file, write_text
from offseg_hf.prediction.annotations.class_masks import class_masks, run_lengths

FILES = ("tasks.json", "labeling_interface.xml")
BRUSH, IMAGE = "tag", "image"  # names in the interface, those of Label Studio's template for masks
NUM_CHANNELS = 4  # red, green, blue, alpha; all are the same here
LENGTH_BITS = (3, 4, 8, 16)  # what the length of a run may take


def write(predictions: Iterable[tuple[Path, np.ndarray]], id2label: Mapping[int, str], folder: Path) -> Path:
    """Writes tasks whose predictions are one brush for each class, and the labelling interface that they need.

    The photos are local files: `/data/local-files/?d=FOLDER/PHOTO`, where FOLDER is the name of the photos' folder,
    and `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT` the one around it. See https://labelstud.io/guide/predictions for the
    format, and https://labelstud.io/guide/storage#Local-storage for the photos.

    Args:
        predictions (iterable of `(Path, np.ndarray)`): photos and their label maps, of shape (height, width).
        id2label (`dict[int, str]`): names by class id.
        folder (`Path`): where `tasks.json` and `labeling_interface.xml` are to be.

    Returns:
        `Path`: the file of tasks.
    """
    separator = "\n"
    with whole_file(folder / FILES[0]) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write("[")
        for photo, label_map in predictions:
            results = [_result(mask) for mask in class_masks(label_map, id2label)]
            address = f"/data/local-files/?d={quote(f'{photo.resolve().parent.name}/{photo.name}')}"
            task = {"data": {IMAGE: address}, "predictions": [{"model_version": "offseg", "result": results}]}
            file.write(separator + json.dumps(task, ensure_ascii=False))
            separator = ",\n"
        file.write("\n]\n")
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in id2label.values())
    write_text(
        folder / FILES[1],
        f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>\n'
        f'  <BrushLabels name="{BRUSH}" toName="{IMAGE}">\n{labels}  </BrushLabels>\n</View>\n',
    )
    return folder / FILES[0]


def _result(mask):
    height, width = mask.inside.shape
    return {
        "id": f"class-{mask.class_id}",
        "type": "brushlabels",
        "from_name": BRUSH,
        "to_name": IMAGE,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode(mask.inside), "brushlabels": [mask.label]},
    }


def encode(inside: np.ndarray) -> list[int]:
    """Pixels as Label Studio stores a brush: the runs that `offseg_hf.data.formats.label_studio` reads.

    Args:
        inside (`np.ndarray`): boolean, of shape (height, width).

    Returns:
        `list[int]`: bytes.
    """
    bits = [f"{inside.size * NUM_CHANNELS:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in LENGTH_BITS)]
    for number, length in enumerate(run_lengths(inside.ravel())):
        value = "11111111" if number % 2 else "00000000"
        length *= NUM_CHANNELS
        while length:
            part = min(length, 1 << LENGTH_BITS[-1])
            index = next(index for index, size in enumerate(LENGTH_BITS) if part <= 1 << size)
            bits.append(f"1{index:02b}{part - 1:0{LENGTH_BITS[index]}b}{value}")
            length -= part
    joined = "".join(bits)
    joined += "0" * (-len(joined) % 8)
    return list(int(joined, 2).to_bytes(len(joined) // 8, "big"))
