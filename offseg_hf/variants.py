"""The published variants: name → architecture, parameters, the paper's figures.

Figures are those of arXiv 2508.08811. `segformer-b*` are transformers' own SegFormer of these sizes, to compare with.
"""

from dataclasses import dataclass

from transformers import AutoConfig, PreTrainedConfig


@dataclass(frozen=True)
class Variant:
    """One published model.

    Args:
        model_type (`str`): `model_type` of its configuration.
        hidden_sizes (`tuple[int, ...]`): widths of the encoder's stages.
        depths (`tuple[int, ...]`): blocks of the encoder's stages.
        parameters (`int`): number of parameters for 150 classes.
        gflops (`float`): the paper's multiply-adds at 512×512 pixels, in 10⁹.
        ade20k (`float`): the paper's mIoU on ADE20K, in percent, single scale.
        coco_stuff (`float`): the paper's mIoU on COCO-Stuff-164K, in percent, single scale.
    """

    model_type: str
    hidden_sizes: tuple[int, ...]
    depths: tuple[int, ...]
    parameters: int
    gflops: float
    ade20k: float
    coco_stuff: float


_B0 = (32, 64, 160, 256)
_B1_TO_B5 = (64, 128, 320, 512)

VARIANTS = {
    "offseg-b0": Variant("offseg", _B0, (2, 2, 2, 2), 3_884_940, 8.8, 40.1, 38.3),
    "offseg-b1": Variant("offseg", _B1_TO_B5, (2, 2, 2, 2), 13_848_044, 16.3, 43.7, 41.9),
    "offseg-b2": Variant("offseg", _B1_TO_B5, (3, 4, 6, 3), 24_892_908, 26.1, 47.3, 45.2),
    "offseg-b3": Variant("offseg", _B1_TO_B5, (3, 4, 18, 3), 44_768_748, 42.8, 49.5, 46.3),
    "offseg-b4": Variant("offseg", _B1_TO_B5, (3, 8, 27, 3), 61_539_308, 59.5, 50.1, 47.0),
    "offseg-b5": Variant("offseg", _B1_TO_B5, (3, 6, 40, 3), 82_139_628, 75.5, 50.6, 47.2),
    "segformer-b0": Variant("segformer", _B0, (2, 2, 2, 2), 3_752_694, 8.4, 37.4, 35.6),
    "segformer-b1": Variant("segformer", _B1_TO_B5, (2, 2, 2, 2), 13_715_798, 15.9, 41.0, 40.2),
    "segformer-b2": Variant("segformer", _B1_TO_B5, (3, 4, 6, 3), 24_760_662, 25.9, 45.6, 44.6),
    "segformer-b3": Variant("segformer", _B1_TO_B5, (3, 4, 18, 3), 44_636_502, 42.5, 47.8, 45.5),
    "segformer-b4": Variant("segformer", _B1_TO_B5, (3, 8, 27, 3), 61_407_062, 59.2, 48.5, 46.5),
    "segformer-b5": Variant("segformer", _B1_TO_B5, (3, 6, 40, 3), 82_007_382, 75.2, 49.1, 46.7),
}


def variant_config(name: str, **overrides) -> PreTrainedConfig:
    """Configuration of a published variant.

    Args:
        name (`str`): a key of `VARIANTS`, such as `"offseg-b0"`.
        **overrides: fields of the configuration to set otherwise, such as `num_labels` or `id2label`.

    Returns:
        [`transformers.PreTrainedConfig`]: the configuration, from which the model can be created.

    Raises:
        ValueError: where `name` is not a variant.

    Example:

    ```python
    >>> from offseg_hf import OffSegForSemanticSegmentation, variant_config

    >>> model = OffSegForSemanticSegmentation(variant_config("offseg-b0", num_labels=19))
    ```"""
    if name not in VARIANTS:
        raise ValueError(f"`name` must be one of {', '.join(VARIANTS)}, got {name!r}.")
    variant = VARIANTS[name]
    architecture = {"hidden_sizes": variant.hidden_sizes, "depths": variant.depths}
    return AutoConfig.for_model(variant.model_type, **{**architecture, **overrides})
