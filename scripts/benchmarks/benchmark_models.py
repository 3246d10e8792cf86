"""What a benchmark of OffSeg on SegFormer compares: three models, and each one's way from a photo to a label map.

`offseg` is this package's model, `segformer` [`transformers.SegformerForSemanticSegmentation`] of the same size, and
`literal` OffSeg computed as the paper writes it ([`~literal.literal_form`]). The last two have transformers' own
image processor.
"""

import io

import torch
from literal import PLAIN_LOSS, literal_form
from PIL import Image
from transformers import PreTrainedConfig, SegformerConfig, SegformerForSemanticSegmentation
from transformers.utils import is_torchvision_available

from offseg_hf.data.scenes.scenes import draw_scene
from offseg_hf.models.configuration_offseg import OffSegConfig
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX, OffSegImageProcessor
from offseg_hf.models.modeling_offseg import OffSegForSemanticSegmentation

if is_torchvision_available():
    from transformers import SegformerImageProcessor
else:
    from transformers import SegformerImageProcessorPil as SegformerImageProcessor

MODELS = ("offseg", "segformer", "literal")
IMAGE_PROCESSORS = {
    "offseg": OffSegImageProcessor,
    "segformer": SegformerImageProcessor,
    "literal": SegformerImageProcessor,
}


def checkpoint_config(checkpoint):
    """The configuration of a trained OffSeg model on SegFormer, with the plain cross-entropy as its loss.

    Args:
        checkpoint (`str`): folder or Hub id.

    Returns:
        [`OffSegConfig`]

    Raises:
        ValueError: where it is another model.
        OSError: where there is none.
    """
    model_type = PreTrainedConfig.get_config_dict(checkpoint)[0].get("model_type")
    if model_type != OffSegConfig.model_type:
        raise ValueError(
            f"`checkpoint` must hold an OffSeg model on SegFormer, got {model_type!r} in {checkpoint}; name another."
        )
    return OffSegConfig.from_pretrained(checkpoint, **PLAIN_LOSS)


def segformer_config(config, decoder_size=None):
    """The configuration of transformers' SegFormer of the same size.

    Args:
        config ([`OffSegConfig`]): OffSeg's.
        decoder_size (`int`, *optional*): channels of its decoder; by default those of the released checkpoints, 256
            for B0 and B1 and 768 for the deeper ones (https://huggingface.co/nvidia/segformer-b2-finetuned-ade-512-512).

    Returns:
        [`transformers.SegformerConfig`]
    """
    encoder = ("num_encoder_blocks", "depths", "sr_ratios", "hidden_sizes", "num_attention_heads", "mlp_ratios")
    return SegformerConfig(
        **{name: getattr(config, name) for name in encoder},
        decoder_hidden_size=decoder_size or (768 if sum(config.depths) > 8 else 256),
        num_labels=config.num_labels,
    )


def create_model(name, config, checkpoint=None, device="cpu", segformer_decoder_size=None):
    """One of the compared models.

    Args:
        name (`str`): one of `MODELS`.
        config ([`OffSegConfig`]): OffSeg's configuration, from which that of `"segformer"` follows.
        checkpoint (`str`, *optional*): folder or Hub id of OffSeg's weights, also in its literal form; by default, and
            for `"segformer"`, they are random.
        device (`str`, *optional*, defaults to `"cpu"`): where to.
        segformer_decoder_size (`int`, *optional*): see [`segformer_config`].

    Returns:
        `torch.nn.Module`: in float32, in evaluation mode.
    """
    torch.manual_seed(0)
    if name == "segformer":
        model = SegformerForSemanticSegmentation(segformer_config(config, segformer_decoder_size))
    elif checkpoint is not None:
        model = OffSegForSemanticSegmentation.from_pretrained(checkpoint, config=config, dtype=torch.float32)
    else:
        model = OffSegForSemanticSegmentation(config)
    return (literal_form(model) if name == "literal" else model).eval().to(device)


def photo_file(size):
    """A photo as a file.

    Args:
        size (`tuple[int, int]`): height and width in pixels, at least 32 each.

    Returns:
        `bytes`: a JPEG of quality 92, of a drawn street scene.
    """
    file = io.BytesIO()
    draw_scene(0, size)[0].save(file, "JPEG", quality=92)
    return file.getvalue()


def scene_batch(batch_size, size, num_labels):
    """Drawn street scenes, to train on.

    Args:
        batch_size (`int`): number of scenes.
        size (`tuple[int, int]`): height and width in pixels, at least 32 each.
        num_labels (`int`): number of classes; ids beyond are taken modulo their number.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: `pixel_values` (batch_size, 3, height, width), float32, and `labels`
        (batch_size, height, width), int64.
    """
    photos, masks = zip(*(draw_scene(seed, size) for seed in range(batch_size)))
    batch = OffSegImageProcessor(do_resize=False)(list(photos), list(masks), return_tensors="pt")
    labels = batch["labels"]
    return batch["pixel_values"], (labels % max(num_labels, 2)).where(labels != IGNORE_INDEX, IGNORE_INDEX)


def photo_path(name, model, device, dtype):
    """The way from a file's bytes to a label map.

    Args:
        name (`str`): one of `MODELS`, which decides whose image processor is used.
        model (`callable`): the model, on the device and in the dtype.
        device (`str`): the device.
        dtype (`torch.dtype`): the dtype.

    Returns:
        `callable`: takes the bytes, the size that the model sees and that of the label map, both (height, width);
        returns the label map (height, width), on the CPU.
    """
    image_processor = IMAGE_PROCESSORS[name]()

    @torch.inference_mode()
    def run(file, size, map_size):
        image = Image.open(io.BytesIO(file))
        inputs = image_processor(image, size={"height": size[0], "width": size[1]}, return_tensors="pt")
        outputs = model(inputs["pixel_values"].to(device, dtype))
        return image_processor.post_process_semantic_segmentation(outputs, target_sizes=[map_size])[0].cpu()

    return run


def training_step(model, device, dtype):
    """A step of training: forward, loss at the labels' resolution, backward, AdamW.

    Args:
        model (`torch.nn.Module`): the model, in float32 and in training mode.
        device (`str`): the device.
        dtype (`torch.dtype`): that of autocast; `torch.float32` for none.

    Returns:
        `callable`: takes `pixel_values` and `labels`, returns the loss.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-5, weight_decay=0.01)

    def run(pixel_values, labels):
        optimizer.zero_grad()
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype != torch.float32):
            loss = model(pixel_values=pixel_values.to(device), labels=labels.to(device)).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def border_cells(logits):
    """Counts the cells of a label map that share an edge with a cell of another class.

    Args:
        logits (`torch.Tensor` of shape `(1, K, height, width)`): logits, at their own resolution.

    Returns:
        `int`: from 0 to height · width.
    """
    classes = (logits.argmax(dim=1) if logits.shape[1] > 1 else logits[:, 0] > 0)[0]
    is_border = torch.zeros_like(classes, dtype=torch.bool)
    for border, cells in ((is_border, classes), (is_border.T, classes.T)):
        differs = cells[1:] != cells[:-1]
        border[1:] |= differs
        border[:-1] |= differs
    return int(is_border.sum())
