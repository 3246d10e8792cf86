"""Offset learning in place of the final 1×1 classifier of any of transformers' models for semantic segmentation."""

import copy
import os
import re
from typing import Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForSemanticSegmentation, PreTrainedModel
from transformers.utils import ModelOutput

from .checkpoint_entries import rename_checkpoint_entries
from .configuration_offset_learning_wrapper import OffsetLearningConfig
from .library_internals import adopt_attention, install_capturing_hooks
from .offset_learning import ClassBias, OffsetLearning


class ClassifierOffsetLearning(OffsetLearning):
    """Offset learning whose coupled attention is computed by the very convolution that it replaces.

    So its logits are those of the classifier to the last bit where both offsets are zero: rounding, which differs
    between a convolution and a product of matrices, moves no pixel between two nearly equal classes.
    """

    kernel_size = stride = dilation = (1, 1)  # MobileNetV2 asks its classifier for them, to pad what it is given

    def _classify(self, features):
        classes = self.cls_repr.to(features.dtype)  # (1, K, C)
        cls_offset_weight = self.cls_offset_proj.weight.to(features.dtype)  # (C, C)
        feat_offset_weight = self.feat_offset_proj.weight.to(features.dtype)  # (C, C)
        bias = self.mask_norm.bias if isinstance(self.mask_norm, ClassBias) else None

        scores = F.conv2d(features, classes[0, :, :, None, None], None if bias is None else bias.to(features.dtype))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).flatten(2)  # (B, K, H*W)
        attention = scores if bias is None else scores - bias[:, None]
        height, width = features.shape[2:]
        features = features.flatten(2)  # (B, C, H*W)
        over_pixels = attention.softmax(dim=2).to(features.dtype)
        over_classes = attention.softmax(dim=1).to(features.dtype)
        class_offset = over_pixels @ features.transpose(1, 2) @ cls_offset_weight.T  # ΔW, (B, K, C)
        rows = classes @ feat_offset_weight.T  # ΔE mixes these, (1, K, C)
        # (E + ΔE)(W + ΔW)ᵀ = E Wᵀ + E ΔWᵀ + ΔE (W + ΔW)ᵀ
        logits = scores + class_offset @ features + ((classes + class_offset) @ rows.transpose(1, 2)) @ over_classes
        if bias is None:
            logits = self.mask_norm(logits)
        return logits.unflatten(2, (height, width))

    @torch.no_grad()
    def start_from(self, classifier: nn.Conv2d) -> None:
        """Takes over the classifier's representations and, where it can, its bias; both offsets start at zero."""
        self.cls_repr.copy_(classifier.weight.flatten(1))  # (K, C)
        self.cls_offset_proj.weight.zero_()
        self.feat_offset_proj.weight.zero_()
        if isinstance(self.mask_norm, ClassBias) and classifier.bias is not None:
            self.mask_norm.bias.copy_(classifier.bias)


def find_classifier(model: PreTrainedModel, classifier: str | None = None) -> str:
    """Finds the layer that offset learning replaces.

    Args:
        model ([`transformers.PreTrainedModel`]): a model for semantic segmentation.
        classifier (`str`, *optional*): path of the layer, if known; then it is only checked.

    Returns:
        `str`: path of the only 1×1 convolution with `num_labels` outputs outside of auxiliary heads; of several, the
        one with "classifier" in its path.

    Raises:
        ValueError: where no layer or several fit, or `classifier` does not; the message lists the candidates.
    """
    num_labels = model.config.num_labels
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    fitting = [name for name, layer in layers.items() if _is_classifier(name, layer, num_labels)]
    if classifier is not None:
        found = [classifier] if classifier in fitting else []
    elif len(fitting) > 1:
        found = [name for name in fitting if "classifier" in name]
    else:
        found = fitting
    if len(found) != 1:
        alike = [name for name, layer in layers.items() if layer.weight.shape[0] == num_labels]
        candidates = fitting or alike or list(layers)[-10:]
        listed = ", ".join(f"{name!r} ({_described(layers[name])})" for name in candidates)
        got = f"{len(fitting)} that fit" if classifier is None else repr(classifier)
        raise ValueError(
            f"`classifier` must be the path of the final 1×1 convolution of {type(model).__name__}, to {num_labels} "
            f"classes (`num_labels`) and outside of an auxiliary head, got {got}; candidates are {listed or 'none'}."
        )
    return found[0]


def _is_classifier(name, layer, num_labels):
    is_pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride == (1, 1) and layer.groups == 1
    is_auxiliary = re.search(r"(^|\.)aux(iliary)?(_|\.)", name)
    return is_pointwise and layer.out_channels == num_labels and not is_auxiliary


def _described(layer):
    if isinstance(layer, nn.Linear):
        return f"Linear, {layer.in_features} → {layer.out_features}"
    return "{}×{} Conv2d, {} → {}".format(*layer.kernel_size, layer.in_channels, layer.out_channels)


class OffsetLearningForSemanticSegmentation(PreTrainedModel):
    """Any of transformers' models for semantic segmentation, with offset learning as its classifier.

    Nothing but the final 1×1 classifier is replaced: the encoder, the head, auxiliary heads, dropout, loss and outputs
    are the base's own, and files keep the base's names of checkpoint entries, behind `model.`. [`from_base`] starts
    from a trained model; the constructor starts from scratch.

    Args:
        config ([`OffsetLearningConfig`]): the base's configuration, and where its classifier is.
        model ([`transformers.PreTrainedModel`], *optional*): the base, which becomes part of this model; made anew
            from the configuration if left out.

    Raises:
        ValueError: where the base has no classifier that offset learning can replace, or several.

    Example:

    ```python
    >>> from transformers import AutoImageProcessor, pipeline
    >>> from offseg_hf import OffsetLearningForSemanticSegmentation

    >>> base = "nvidia/segformer-b0-finetuned-ade-512-512"
    >>> model = OffsetLearningForSemanticSegmentation.from_base(base)  # predicts what the base predicts
    >>> ...  # train it like any other model
    >>> model.save_pretrained("segformer-b0-offset-learning")
    >>> AutoImageProcessor.from_pretrained(base).save_pretrained("segformer-b0-offset-learning")
    >>> segment = pipeline("image-segmentation", model="segformer-b0-offset-learning")
    ```"""

    config: OffsetLearningConfig
    # Empty: the library would otherwise look for entries, and rename them, with that prefix and without it.
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # The bases' losses are means over the batch; they must be divided by the number of accumulation steps.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _no_split_modules = ["ClassifierOffsetLearning"]
    # There is no attention here; the base has its own say.
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: OffsetLearningConfig, model: PreTrainedModel | None = None):
        super().__init__(config)
        if model is None:
            model = AutoModelForSemanticSegmentation.from_config(config.base_config)
        config.base_config = model.config
        adopt_attention(config, model.config)
        config.classifier = find_classifier(model, config.classifier)
        classifier = model.get_submodule(config.classifier)
        layer = ClassifierOffsetLearning(config.num_labels, classifier.in_channels, config.logit_normalization)
        model.set_submodule(config.classifier, layer.to(classifier.weight))
        self.model = model
        install_capturing_hooks(model)
        self.supports_gradient_checkpointing = model.supports_gradient_checkpointing
        self.register_load_state_dict_pre_hook(rename_checkpoint_entries)
        self.post_init()

    @property
    def offset_learning(self) -> ClassifierOffsetLearning:
        """The layer that stands in place of the base's classifier."""
        return self.model.get_submodule(self.config.classifier)

    def init_weights(self) -> None:
        """Does nothing: the base and the layer were initialised when they were made."""

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs) -> Self | tuple[Self, dict]:
        """As [`~transformers.PreTrainedModel.from_pretrained`]; what a file lacks of offset learning starts anew."""
        model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        new = report["missing_keys"] | {name for name, *_ in report["mismatched_keys"]}
        # The library let the closest model around the layer initialise it: the base, which does not know it.
        layer, prefix = model.offset_learning, f"model.{model.config.classifier}."
        kept = {name: tensor.clone() for name, tensor in layer.state_dict().items() if prefix + name not in new}
        if len(kept) < len(layer.state_dict()):
            layer.reset_parameters()
            layer.load_state_dict(kept, strict=False)
        return (model, report) if output_loading_info else model

    @classmethod
    def from_base(
        cls,
        model_or_path: PreTrainedModel | str | os.PathLike,
        classifier: str | None = None,
        logit_normalization: str = "class_bias",
        **kwargs,
    ) -> "OffsetLearningForSemanticSegmentation":
        """Puts offset learning in place of the classifier of a trained model.

        Class representations start as the classifier's weights, both offset maps at zero and, with `"class_bias"`,
        the bias as the classifier's: until it is trained the model answers the same logits as its base, to the last
        bit in float32 and bfloat16. A LayerNorm leaves the classifier's bias out and changes the logits, so that it
        starts near the base's label map, not at it.

        Args:
            model_or_path ([`transformers.PreTrainedModel`], `str` or `os.PathLike`): the base: a model, which is
                copied and stays as it is, or a folder or Hub id, which needs no second copy in memory.
            classifier (`str`, *optional*): path of the layer to replace, such as `"decode_head.classifier"`; found if
                left out.
            logit_normalization (`str`, *optional*, defaults to `"class_bias"`): see [`OffsetLearningConfig`].
            kwargs: arguments of `AutoModelForSemanticSegmentation.from_pretrained` for a folder or Hub id:
                `num_labels`, `id2label`, `ignore_mismatched_sizes`, `dtype`, `revision`, `trust_remote_code`, …

        Returns:
            [`OffsetLearningForSemanticSegmentation`]: on the base's device, in its dtype and mode (training or
            evaluation).

        Raises:
            huggingface_hub.errors.StrictDataclassError: where `logit_normalization` is unknown, or a LayerNorm over
                fewer than 3 classes.
            ValueError: where no layer or several could be the classifier, with a list of them; where `classifier` is
                not one; where `model_or_path` is neither; or where `kwargs` come with a model.
        """
        if isinstance(model_or_path, PreTrainedModel):
            if kwargs:
                raise ValueError(
                    f"`{next(iter(kwargs))}` must be left out where `model_or_path` is a model, since it is for "
                    f"loading one, got {kwargs}; pass a folder or Hub id instead of the model."
                )
            model = copy.deepcopy(model_or_path)
        elif isinstance(model_or_path, (str, os.PathLike)):
            model = AutoModelForSemanticSegmentation.from_pretrained(model_or_path, **kwargs)
        else:
            raise ValueError(
                "`model_or_path` must be a transformers model, a folder or a Hub id, got "
                f"{type(model_or_path).__name__}; pass the model itself if this one wraps it."
            )
        path = find_classifier(model, classifier)
        replaced = model.get_submodule(path)
        config = OffsetLearningConfig(
            base_config=model.config, classifier=path, logit_normalization=logit_normalization, dtype=model.dtype
        )
        wrapper = cls(config, model)
        wrapper.offset_learning.start_from(replaced)
        wrapper.training = model.training
        wrapper.offset_learning.train(replaced.training)
        return wrapper

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs) -> ModelOutput | tuple:
        """Segments a batch of images, as the base does.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): normalised images of a
                size that the base takes.
            labels (`torch.Tensor` of shape `(batch_size, label_height, label_width)`, *optional*): class ids in
                [0, `config.num_labels`), or `config.semantic_loss_ignore_index`.
            kwargs: arguments of the base's `forward`: `output_hidden_states`, `output_attentions`, `return_dict`, …

        Returns:
            What the base returns, such as [`transformers.modeling_outputs.SemanticSegmenterOutput`]: `logits` of shape
            `(batch_size, config.num_labels, logits_height, logits_width)`, and `loss`, the base's, if `labels` are
            given.
        """
        return self.model(pixel_values, labels=labels, **kwargs)
