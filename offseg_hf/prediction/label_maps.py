"""From photos to label maps, with any semantic-segmentation model of transformers: at once or in sliding windows."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from offseg_hf.models.image_processing_offseg import read_image
from offseg_hf.prediction.evaluation_mode import evaluation_mode
from offseg_hf.prediction.outputs import model_outputs
from offseg_hf.prediction.scores import label_maps
from offseg_hf.prediction.windows import label_maps_in_bands


@torch.inference_mode()
def predict_label_map(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    image: Image.Image | str | Path | bytes | np.ndarray,
    window_size: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
) -> np.ndarray:
    """The class of every pixel of a photo, at the photo's own size.

    The model is put in evaluation mode for the call, and every part of it is left in the mode it was in.

    Args:
        model (`transformers.PreTrainedModel`): a semantic-segmentation model, on any device and in any dtype.
        image_processor (`transformers.BaseImageProcessor`): the model's own.
        image (`PIL.Image.Image`, `str`, `Path`, `bytes` or `np.ndarray`): what
            [`~offseg_hf.models.image_processing_offseg.read_image`] reads.
        window_size (`tuple[int, int]`, *optional*): (height, width) of sliding windows on the photo as the image
            processor resizes it, see [`label_maps_in_bands`]; by default the model sees all of it at once.
        stride (`tuple[int, int]`, *optional*): from one window to the next, down and across.

    Returns:
        `np.ndarray`: class ids of shape (height, width), `uint8` for up to 256 classes, else `uint16`. A model of a
        single class gives 1 for that class and 0 for the background.

    Raises:
        FileNotFoundError, ValueError: if the photo is missing, or no image, or the windows leave gaps.
    """
    photo = read_image(image, max_value=getattr(image_processor, "max_value", None))
    size = (photo.height, photo.width)
    inputs = image_processor(images=photo, return_tensors="pt")
    if window_size is not None or stride is not None:
        label_map = label_maps_in_bands(model, [inputs["pixel_values"]], size, window_size, stride)[0]
    else:
        with evaluation_mode(model):
            outputs = model_outputs(model, **inputs)
        if len(inputs["pixel_values"]) == 1:
            label_map = label_maps(outputs, size)[0]
        else:  # EoMT's image processor cuts a photo into overlapping patches, which it alone can join
            label_map = image_processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
    return label_map.cpu().numpy().astype(np.uint8 if model.config.num_labels <= 256 else np.uint16)
