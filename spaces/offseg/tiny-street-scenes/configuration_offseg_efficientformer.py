"""Configuration of the paper's own network: EfficientFormerV2, FreqFusion and offset learning."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from .configuration_fields import OffsetLearningFields


@strict
class OffSegEfficientFormerConfig(OffsetLearningFields, BackboneConfigMixin, PreTrainedConfig):
    """Configuration of [`OffSegEfficientFormerForSemanticSegmentation`], and of its encoder
    [`EfficientFormerV2Backbone`] when used alone; the defaults are those of OffSeg-T.

    The fields of [`OffsetLearningFields`] say how classes are learned. Four stages, at 1/4, 1/8, 1/16 and 1/32 of the
    image; lists have one entry for each.

    Args:
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the images.
        hidden_sizes (`list[int]`, *optional*, defaults to `(32, 48, 120, 224)`):
            Channels of the encoder's stages.
        depths (`list[int]`, *optional*, defaults to `(3, 3, 9, 6)`):
            Blocks of the encoder's stages.
        num_attention_blocks (`int`, *optional*, defaults to 2):
            How many of the last blocks of stages 3 and 4, each, have attention.
        mlp_ratios (`list[list[int]]`, *optional*, defaults to OffSeg-T's):
            Hidden width over width of each block's MLP, stage by stage.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Heads of every attention.
        key_dim (`int`, *optional*, defaults to 32):
            Channels of queries and keys per head.
        value_dim (`int`, *optional*, defaults to 128):
            Channels of values per head.
        downsample_key_dim (`int`, *optional*, defaults to 16):
            As `key_dim`, in the attention between stages 3 and 4.
        downsample_value_dim (`int`, *optional*, defaults to 64):
            As `value_dim`, in the attention between stages 3 and 4.
        attention_grid_size (`int`, *optional*, defaults to 16):
            Side of the grid for which attention biases are learned, at 1/32 of the image: 16 for images of 512×512.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth of the last block; grows linearly from 0 at the first.
        layer_scale_init_value (`float`, *optional*, defaults to 1e-05):
            Start of the scales of the residual branches.
        freeze_batch_norm (`bool`, *optional*, defaults to `True`):
            Whether the encoder's BatchNorms use their running statistics in training too, and so leave them as they
            are, as the authors do with pretrained ones; their weights and biases are trained either way. Where not
            frozen, gradient checkpointing, which runs a block twice, moves the statistics twice in a step.
        neck_hidden_sizes (`list[int]`, *optional*, defaults to `(32, 32, 64, 128)`):
            Channels to which the stages are brought before they are fused.
        decoder_hidden_size (`int`, *optional*, defaults to 256):
            Channels of the features to classify.
        num_groups (`int`, *optional*, defaults to 32):
            Groups of the GroupNorm layers before and after the fusion.
        out_features (`list[str]`, *optional*, defaults to `["stage4"]`):
            Maps that the encoder returns when used alone, of `"stem"`, `"stage1"` … `"stage4"`.
        out_indices (`list[int]`, *optional*, defaults to `[4]`):
            The same by number.

    Raises:
        ValueError: where `num_labels` and `id2label` disagree, or `out_features` and `out_indices` do.
        huggingface_hub.errors.StrictDataclassError: where a field has the wrong type, or fields contradict each other.

    Example:

    ```python
    >>> from offseg_hf import OffSegEfficientFormerConfig, OffSegEfficientFormerForSemanticSegmentation

    >>> model = OffSegEfficientFormerForSemanticSegmentation(OffSegEfficientFormerConfig(num_labels=11))
    ```"""

    model_type = "offseg_efficientformer"

    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (32, 48, 120, 224)
    depths: list[int] | tuple[int, ...] = (3, 3, 9, 6)
    num_attention_blocks: int = 2
    mlp_ratios: list[list[int]] | tuple[tuple[int, ...], ...] = (
        (4, 4, 4),
        (4, 4, 4),
        (4, 4, 3, 3, 3, 3, 4, 4, 4),
        (4, 4, 3, 3, 4, 4),
    )
    num_attention_heads: int = 8
    key_dim: int = 32
    value_dim: int = 128
    downsample_key_dim: int = 16
    downsample_value_dim: int = 64
    attention_grid_size: int = 16
    drop_path_rate: float | int = 0.0
    layer_scale_init_value: float = 1e-5
    freeze_batch_norm: bool = True
    neck_hidden_sizes: list[int] | tuple[int, ...] = (32, 32, 64, 128)
    decoder_hidden_size: int = 256
    num_groups: int = 32
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs) -> None:
        self.stage_names = ["stem", "stage1", "stage2", "stage3", "stage4"]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Raises a `ValueError` where fields contradict each other."""
        for name in ("hidden_sizes", "depths", "neck_hidden_sizes"):
            values = getattr(self, name)
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"`{name}` must have a positive entry for each of the four stages, got {values}.")
        if [len(ratios) for ratios in self.mlp_ratios] != list(self.depths):
            raise ValueError(
                f"`mlp_ratios` must have one entry for each block of each stage (`depths`, {list(self.depths)}), got "
                f"{self.mlp_ratios}."
            )
        if not 0 <= self.num_attention_blocks <= min(self.depths[2:]):
            raise ValueError(
                "`num_attention_blocks` must be between 0 and the blocks that stages 3 and 4 have (`depths`, "
                f"{list(self.depths[2:])}), got {self.num_attention_blocks}."
            )
        for name in (
            "num_attention_heads",
            "key_dim",
            "value_dim",
            "downsample_key_dim",
            "downsample_value_dim",
            "attention_grid_size",
            "num_groups",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.hidden_sizes[0] % 2:
            raise ValueError(
                "`hidden_sizes` must start with an even width, of which the stem's first convolution has half, got "
                f"{self.hidden_sizes[0]}."
            )
        for name, sizes in (
            ("neck_hidden_sizes", self.neck_hidden_sizes),
            ("decoder_hidden_size", [self.decoder_hidden_size]),
        ):
            if any(size % self.num_groups for size in sizes):
                raise ValueError(
                    f"`{name}` must be divisible by `num_groups`, got {getattr(self, name)} in {self.num_groups} "
                    "groups."
                )
        sums = [sum(self.neck_hidden_sizes[i:]) for i in (2, 1, 0)]  # what each fusion compresses to a quarter
        if any(size % 4 for size in self.neck_hidden_sizes) or any(total % 32 for total in sums):
            raise ValueError(
                "`neck_hidden_sizes` must be divisible by 4, and their sums over the last two, the last three and all "
                f"stages by 32, got {list(self.neck_hidden_sizes)} with the sums {sums}; multiples of 32 always fit."
            )
