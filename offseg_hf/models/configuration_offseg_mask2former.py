"""Configuration of Mask2Former with offset learning."""

from huggingface_hub.dataclasses import strict
from transformers import Mask2FormerConfig, PreTrainedConfig

from .configuration_fields import LabelledClasses


@strict
class OffSegMask2FormerConfig(LabelledClasses, Mask2FormerConfig):
    """Configuration of [`OffSegMask2FormerForUniversalSegmentation`]: that of Mask2Former, encoder included.

    All fields are those of [`transformers.Mask2FormerConfig`]. `ignore_value`, the label of the pixels that belong to
    no segment, can also be set and read as `semantic_loss_ignore_index`, its name in this package's other models.

    Raises:
        ValueError: where `num_labels` and `id2label` disagree.
        huggingface_hub.errors.StrictDataclassError: where a field has the wrong type, or fields contradict each other.

    Example:

    ```python
    >>> from offseg_hf import OffSegMask2FormerConfig, OffSegMask2FormerForUniversalSegmentation

    >>> model = OffSegMask2FormerForUniversalSegmentation(OffSegMask2FormerConfig(num_labels=19))
    ```"""

    model_type = "offseg_mask2former"
    attribute_map = {**Mask2FormerConfig.attribute_map, "semantic_loss_ignore_index": "ignore_value"}
    # Maps that Trainer would else gather from every batch that it evaluates.
    keys_to_ignore_at_inference = [
        "encoder_last_hidden_state",
        "pixel_decoder_last_hidden_state",
        "transformer_decoder_last_hidden_state",
    ]

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> PreTrainedConfig:
        """As `PreTrainedConfig.from_dict`, of a plain Mask2Former's configuration too."""
        if config_dict.get("model_type") == Mask2FormerConfig.model_type:
            config_dict = {name: value for name, value in config_dict.items() if name != "model_type"}
        return super().from_dict(config_dict, **kwargs)
