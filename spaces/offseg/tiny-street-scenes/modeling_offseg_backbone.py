"""The head of OffSeg-B0, offset learning included, on any backbone of transformers."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput

from .backbone_efficientformer_v2 import EfficientFormerV2Backbone
from .backbone_efficientnet import EfficientNetBackbone
from .backbone_mobilenet_v2 import MobileNetV2Backbone
from .backbone_mscan import MscanBackbone
from .backbone_timm import is_of_timm, load_timm_backbone, timm_backbone_config
from .configuration_offseg_backbone import OffSegBackboneConfig
from .decode_head import OffSegDecodeHead, in_parts_of_the_batch
from .library_internals import adopt_attention, can_return_tuple, filter_output_hidden_states, install_capturing_hooks
from .offset_learning import ClassBias, LogitLayerNorm, OffsetLearning
from .segmentation_loss import offset_learning_loss

LARGEST_POOLED_STRIDE = 4  # which logits at 8, half the resolution of the finest maps, are enough for
MEASURED_SIZE = 448  # pixels: a multiple of 32, and of 14 as well
OWN_BACKBONES = {
    backbone_class.config_class.model_type: backbone_class
    for backbone_class in (EfficientFormerV2Backbone, EfficientNetBackbone, MobileNetV2Backbone, MscanBackbone)
}


def new_backbone(backbone_config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone with random weights, of this package's or of any that [`transformers.AutoBackbone`] knows."""
    own_class = OWN_BACKBONES.get(backbone_config.model_type)
    return AutoBackbone.from_config(backbone_config) if own_class is None else own_class(backbone_config)


def feature_maps(backbone_config: PreTrainedConfig) -> tuple[list[int], list[int]]:
    """What a backbone puts out, found by a forward pass that computes shapes alone.

    Args:
        backbone_config ([`transformers.PreTrainedConfig`]): the backbone's; its `out_features` name the maps.

    Returns:
        `tuple[list[int], list[int]]`: of each map the stride, in pixels of the image across and down, and the number
        of channels (which `channels` of some backbones does not tell right).

    Raises:
        ValueError: where the backbone takes images of one size alone.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            backbone = new_backbone(backbone_config).eval()
            image = torch.empty(1, getattr(backbone_config, "num_channels", 3), MEASURED_SIZE, MEASURED_SIZE)
            shapes = [one.shape for one in backbone.forward_with_filtered_kwargs(image).feature_maps]
    except (AssertionError, RuntimeError, ValueError) as error:  # timm asserts sizes
        raise ValueError(
            f"`backbone` must take images of any size, got one of type {backbone_config.model_type!r}, which does not "
            f"take {MEASURED_SIZE}×{MEASURED_SIZE} pixels ({error}); choose another, such as ConvNeXt, Swin or DINOv2."
        ) from error
    return [round(MEASURED_SIZE / shape[3]) for shape in shapes], [shape[1] for shape in shapes]


def stages_to_read(backbone_config: PreTrainedConfig) -> list[str]:
    """The feature maps that a head needs: of each resolution from stride 4 on the deepest one.

    Args:
        backbone_config ([`transformers.PreTrainedConfig`]): the backbone's, which is left as it is.

    Returns:
        `list[str]`: names among its `stage_names`; of a plain vision transformer the last alone.
    """
    everything = type(backbone_config).from_dict(backbone_config.to_dict())
    everything.out_features = list(everything.stage_names)
    deepest = dict(zip(feature_maps(everything)[0], everything.stage_names))
    return [name for stride, name in deepest.items() if stride >= 4]


class FeaturePyramid(nn.Module):
    """A map of one stride → maps of half that stride, of itself and of twice that (arXiv 2203.16527, section 3)."""

    def __init__(self, channels: int):
        super().__init__()
        self.upsampling = nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2)
        self.hidden_sizes = [channels // 2, channels, channels]

    def forward(self, hidden_state: torch.Tensor) -> list[torch.Tensor]:
        return [F.gelu(self.upsampling(hidden_state)), hidden_state, F.max_pool2d(hidden_state, kernel_size=2)]


class OffSegBackboneForSemanticSegmentation(PreTrainedModel):
    """Any backbone with offset learning: image → class logits at an eighth of its resolution, in most cases.

    The head is that of OffSeg-B0 on the feature maps that the backbone's configuration names. It fuses them at the
    finest stride, which is pooled once where it is 4. Maps that all have one stride, as of plain vision
    transformers, are concatenated, and [`FeaturePyramid`] makes two more resolutions of them.

    Args:
        config ([`OffSegBackboneConfig`]): the backbone's configuration, and the head's.
        backbone ([`transformers.PreTrainedModel`], *optional*): the backbone itself, of that configuration; by default
            a new one with random weights.

    Raises:
        ValueError: where the backbone takes images of one size alone, or has maps of one stride, which is odd.

    Example:

    ```python
    >>> from offseg_hf import OffSegBackboneForSemanticSegmentation

    >>> model = OffSegBackboneForSemanticSegmentation.from_backbone(
    ...     "facebook/convnext-tiny-224", id2label={0: "road", 1: "car", 2: "sky"}
    ... )
    ```"""

    config: OffSegBackboneConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # The loss is a mean over the batch; it must be divided by the number of accumulation steps like any other.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _no_split_modules = ["OffSegFusion", "OffsetLearning"]
    # There is no attention in the head; the backbone has its own say.
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: OffSegBackboneConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        self.backbone = new_backbone(config.backbone_config) if backbone is None else backbone
        config.backbone_config = self.backbone.config
        adopt_attention(config, self.backbone.config)
        install_capturing_hooks(self.backbone)
        for name, parameter in self.backbone.named_parameters():
            if name.endswith("mask_token"):  # of pre-training, where some patches are hidden
                parameter.requires_grad_(False)
        strides, hidden_sizes = feature_maps(config.backbone_config)
        self.pyramid = None
        if len({*strides}) == 1:
            if strides[0] % 2:
                raise ValueError(
                    "`backbone_config` must have maps of several strides, or of one that is even, got maps of stride "
                    f"{strides[0]} alone; choose another `out_features` or another patch size."
                )
            self.pyramid = FeaturePyramid(sum(hidden_sizes))
            hidden_sizes = self.pyramid.hidden_sizes
            strides = [strides[0] // 2, strides[0], 2 * strides[0]]
        pools = strides[0] <= LARGEST_POOLED_STRIDE
        self.stride, self.coarsest_stride = strides[0] * (2 if pools else 1), strides[-1]
        self.decode_head = OffSegDecodeHead(config, hidden_sizes, pools)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, (OffsetLearning, ClassBias, LogitLayerNorm)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike,
        dtype: torch.dtype = torch.float32,
        **fields: Any,
    ) -> "OffSegBackboneForSemanticSegmentation":
        """A model to train, whose encoder starts from given weights and whose head starts at random.

        Args:
            backbone (`str` or `os.PathLike`): folder or Hub id of the weights, of a type that
                [`transformers.AutoBackbone`] knows, with a head of another kind or without; or of timm's, where timm
                is installed.
            dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): of the whole model.
            **fields: of [`OffSegBackboneConfig`]: `id2label`, `decoder_hidden_size`, …

        Returns:
            [`OffSegBackboneForSemanticSegmentation`]: in evaluation mode.

        Raises:
            OSError: where there are no such weights.
            ValueError: where they are of a type without a backbone, or lack parts of it, or are timm's and it is not
                installed, does not have the network, or builds it with arguments.
        """
        stored, _ = PreTrainedConfig.get_config_dict(backbone)
        is_timm = is_of_timm(stored)
        backbone_config = timm_backbone_config(backbone, stored) if is_timm else AutoConfig.from_pretrained(backbone)
        if type(backbone_config) not in MODEL_FOR_BACKBONE_MAPPING:
            raise ValueError(
                "`backbone` must be of a type that AutoBackbone knows, such as ConvNeXt, Swin, ResNet or "
                f"DINOv2, got {backbone} of type {backbone_config.model_type!r}; choose another."
            )
        # The class itself, since `AutoBackbone.from_pretrained` asks the Hub about folders too.
        backbone_class = MODEL_FOR_BACKBONE_MAPPING[type(backbone_config)]
        if type(backbone_config) is not backbone_class.config_class:  # a native model's, without stages
            backbone_config = backbone_class.config_class.from_pretrained(backbone)
        backbone_config.out_features = stages_to_read(backbone_config)
        load = load_timm_backbone if is_timm else backbone_class.from_pretrained
        encoder, report = load(backbone, config=backbone_config, dtype=dtype, output_loading_info=True)
        # Some backbones add a norm for each map, which starts as it should.
        added = ("hidden_states_norms.", "num_batches_tracked")
        unfilled = sorted(name for name in report["missing_keys"] if not any(part in name for part in added))
        unfilled += [name for name, *_ in report["mismatched_keys"]]
        if unfilled:
            raise ValueError(
                f"`backbone` must hold all weights of a {backbone_class.__name__}, but in "
                f"{backbone} {len(unfilled)} are missing or misshapen, such as {unfilled[0]}; choose another."
            )
        return cls(OffSegBackboneConfig(backbone_config=encoder.config, **fields), encoder).to(dtype).eval()

    @in_parts_of_the_batch
    @can_return_tuple
    @filter_output_hidden_states
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> SemanticSegmenterOutput:
        """Segments a batch of images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): normalised images of
                any size; inside, zeros at the bottom and right make it a multiple of the coarsest stride.
            labels (`torch.Tensor` of shape `(batch_size, label_height, label_width)`, *optional*): class ids in
                [0, `config.num_labels`), or `config.semantic_loss_ignore_index`, at any resolution.
            output_hidden_states (`bool`, *optional*): whether to return the backbone's feature maps, of the padded
                image.
            output_attentions (`bool`, *optional*): whether to return the backbone's attention weights, where it has
                any, of the padded image.
            return_dict (`bool`, *optional*): `False` for a plain tuple.

        Returns:
            [`transformers.modeling_outputs.SemanticSegmenterOutput`]: `logits` of shape
            `(batch_size, config.num_labels, ⌈height / 8⌉, ⌈width / 8⌉)`, with a finest stride of 4 or 8, else at the
            finest stride (for plain vision transformers half theirs); and `loss`, a scalar, if `labels` are given.

        Raises:
            ValueError: where `labels` are not class ids.
        """
        height, width = pixel_values.shape[2:]
        # Sizes as multiples and a crop as negative padding are what torch.export can follow for any size.
        multiple, stride = self.coarsest_stride, self.stride
        padded = (height + multiple - 1) // multiple * multiple, (width + multiple - 1) // multiple * multiple
        pixel_values = F.pad(pixel_values, (0, padded[1] - width, 0, padded[0] - height))
        if not torch.compiler.is_compiling():  # which chooses layouts itself, and cannot export this one at any size
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        kwargs = {name: value for name, value in kwargs.items() if name not in ("output_hidden_states", "return_dict")}
        outputs = self.backbone.forward_with_filtered_kwargs(pixel_values, return_dict=True, **kwargs)
        logits, features = self.decode_head(self._pyramid(outputs.feature_maps))
        margin = (
            *(0, (width + stride - 1) // stride - logits.shape[3]),
            *(0, (height + stride - 1) // stride - logits.shape[2]),
        )
        logits = F.pad(logits, margin)
        loss = None
        if labels is not None:
            layer, features = self.decode_head.offset_learning, F.pad(features, margin)
            loss = offset_learning_loss(layer, features, logits, labels, self.config)
        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=tuple(outputs.feature_maps), attentions=outputs.attentions
        )

    def _pyramid(self, maps: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return maps if self.pyramid is None else self.pyramid(torch.cat(tuple(maps), dim=1))
