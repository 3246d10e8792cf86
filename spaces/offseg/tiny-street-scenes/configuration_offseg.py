"""Configuration of SegFormer with offset learning."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, SegformerConfig

from .configuration_fields import OffsetLearningFields


@strict
class OffSegConfig(OffsetLearningFields, SegformerConfig):
    """Configuration of [`OffSegForSemanticSegmentation`]; the defaults are those of OffSeg on SegFormer-B0.

    All fields of [`transformers.SegformerConfig`] are kept, but `classifier_dropout_prob` is not used (the paper's
    models never apply their dropout), and `layer_norm_eps` is honoured by the encoder, as not by `SegformerModel`.
    Those of [`OffsetLearningFields`] say how classes are learned.

    Args:
        decoder_hidden_size (`int`, *optional*, defaults to 256):
            Channels of the decode head, for every size B0–B5.

    Raises:
        ValueError: where `num_labels` and `id2label` disagree.
        huggingface_hub.errors.StrictDataclassError: where a field has the wrong type, or fields contradict each other.

    Example:

    ```python
    >>> from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation

    >>> model = OffSegForSemanticSegmentation(OffSegConfig(num_labels=11))
    ```"""

    model_type = "offseg"

    decoder_hidden_size: int = 256

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> PreTrainedConfig:
        """As `PreTrainedConfig.from_dict`, of a plain SegFormer's configuration too."""
        if config_dict.get("model_type") == SegformerConfig.model_type:
            foreign = {"model_type", "decoder_hidden_size"}  # 768 for B2 to B5 there, 256 for every size here
            config_dict = {name: value for name, value in config_dict.items() if name not in foreign}
        return super().from_dict(config_dict, **kwargs)

    def validate_architecture(self) -> None:
        """Raises a `ValueError` where fields contradict each other."""
        per_stage = (
            "depths",
            "sr_ratios",
            "hidden_sizes",
            "patch_sizes",
            "strides",
            "num_attention_heads",
            "mlp_ratios",
        )
        for name in per_stage:
            if len(getattr(self, name)) != self.num_encoder_blocks:
                raise ValueError(
                    f"`{name}` must have one entry for each of the {self.num_encoder_blocks} encoder stages "
                    f"(`num_encoder_blocks`), got {getattr(self, name)}."
                )
        for width, heads in zip(self.hidden_sizes, self.num_attention_heads):
            if width % heads:
                raise ValueError(
                    "`hidden_sizes` must be divisible by `num_attention_heads` stage by stage, got a width of "
                    f"{width} for {heads} heads."
                )
        if not self.reshape_last_stage:
            raise ValueError("`reshape_last_stage` must be True, since the decode head reads a map from every stage.")
