"""Tiny models of every family, in folders, for the tests of the Space."""

import torch
from transformers import Mask2FormerImageProcessorPil, SegformerConfig, SegformerForSemanticSegmentation

from offseg_hf import (
    MobileNetV2BackboneConfig,
    OffSegBackboneConfig,
    OffSegBackboneForSemanticSegmentation,
    OffSegConfig,
    OffSegEfficientFormerConfig,
    OffSegEfficientFormerForSemanticSegmentation,
    OffSegForSemanticSegmentation,
    OffSegImageProcessor,
    OffSegMask2FormerConfig,
    OffSegMask2FormerForUniversalSegmentation,
    OffSegSegNextConfig,
    OffSegSegNextForSemanticSegmentation,
    OffsetLearningForSemanticSegmentation,
)

MIT = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
}


def offseg(num_labels):
    return OffSegForSemanticSegmentation(OffSegConfig(**MIT, num_labels=num_labels))


def segformer(num_labels):
    return SegformerForSemanticSegmentation(SegformerConfig(**MIT, num_labels=num_labels))


def segnext(num_labels):
    sizes = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "decoder_hidden_size": 16, "num_groups": 4}
    return OffSegSegNextForSemanticSegmentation(OffSegSegNextConfig(**sizes, nmf_rank=4, num_labels=num_labels))


def efficientformer(num_labels):
    config = OffSegEfficientFormerConfig(
        hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1), mlp_ratios=((2,),) * 4, num_attention_blocks=1,
        num_attention_heads=2, key_dim=4, value_dim=8, downsample_key_dim=4, downsample_value_dim=8,
        attention_grid_size=4, neck_hidden_sizes=(32,) * 4, decoder_hidden_size=16, num_groups=4,
        num_labels=num_labels,
    )  # fmt: skip
    return OffSegEfficientFormerForSemanticSegmentation(config)


def mobilenet(num_labels):
    backbone_config = MobileNetV2BackboneConfig(
        depth_multiplier=0.25, out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = OffSegBackboneConfig(backbone_config=backbone_config, decoder_hidden_size=16, num_labels=num_labels)
    model = OffSegBackboneForSemanticSegmentation(config).train()
    with torch.no_grad():  # statistics of some images, so that more than one class is found
        for _ in range(20):
            model(torch.randn(4, 3, 64, 64))
        logits = model.eval()(torch.randn(4, 3, 64, 64)).logits
        model.decode_head.offset_learning.mask_norm.bias -= logits.mean((0, 2, 3))
    return model


def wrapper(num_labels):
    return OffsetLearningForSemanticSegmentation.from_base(segformer(num_labels))


def mask2former(num_labels):
    swin = {"model_type": "swin", "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2], "window_size": 4}
    config = OffSegMask2FormerConfig(
        backbone_config=swin | {"out_features": [f"stage{stage}" for stage in range(1, 5)]},
        feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16, dim_feedforward=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=5, num_labels=num_labels,
    )  # fmt: skip
    return OffSegMask2FormerForUniversalSegmentation(config)


PER_PIXEL = (offseg, segnext, efficientformer, mobilenet, wrapper)


def saved(make_model, folder, num_labels=4):
    """A folder with a model whose answers vary from pixel to pixel."""
    torch.manual_seed(0)
    model = make_model(num_labels)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.5 if "offset_proj" in name else 0.2)
    model.save_pretrained(folder)
    processor_class = Mask2FormerImageProcessorPil if make_model is mask2former else OffSegImageProcessor
    processor_class(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder
