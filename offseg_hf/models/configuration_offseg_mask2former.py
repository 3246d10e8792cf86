"""Configuration of Mask2Former with offset learning."""

from huggingface_hub.dataclasses import strict
from transformers import Mask2FormerConfig


@strict
class OffSegMask2FormerConfig(Mask2FormerConfig):
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

    def __post_init__(self, **kwargs):
        num_labels = kwargs.get("num_labels")
        if num_labels is not None and self.id2label is not None and len(self.id2label) != num_labels:
            raise ValueError(
                f"`num_labels` must equal the number of entries of `id2label`, got {num_labels} and "
                f"{len(self.id2label)}; leave out `num_labels`."
            )
        super().__post_init__(**kwargs)
        if self.label2id is None:
            self.label2id = {label: label_id for label_id, label in self.id2label.items()}

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As `PreTrainedConfig.from_dict`, of a plain Mask2Former's configuration too.

        The caller's number of classes replaces what a file says of its own.
        """
        given = {name: kwargs.pop(name) for name in ("id2label", "label2id") if name in kwargs}
        left_out = {"model_type"} if config_dict.get("model_type") == Mask2FormerConfig.model_type else set()
        num_labels = len(config_dict.get("id2label", (0, 1)))
        if "id2label" in given or kwargs.get("num_labels", num_labels) != num_labels:
            left_out |= {"id2label", "label2id"}
        config_dict = {name: value for name, value in config_dict.items() if name not in left_out}
        return super().from_dict({**config_dict, **given}, **kwargs)

    def validate_classes(self):
        """Raises a `ValueError` where the classes are not numbered from 0, or one of them is to be ignored."""
        if self.num_labels < 1:
            raise ValueError(f"`num_labels` must be at least 1, got {self.num_labels}.")
        if sorted(self.id2label) != list(range(self.num_labels)):
            raise ValueError(
                f"`id2label` must name the ids 0 to {self.num_labels - 1} without a gap, got the ids "
                f"{sorted(self.id2label)}."
            )
        if 0 <= self.ignore_value < self.num_labels:
            raise ValueError(
                f"`ignore_value` must not be one of the {self.num_labels} class ids, got {self.ignore_value}; pass "
                "`ignore_value=-1`."
            )
