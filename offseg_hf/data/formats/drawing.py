"""Shapes → a label map of the model's class ids."""

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from offseg_hf.data.formats.rasterize import FILLS
from offseg_hf.data.formats.records import Bitmap, LabelledPhoto, Pixels, Polygon
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX, open_image, read_mask
from offseg_hf.models.image_reading import EXIF_ORIENTATION, QUARTER_TURNS


@dataclass(frozen=True, eq=False)
class DrawnMask:
    """The label map of a photo, drawn when it is asked for.

    Args:
        labelled ([`~offseg_hf.data.formats.records.LabelledPhoto`]): the photo and its shapes.
        class_ids (`dict[str, int]`): name of each class as the tool has it → class id, or 255 for unlabelled.
        unlabelled_id (`int`): what pixels get that no shape holds.
    """

    labelled: LabelledPhoto
    class_ids: Mapping[str, int]
    unlabelled_id: int = IGNORE_INDEX

    def __str__(self) -> str:
        return self.labelled.source

    @property
    def name(self) -> str:
        """`str`: what its file would be called."""
        return f"{self.labelled.photo.stem}.png"

    def digest(self) -> str:
        """`str`: what changes where its content does, found without drawing it; hexadecimal."""
        settings = self.labelled.size, sorted(self.class_ids.items()), self.unlabelled_id
        digest = hashlib.sha256(repr(settings).encode())
        for shape in self.labelled.shapes:
            if isinstance(shape, Pixels):
                file = shape.path.stat()
                digest.update(f"{shape.path.name}{file.st_size}{file.st_mtime_ns}{shape.labels}".encode())
            elif isinstance(shape, Polygon):
                digest.update(f"{shape.label}{shape.fill}".encode())
                for outline in (*shape.outlines, *shape.holes):
                    digest.update(outline.tobytes())
            else:
                digest.update(f"{shape.label}{shape.left}{shape.top}{shape.data!r}".encode())
        return digest.hexdigest()

    def draw(self) -> np.ndarray:
        """The class id of every pixel.

        Returns:
            `np.ndarray`: uint8, or uint16 where ids go beyond 255, of shape (height, width).

        Raises:
            OSError, ValueError: a shape cannot be decoded, or a stored map has what its table lacks.
        """
        return self._drawn()[0]

    def num_objects(self) -> dict[int, int] | None:
        """`dict[int, int]`: class id → number of its shapes; `None` where a map is stored whole."""
        labels = [shape.label for shape in self.labelled.shapes if not isinstance(shape, Pixels)]
        if len(labels) < len(self.labelled.shapes):
            return None
        return dict(Counter(self.class_ids[label] for label in labels))

    def num_hidden(self) -> int | None:
        """`int`: number of pixels where a shape lies over one of another class; `None` where a map is stored whole."""
        return self._drawn()[1]

    def _drawn(self):
        dtype = np.uint8 if max([*self.class_ids.values(), self.unlabelled_id]) <= IGNORE_INDEX else np.uint16
        shapes = self.labelled.shapes
        if shapes and isinstance(shapes[0], Pixels):
            return self._class_ids_of(shapes[0]).astype(dtype), None
        canvas: np.ndarray = np.full(self.labelled.size or upright_size(self.labelled), self.unlabelled_id, dtype)
        num_hidden = 0
        for number, shape in enumerate(shapes, start=1):
            if isinstance(shape, Polygon):
                part, inside = _fill(canvas, shape)
            elif isinstance(shape, Bitmap):
                part, inside = self._decode(canvas, shape, number)
            class_id = self.class_ids[shape.label]
            below = part[inside]
            num_hidden += np.count_nonzero((below != self.unlabelled_id) & (below != class_id))
            part[inside] = class_id
        return canvas, num_hidden

    def read_bytes(self) -> bytes:
        """`bytes`: the same as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.draw()).save(file, "PNG")
        return file.getvalue()

    def _decode(self, canvas, shape, number):
        """The part of the picture that a bitmap covers, and which of its pixels are the object's."""
        try:
            inside = shape.decode(shape.data)
        except Exception as error:  # of base64, zlib, Pillow or numpy, on damaged data
            raise ValueError(
                f"`{self}` must hold pixels that can be decoded, but those of its object {number}, "
                f"{shape.label}, cannot ({type(error).__name__}: {error}); export it again."
            ) from error
        top, left = max(shape.top, 0), max(shape.left, 0)
        inside = inside[top - shape.top :, left - shape.left :]
        part = canvas[top : top + inside.shape[0], left : left + inside.shape[1]]
        return part, inside[: part.shape[0], : part.shape[1]]

    def _class_ids_of(self, pixels):
        """The class ids of a stored map, of its own size."""
        is_coloured = isinstance(next(iter(pixels.labels)), tuple)
        if is_coloured:
            found = read_colours(pixels.path)
            stored = [(red << 16) | (green << 8) | blue for red, green, blue in pixels.labels]
        else:
            found = (pixels.read or read_mask)(pixels.path)
            stored = list(pixels.labels)
        order = np.argsort(stored)
        keys = np.array(stored, np.int64)[order]
        class_ids = np.array([self.class_ids[name] for name in pixels.labels.values()])[order]
        values, where, counts = np.unique(found, return_inverse=True, return_counts=True)
        places = np.searchsorted(keys, values).clip(max=len(keys) - 1)
        unknown = keys[places] != values
        if unknown.any():
            value, count = int(values[unknown][0]), counts[unknown][0]
            shown = f"the colour #{value:06x}" if is_coloured else f"the id {value}"
            raise ValueError(
                f"`{self}` must hold what its table names, but {count:,} pixels have {shown}; add it to the "
                "table, or pass a table of your own with `--label_table FILE`."
            )
        return class_ids[places][where].reshape(found.shape)


def _fill(canvas, shape):
    """The part of the picture that a polygon may touch, and which of its pixels are the object's."""
    points = np.concatenate([*shape.outlines, *shape.holes])
    height, width = canvas.shape
    left, top = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0).tolist()
    right, bottom = np.ceil(points.max(0)).astype(int) + 2
    part = canvas[top : min(bottom, height), left : min(right, width)]
    if part.size == 0:
        return part, np.zeros(part.shape, bool)
    fill, corner = FILLS[shape.fill], (int(left), int(top))  # it rounds the picture's coordinates, not the part's
    inside = fill(shape.outlines, part.shape, corner)
    for hole in shape.holes:
        inside &= ~fill([hole], part.shape, corner)
    return part, inside


def read_colours(path: Path) -> np.ndarray:
    """The colours of a picture, palette files in those of their palette.

    Args:
        path (`Path`): its file.

    Returns:
        `np.ndarray`: int64 of shape (height, width), red · 65,536 + green · 256 + blue.

    Raises:
        ValueError: it is cut off or damaged.
    """
    try:
        colours = np.array(open_image(path, max_value=65535).convert("RGB"), np.int64)
    except OSError as error:
        raise ValueError(
            f"`{path}` must be a whole picture, but cannot be decoded ({error}); export it again."
        ) from error
    return (colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2]


def upright_size(labelled: LabelledPhoto) -> tuple[int, int]:
    """Height and width in pixels of a photo as its EXIF orientation has it shown; its pixels are not decoded."""
    photo = open_image(labelled.photo, max_value=65535)  # whatever value is white
    is_turned = photo.getexif().get(EXIF_ORIENTATION) in QUARTER_TURNS
    return (photo.width, photo.height) if is_turned else (photo.height, photo.width)
