"""Configuration of offset learning in any of transformers' models for semantic segmentation."""

import copy

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, SegformerConfig

from .library_internals import attention_choice
from .offset_learning import LOGIT_NORMALIZATIONS

LABEL_FIELDS = ("id2label", "label2id")


@strict
class OffsetLearningConfig(PreTrainedConfig):
    """Configuration of [`OffsetLearningForSemanticSegmentation`]: that of a base model, and where its classifier is.

    `num_labels`, `id2label`, `label2id` and `semantic_loss_ignore_index` are the base's: they are read from
    `base_config` and written to it. Fields of the base alone are changed by `base_config={"field": value}`.

    Args:
        base_config ([`transformers.PreTrainedConfig`] or `dict`, *optional*, defaults to that of SegFormer-B0):
            Configuration of the base model, of any type that [`transformers.AutoConfig`] knows. It is copied.
        classifier (`str`, *optional*):
            Path of the base's final 1×1 classifier, such as `"decode_head.classifier"`; found by the model if left
            out.
        logit_normalization (`str`, *optional*, defaults to `"class_bias"`):
            What offset learning does to the logits of each pixel: `"class_bias"` adds a learned bias per class, as a
            classifier does. `"layer_norm"` is the published form, a LayerNorm over the classes, and
            `"fitted_layer_norm"` the same function with a start of its gain that fits the number of classes; both
            need at least 3 classes.

    Raises:
        ValueError: where `base_config` is of an unknown type, or `num_labels` and `id2label` disagree.
        huggingface_hub.errors.StrictDataclassError: where a field has the wrong type, or fields contradict each other.

    Example:

    ```python
    >>> from transformers import SegformerConfig
    >>> from offseg_hf import OffsetLearningConfig, OffsetLearningForSemanticSegmentation

    >>> config = OffsetLearningConfig(base_config=SegformerConfig(num_labels=11))
    >>> model = OffsetLearningForSemanticSegmentation(config)  # from scratch
    ```"""

    model_type = "offset_learning"
    sub_configs = {"base_config": AutoConfig}

    base_config: dict | PreTrainedConfig | None = None
    classifier: str | None = None
    logit_normalization: str = "class_bias"

    def __init__(
        self,
        base_config: PreTrainedConfig | dict | None = None,
        classifier: str | None = None,
        logit_normalization: str = "class_bias",
        **kwargs,
    ):
        if isinstance(base_config, dict):
            model_type = base_config.get("model_type")
            if model_type not in CONFIG_MAPPING:
                raise ValueError(
                    f"`base_config` must be of a `model_type` that is registered, got {model_type!r}; import the "
                    "package that defines it, or register its classes with `AutoConfig.register` and "
                    "`AutoModelForSemanticSegmentation.register`."
                )
            base_config = CONFIG_MAPPING[model_type].from_dict(base_config)
        if base_config is None:
            base_config = SegformerConfig()
        id2label, num_labels = kwargs.get("id2label"), kwargs.pop("num_labels", None)
        if id2label is not None and num_labels is not None and len(id2label) != num_labels:
            raise ValueError(
                f"`num_labels` must equal the number of entries of `id2label`, got {num_labels} and {len(id2label)}; "
                "leave out `num_labels`."
            )
        self.base_config = copy.deepcopy(base_config)  # a copy, since the labels are written to it
        if num_labels is not None:
            self.base_config.num_labels = num_labels
        self.classifier = classifier
        self.logit_normalization = logit_normalization
        if kwargs.get("attn_implementation") is None:  # an empty mapping leaves the base's as they are
            kwargs["attn_implementation"] = attention_choice(base_config)
        super().__init__(**kwargs)

    @property
    def id2label(self) -> dict[int, str]:
        return self.base_config.id2label

    @id2label.setter
    def id2label(self, id2label: dict[int, str] | dict[str, str] | None) -> None:
        id2label = {int(label_id): label for label_id, label in (id2label or {}).items()}
        if id2label and id2label != self.base_config.id2label:
            self.base_config.id2label = id2label
            self.base_config.label2id = {label: label_id for label_id, label in id2label.items()}

    @property
    def label2id(self) -> dict[str, int]:
        return self.base_config.label2id or {label: label_id for label_id, label in self.id2label.items()}

    @label2id.setter
    def label2id(self, label2id: dict[str, int] | None) -> None:
        if label2id is not None:
            self.base_config.label2id = label2id

    @property
    def semantic_loss_ignore_index(self) -> int:
        return getattr(self.base_config, self._ignore_index_field())

    @semantic_loss_ignore_index.setter
    def semantic_loss_ignore_index(self, ignore_index: int) -> None:
        setattr(self.base_config, self._ignore_index_field(), ignore_index)

    def _ignore_index_field(self):
        """UPerNet alone calls it differently."""
        return "loss_ignore_index" if hasattr(self.base_config, "loss_ignore_index") else "semantic_loss_ignore_index"

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> PreTrainedConfig:
        """As `PreTrainedConfig.from_dict`, but the caller's classes replace those of a file."""
        found = config_dict.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise ValueError(
                f"`from_pretrained` must be given a model with offset learning, got one of type {found!r}; "
                "use `OffsetLearningForSemanticSegmentation.from_base` to add it."
            )
        given = {name: kwargs.pop(name) for name in (*LABEL_FIELDS, "logit_normalization") if name in kwargs}
        if "id2label" in given or kwargs.get("num_labels") not in (None, len(config_dict.get("id2label", ()))):
            config_dict = {name: value for name, value in config_dict.items() if name not in LABEL_FIELDS}
        return super().from_dict({**config_dict, **given}, **kwargs)

    def to_dict(self) -> dict:
        """As `PreTrainedConfig.to_dict`, with the names of the classes also where readers of a `config.json` look."""
        return super().to_dict() | {name: dict(getattr(self, name)) for name in LABEL_FIELDS}

    def to_diff_dict(self) -> dict:
        """As `PreTrainedConfig.to_diff_dict`, the base's fields as in a file of its own."""
        base_config = self.base_config.to_diff_dict()
        base_config.pop("dtype", None)  # loading writes the wrapper's there
        return super().to_diff_dict() | {"base_config": base_config}

    def validate_offset_learning(self) -> None:
        """Raises a `ValueError` where fields contradict each other."""
        if self.logit_normalization not in LOGIT_NORMALIZATIONS:
            raise ValueError(
                f"`logit_normalization` must be one of {', '.join(LOGIT_NORMALIZATIONS)}, got "
                f"{self.logit_normalization!r}; choose one."
            )
        if self.num_labels < 3 and self.logit_normalization != "class_bias":
            raise ValueError(
                "`logit_normalization` must be 'class_bias' for fewer than 3 classes, since a LayerNorm over so few "
                f"logits cannot be learned, got {self.logit_normalization!r} with {self.num_labels}; leave it out."
            )
