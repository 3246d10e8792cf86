"""Pictures of a measurement: the confusion matrix, and the photos on which the model did worst."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from offseg_hf.data.presets import class_palette
from offseg_hf.evaluation.figures import Evaluation
from offseg_hf.pictures.overlays import IGNORE_INDEX, mark_errors, picture_sheet
from offseg_hf.pictures.plots import confusion_matrix_picture
from offseg_hf.pictures.saving import save_picture

CELL_WIDTH = 384  # pixels, of the pictures that are kept


def error_pictures(
    photo: Image.Image, labels: torch.Tensor, prediction: torch.Tensor, ignore_index: int
) -> tuple[Image.Image, np.ndarray, np.ndarray, Image.Image]:
    """What one sees of a photo's prediction, 384 pixels wide: small enough to be kept of many photos.

    Args:
        photo (`PIL.Image.Image`): the photo, upright in RGB, of any size.
        labels (`torch.Tensor` of shape `(height, width)`): its class ids.
        prediction (`torch.Tensor` of shape `(height, width)`): the predicted ones.
        ignore_index (`int`): the label of pixels that do not count; 255 in what is returned.

    Returns:
        `tuple`: the photo, its label map, its prediction, and the photo with the wrong pixels in red.
    """
    size = (CELL_WIDTH, max(1, round(labels.shape[0] * CELL_WIDTH / labels.shape[1])))
    photo = photo.resize(size, Image.Resampling.BICUBIC)
    truth, predicted = (
        np.asarray(Image.fromarray(ids.cpu().numpy().astype(np.int32)).resize(size, Image.Resampling.NEAREST))
        for ids in (labels.where(labels != ignore_index, IGNORE_INDEX), prediction)
    )
    return photo, truth, predicted, mark_errors(photo, (predicted != truth) & (truth != IGNORE_INDEX))


def save_pictures(evaluation: Evaluation, id2label: dict[int, str], confusion: Path, worst: Path) -> None:
    """Saves what a measurement looks like; each file appears whole or not at all.

    Args:
        evaluation ([`Evaluation`]): the measurement.
        id2label (`dict[int, str]`): class names.
        confusion (`Path`): file of the confusion matrix, replaced where it exists.
        worst (`Path`): file of the worst photos, likewise; removed where the measurement has none.
    """
    save_picture(confusion_matrix_picture(evaluation.confusion_matrix, id2label), confusion)
    if not evaluation.worst:
        worst.unlink(missing_ok=True)  # it would show another measurement
        return
    captions, rows = zip(*evaluation.worst)
    headers = ("photo", "truth", "prediction", "errors")
    save_picture(picture_sheet(rows, headers, id2label, class_palette(id2label), CELL_WIDTH, captions), worst)
