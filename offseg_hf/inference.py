"""From photos to label maps, with any semantic-segmentation model of transformers."""

from pathlib import Path

import numpy as np
import torch
from transformers import (
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
    AutoConfig,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)

from offseg_hf.models.image_processing_offseg import read_image

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def auto_model_class(config):
    """The Auto class of a configuration's model.

    Args:
        config (`transformers.PreTrainedConfig`): a segmentation model's.

    Returns:
        `type`: `AutoModelForUniversalSegmentation` for models that classify masks, such as Mask2Former, else
        `AutoModelForSemanticSegmentation`.
    """
    universal = "AutoModelForUniversalSegmentation"
    if type(config) in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING or universal in getattr(config, "auto_map", {}):
        return AutoModelForUniversalSegmentation
    return AutoModelForSemanticSegmentation


def load_model(model_name_or_path, trust_remote_code=False):
    """The segmentation model of a folder or Hub id, whether it classifies pixels or masks.

    Args:
        model_name_or_path (`str` or `Path`): the folder or Hub id.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code that comes with the weights.

    Returns:
        [`transformers.PreTrainedModel`]: in evaluation mode.

    Raises:
        OSError, ValueError: where there is none, or transformers cannot load it.
    """
    config = AutoConfig.from_pretrained(model_name_or_path, trust_remote_code=trust_remote_code)
    return auto_model_class(config).from_pretrained(
        model_name_or_path, config=config, trust_remote_code=trust_remote_code
    )


@torch.inference_mode()
def predict_label_map(model, image_processor, image):
    """The class of every pixel of a photo, at the photo's own size.

    The model is put in evaluation mode for the call, and every part of it is left in the mode it was in.

    Args:
        model (`transformers.PreTrainedModel`): a semantic-segmentation model, on any device and in any dtype.
        image_processor (`transformers.BaseImageProcessor`): the model's own, with
            `post_process_semantic_segmentation`.
        image (`PIL.Image.Image`, `str`, `Path`, `bytes` or `np.ndarray`): what
            [`~offseg_hf.models.image_processing_offseg.read_image`] reads.

    Returns:
        `np.ndarray`: class ids of shape (height, width), `uint8` for up to 256 classes, else `uint16`. A model of a
        single class gives 1 for that class and 0 for the background.

    Raises:
        FileNotFoundError, ValueError: if the photo is missing, or no image.
    """
    image = read_image(image)
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        inputs = image_processor(images=image, return_tensors="pt").to(model.device, model.dtype)
        outputs = model(**inputs)
    finally:
        for module in in_training:
            module.training = True
    size = (image.height, image.width)
    label_map = image_processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
    return label_map.cpu().numpy().astype(np.uint8 if model.config.num_labels <= 256 else np.uint16)


def predicted_labels(config):
    """The names of the ids that a model predicts.

    Args:
        config (`transformers.PreTrainedConfig`): the model's configuration.

    Returns:
        `dict[int, str]`: its `id2label`; for a single class, that class as 1 and the background as 0.
    """
    if config.num_labels == 1:
        return {0: "background", 1: config.id2label[0]}
    return dict(config.id2label)


def find_images(source):
    """The image files that a path names.

    Args:
        source (`str` or `Path`): an image file, whatever its suffix, or a folder, of which the files with a suffix of
            an image format are taken, sub-folders and hidden files left out.

    Returns:
        `list[Path]`: at least one file, in the order of their names.

    Raises:
        FileNotFoundError: if there is nothing at `source`, or no image in it.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"`source` must be an image file or a folder of them, and there is no {source}.")
    images = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    images = [path for path in images if not path.name.startswith(".")]
    if not images:
        raise FileNotFoundError(
            f"`source` must hold image files ({', '.join(IMAGE_SUFFIXES)}), and {source} has none: name the folder "
            "that has them, since sub-folders are not searched."
        )
    return images
