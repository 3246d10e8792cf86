"""A tiny model of each family, for the tests of what trains them."""

import torch
from transformers import ConvNextV2Config

from offseg_hf import (
    OffSegBackboneConfig,
    OffSegBackboneForSemanticSegmentation,
    OffSegConfig,
    OffSegEfficientFormerConfig,
    OffSegEfficientFormerForSemanticSegmentation,
    OffSegForSemanticSegmentation,
    OffSegMask2FormerConfig,
    OffSegMask2FormerForUniversalSegmentation,
    OffSegSegNextConfig,
    OffSegSegNextForSemanticSegmentation,
)


def tiny_offseg(**fields):
    torch.manual_seed(0)
    architecture = {
        "hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_attention_heads": (1, 1, 2, 2),
        "decoder_hidden_size": 16,
    }  # fmt: skip
    return OffSegForSemanticSegmentation(OffSegConfig(**{**architecture, "num_labels": 4, **fields}))


def tiny_segnext(**fields):
    torch.manual_seed(0)
    architecture = {
        "hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "decoder_hidden_size": 16,
        "num_groups": 4, "nmf_rank": 4, "resample_bases_in_evaluation": False,
    }  # fmt: skip
    return OffSegSegNextForSemanticSegmentation(OffSegSegNextConfig(**{**architecture, "num_labels": 4, **fields}))


def tiny_efficientformer(**fields):
    torch.manual_seed(0)
    architecture = {
        "hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 2, 2), "num_attention_blocks": 1,
        "mlp_ratios": ((2,), (2,), (2, 2), (2, 2)), "num_attention_heads": 2, "key_dim": 4, "value_dim": 8,
        "downsample_key_dim": 4, "downsample_value_dim": 8, "attention_grid_size": 4, "decoder_hidden_size": 16,
        "neck_hidden_sizes": (32, 32, 32, 32), "num_groups": 4,
    }  # fmt: skip
    config = OffSegEfficientFormerConfig(**{**architecture, "num_labels": 4, **fields})
    return OffSegEfficientFormerForSemanticSegmentation(config)


def tiny_backbone_model(backbone_config=None, **fields):
    """OffSeg's head on a backbone, by default a ConvNeXt V2."""
    torch.manual_seed(0)
    if backbone_config is None:
        stages = ["stage1", "stage2", "stage3", "stage4"]
        backbone_config = ConvNextV2Config(depths=[1, 1, 2, 1], hidden_sizes=[8, 8, 16, 16], out_features=stages)
    fields = {"decoder_hidden_size": 16, "num_labels": 4, **fields}
    return OffSegBackboneForSemanticSegmentation(OffSegBackboneConfig(backbone_config=backbone_config, **fields))


def tiny_mask2former(**fields):
    torch.manual_seed(0)
    swin = {"model_type": "swin", "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2], "window_size": 4}
    widths = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward")
    config = OffSegMask2FormerConfig(
        backbone_config={**swin, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        **dict.fromkeys(widths, 32),
        **{"num_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 8},
        **(fields or {"num_labels": 4}),
    )
    return OffSegMask2FormerForUniversalSegmentation(config)
