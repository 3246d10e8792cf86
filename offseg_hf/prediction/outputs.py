"""What a model returns for photos, however small they are."""

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from offseg_hf.models.small_images import LEAST_SIDE, crop_logits, pad_small_images


def model_outputs(model: PreTrainedModel, **inputs: torch.Tensor) -> ModelOutput:
    """What a model returns for photos; transformers' SegFormer, which needs 32 pixels a side, for smaller ones too.

    Args:
        model (`transformers.PreTrainedModel`): a segmentation model.
        inputs (`torch.Tensor`): `pixel_values` of shape `(batch_size, 3, height, width)`, and what else the image
            processor gives; put on the model's device, and floats in its dtype.

    Returns:
        `transformers.utils.ModelOutput`: with `logits` of the photos alone where they were padded.
    """
    inputs = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }
    size = tuple(inputs["pixel_values"].shape[-2:])
    inner = getattr(model.config, "base_config", model.config)
    if inner.model_type != "segformer" or min(size) >= LEAST_SIDE:
        return model(**inputs)
    padded = pad_small_images(inputs["pixel_values"])
    outputs = model(**{**inputs, "pixel_values": padded})
    outputs["logits"] = crop_logits(outputs["logits"], size, tuple(padded.shape[-2:]))
    return outputs
