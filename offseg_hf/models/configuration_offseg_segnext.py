"""Configuration of SegNeXt with offset learning, and of its encoder MSCAN."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from .configuration_fields import OffsetLearningFields


@strict
class OffSegSegNextConfig(OffsetLearningFields, BackboneConfigMixin, PreTrainedConfig):
    """Configuration of [`OffSegSegNextForSemanticSegmentation`] and [`MscanBackbone`]; the defaults are those
    of SegNeXt-T.

    The fields of [`OffsetLearningFields`] say how classes are learned.

    Args:
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the images.
        hidden_sizes (`list[int]`, *optional*, defaults to `(32, 64, 160, 256)`):
            Width of each of the four encoder stages.
        depths (`list[int]`, *optional*, defaults to `(3, 3, 5, 2)`):
            Blocks in each stage.
        mlp_ratios (`list[int]`, *optional*, defaults to `(8, 8, 4, 4)`):
            Width of the MLPs in each stage, as a multiple of the stage's.
        drop_path_rate (`float`, *optional*, defaults to 0.1):
            Probability of dropping the branches of the last block in training; it grows linearly from 0 at the first.
        layer_scale_init_value (`float`, *optional*, defaults to 0.01):
            Start of the learned scales of the blocks' branches.
        decoder_hidden_size (`int`, *optional*, defaults to 256):
            Channels of the decode head, those of the Hamburger included.
        num_groups (`int`, *optional*, defaults to 32):
            Groups of the decode head's GroupNorms.
        nmf_rank (`int`, *optional*, defaults to 16):
            Bases of the matrix factorisation in the Hamburger.
        nmf_train_steps (`int`, *optional*, defaults to 6):
            Updates of coefficients and bases in training.
        nmf_eval_steps (`int`, *optional*, defaults to 7):
            Updates of coefficients and bases in evaluation.
        resample_bases_in_evaluation (`bool`, *optional*, defaults to `False`):
            Whether the factorisation starts from newly drawn bases at every call in evaluation too, as in the authors'
            models; by default evaluation always starts from the same ones.
        out_features (`list[str]`, *optional*, defaults to the last stage):
            Which of `"stem"`, `"stage1"`, …, `"stage4"` [`MscanBackbone`] returns.
        out_indices (`list[int]`, *optional*):
            The same, as positions in that list.

    Raises:
        ValueError: where `num_labels` and `id2label` disagree, or `out_features` and `out_indices`.
        huggingface_hub.errors.StrictDataclassError: where a field has the wrong type, or fields contradict each other.
    """

    model_type = "offseg_segnext"

    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (32, 64, 160, 256)
    depths: list[int] | tuple[int, ...] = (3, 3, 5, 2)
    mlp_ratios: list[int] | tuple[int, ...] = (8, 8, 4, 4)
    drop_path_rate: float | int = 0.1
    layer_scale_init_value: float = 1e-2
    decoder_hidden_size: int = 256
    num_groups: int = 32
    nmf_rank: int = 16
    nmf_train_steps: int = 6
    nmf_eval_steps: int = 7
    resample_bases_in_evaluation: bool = False
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
        for name in ("hidden_sizes", "depths", "mlp_ratios"):
            values = getattr(self, name)
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"`{name}` must have a positive entry for each of the four stages, got {values}.")
        if self.hidden_sizes[0] % 2:
            raise ValueError(
                "`hidden_sizes` must start with an even width, of which the stem's first convolution has half, got "
                f"{self.hidden_sizes[0]}."
            )
        if self.num_groups < 1 or self.decoder_hidden_size % self.num_groups:
            raise ValueError(
                f"`decoder_hidden_size` must be a multiple of `num_groups`, got {self.decoder_hidden_size} channels "
                f"in {self.num_groups} groups."
            )
        if self.nmf_rank < 1:
            raise ValueError(f"`nmf_rank` must be at least 1, got {self.nmf_rank}.")
        for name in ("nmf_train_steps", "nmf_eval_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
