"""The published variants: name → architecture, parameters, the paper's figures.

`segformer-b*` are transformers' own SegFormer of these sizes, to compare with.
"""

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

import offseg_hf.registration  # noqa: F401  so that AutoConfig knows this package's configurations


@dataclass(frozen=True)
class Variant:
    """One published model, with the figures of arXiv 2508.08811 (single scale), `None` where it has none.

    Args:
        model_type (`str`): `model_type` of its configuration.
        config (`dict`): the fields of that configuration that make the architecture.
        parameters (`int`): number of parameters for 150 classes.
        gflops (`float`, *optional*): multiply-adds at 512×512 pixels for 150 classes, in 10⁹.
        ade20k (`float`, *optional*): mIoU on ADE20K, in percent.
        cityscapes (`float`, *optional*): mIoU on Cityscapes, in percent.
        coco_stuff (`float`, *optional*): mIoU on COCO-Stuff-164K, in percent.
        pascal_context (`float`, *optional*): mIoU on Pascal Context, in percent.
        source (`str`): the paper of the architecture that offset learning, if any, was put on.
    """

    model_type: str
    config: dict
    parameters: int
    gflops: float | None
    ade20k: float | None
    cityscapes: float | None
    coco_stuff: float | None
    pascal_context: float | None
    source: str


_SEGFORMER = "arXiv 2105.15203"
_SEGNEXT = "arXiv 2209.08575"
_EFFICIENTFORMER_V2 = "arXiv 2212.08059"
_MASK2FORMER = "arXiv 2112.01527"

_B0 = {"hidden_sizes": (32, 64, 160, 256), "depths": (2, 2, 2, 2)}
_B1 = {"hidden_sizes": (64, 128, 320, 512), "depths": (2, 2, 2, 2)}
_B2 = {"hidden_sizes": (64, 128, 320, 512), "depths": (3, 4, 6, 3)}
_B3 = {"hidden_sizes": (64, 128, 320, 512), "depths": (3, 4, 18, 3)}
_B4 = {"hidden_sizes": (64, 128, 320, 512), "depths": (3, 8, 27, 3)}
_B5 = {"hidden_sizes": (64, 128, 320, 512), "depths": (3, 6, 40, 3)}

_SEGNEXT_T = {"hidden_sizes": (32, 64, 160, 256), "depths": (3, 3, 5, 2), "decoder_hidden_size": 256}
_SEGNEXT_S = {"hidden_sizes": (64, 128, 320, 512), "depths": (2, 2, 4, 2), "decoder_hidden_size": 256}
_SEGNEXT_B = {"hidden_sizes": (64, 128, 320, 512), "depths": (3, 3, 12, 3), "decoder_hidden_size": 512}

_T = {
    "hidden_sizes": (32, 48, 120, 224),
    "depths": (3, 3, 9, 6),
    "num_attention_blocks": 2,
    "mlp_ratios": ((4,) * 3, (4,) * 3, (4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4)),
    "drop_path_rate": 0.0,
    "neck_hidden_sizes": (32, 32, 64, 128),
}
_B = {
    "hidden_sizes": (32, 64, 144, 288),
    "depths": (4, 4, 12, 8),
    "num_attention_blocks": 4,
    "mlp_ratios": ((4,) * 4, (4,) * 4, (4, 4, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4), (4, 4, 3, 3, 3, 3, 4, 4)),
    "drop_path_rate": 0.02,
    "neck_hidden_sizes": (32, 64, 128, 256),
}
_L = {
    "hidden_sizes": (40, 80, 192, 384),
    "depths": (5, 5, 15, 10),
    "num_attention_blocks": 6,
    "mlp_ratios": ((4,) * 5, (4,) * 5, (4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4), (4, 4, 4, 3, 3, 3, 3, 4, 4, 4)),
    "drop_path_rate": 0.1,
    "neck_hidden_sizes": (32, 64, 128, 256),
}

_SWIN_T = {
    "backbone_config": {
        "model_type": "swin",
        "embed_dim": 96,
        "depths": (2, 2, 6, 2),
        "num_heads": (3, 6, 12, 24),
        "window_size": 7,
        "drop_path_rate": 0.3,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
}

# After the parameters: GFLOPs; mIoU on ADE20K, Cityscapes, COCO-Stuff, Pascal Context.
VARIANTS = {
    "offseg-b0": Variant("offseg", _B0, 3_884_940, 8.8, 40.1, None, 38.3, None, _SEGFORMER),
    "offseg-b1": Variant("offseg", _B1, 13_848_044, 16.3, 43.7, None, 41.9, None, _SEGFORMER),
    "offseg-b2": Variant("offseg", _B2, 24_892_908, 26.1, 47.3, None, 45.2, None, _SEGFORMER),
    "offseg-b3": Variant("offseg", _B3, 44_768_748, 42.8, 49.5, None, 46.3, None, _SEGFORMER),
    "offseg-b4": Variant("offseg", _B4, 61_539_308, 59.5, 50.1, None, 47.0, None, _SEGFORMER),
    "offseg-b5": Variant("offseg", _B5, 82_139_628, 75.5, 50.6, None, 47.2, None, _SEGFORMER),
    "offseg-segnext-t": Variant("offseg_segnext", _SEGNEXT_T, 4_394_636, 7.2, 43.0, 80.0, 40.0, 53.2, _SEGNEXT),
    "offseg-segnext-s": Variant("offseg_segnext", _SEGNEXT_S, 14_064_108, 16.5, 45.6, 81.7, 43.5, 55.9, _SEGNEXT),
    "offseg-segnext-b": Variant("offseg_segnext", _SEGNEXT_B, 28_160_748, 34.8, 49.4, 82.8, 45.8, 58.0, _SEGNEXT),
    "offseg-t": Variant("offseg_efficientformer", _T, 6_183_626, 5.3, 44.2, 78.9, 41.9, None, _EFFICIENTFORMER_V2),
    "offseg-b": Variant("offseg_efficientformer", _B, 12_916_850, 10.3, 45.9, 80.5, 44.3, None, _EFFICIENTFORMER_V2),
    "offseg-l": Variant("offseg_efficientformer", _L, 26_375_458, 17.1, 48.5, 81.6, 46.0, None, _EFFICIENTFORMER_V2),
    "offseg-mask2former-t": Variant(
        "offseg_mask2former", _SWIN_T, 47_572_241, None, 50.3, None, None, None, _MASK2FORMER
    ),
    "segformer-b0": Variant("segformer", _B0, 3_752_694, 8.4, 37.4, None, 35.6, None, _SEGFORMER),
    "segformer-b1": Variant("segformer", _B1, 13_715_798, 15.9, 41.0, None, 40.2, None, _SEGFORMER),
    "segformer-b2": Variant("segformer", _B2, 24_760_662, 25.9, 45.6, None, 44.6, None, _SEGFORMER),
    "segformer-b3": Variant("segformer", _B3, 44_636_502, 42.5, 47.8, None, 45.5, None, _SEGFORMER),
    "segformer-b4": Variant("segformer", _B4, 61_407_062, 59.2, 48.5, None, 46.5, None, _SEGFORMER),
    "segformer-b5": Variant("segformer", _B5, 82_007_382, 75.2, 49.1, None, 46.7, None, _SEGFORMER),
}


def variant_config(variant: str, **overrides: Any) -> PreTrainedConfig:
    """Configuration of a published variant.

    Args:
        variant (`str`): a key of `VARIANTS`, such as `"offseg-b0"`.
        **overrides: fields of the configuration to set otherwise, such as `num_labels` or `id2label`.

    Returns:
        [`transformers.PreTrainedConfig`]: the configuration, from which the model can be created.

    Raises:
        ValueError: where there is no such variant.

    Example:

    ```python
    >>> from offseg_hf import OffSegForSemanticSegmentation, variant_config

    >>> model = OffSegForSemanticSegmentation(variant_config("offseg-b0", num_labels=19))
    ```"""
    if variant not in VARIANTS:
        raise ValueError(f"`variant` must be one of {', '.join(VARIANTS)}, got {variant!r}.")
    found = VARIANTS[variant]
    return AutoConfig.for_model(found.model_type, **{**found.config, **overrides})
