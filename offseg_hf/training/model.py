"""The model to train, by architecture, weights or both; and the image processor that is saved beside it."""

import json
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    BaseImageProcessor,
    Mask2FormerImageProcessorPil,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD
from transformers.utils import cached_file

from offseg_hf.model_types import auto_model_class, check_finite_weights, is_in_head
from offseg_hf.models.configuration_offseg_backbone import OffSegBackboneConfig
from offseg_hf.models.configuration_offset_learning_wrapper import OffsetLearningConfig
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.models.modeling_offseg_backbone import OffSegBackboneForSemanticSegmentation
from offseg_hf.models.modeling_offset_learning_wrapper import OffsetLearningForSemanticSegmentation
from offseg_hf.training.class_rows import match_classes
from offseg_hf.variants import variant_config

_NORMALIZATION = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


def create_model(
    variant: str | None,
    model_name_or_path: str | None,
    id2label: dict[int, str],
    trust_remote_code: bool = False,
    add_offset_learning: bool = False,
    backbone: str | None = None,
    **overrides: Any,
) -> PreTrainedModel:
    """A model to train: of a published architecture, from given weights, or both; or on a backbone.

    Args:
        variant (`str`, *optional*): a key of [`~offseg_hf.variants.VARIANTS`]; weights are random unless given, and
            BatchNorm is then not frozen, whatever the variant does by default.
        model_name_or_path (`str`, *optional*): folder or Hub id of the weights to start from. A classifier for another
            number of classes is initialised anew, and one for as many is matched by the names of its classes;
            everything else that fits is loaded, and the rest reported.
        id2label (`dict[int, str]`): names of the classes to learn.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code that comes with the weights.
        add_offset_learning (`bool`, *optional*, defaults to `False`): whether to replace the classifier of the given
            weights' model, any of transformers', by offset learning, see
            [`OffsetLearningForSemanticSegmentation.from_base`].
        backbone (`str`, *optional*): folder or Hub id of an encoder's weights, instead of `variant` and
            `model_name_or_path`, see [`OffSegBackboneForSemanticSegmentation.from_backbone`].
        **overrides: further fields of the configuration.

    Returns:
        [`transformers.PreTrainedModel`]

    Raises:
        OSError: where there are no such weights.
        ValueError: where neither architecture nor weights are given, `backbone` is not the only one of these, or of a
            type that is no backbone, the weights' encoder does not fit, weights are not finite, or the configuration
            does not have a field.
    """
    if variant is None and model_name_or_path is None and backbone is None:
        raise ValueError(
            "`variant`, `model_name_or_path` or `backbone` must be given; pass `--variant offseg-b0`, or "
            "`--backbone facebook/convnext-tiny-224`."
        )
    fields_given = list(overrides)
    overrides |= {"id2label": id2label, "label2id": {label: label_id for label_id, label in id2label.items()}}
    if backbone is not None:
        check_backbone_alone(
            backbone,
            variant=variant,
            model_name_or_path=model_name_or_path,
            add_offset_learning=add_offset_learning,
            trust_remote_code=trust_remote_code,
        )
        _check_fields(OffSegBackboneConfig, fields_given)
        model = OffSegBackboneForSemanticSegmentation.from_backbone(backbone, **overrides)
        check_finite_weights(model, backbone, "backbone")
        return model
    if add_offset_learning:
        if variant is not None:
            raise ValueError(
                "`add_offset_learning` must be left out for a `variant`, which has it or is to go without, "
                f"got {variant}; give the model to add it to as `--model_name_or_path` alone."
            )
        _check_fields(OffsetLearningConfig, fields_given)
        model = OffsetLearningForSemanticSegmentation.from_base(
            model_name_or_path, trust_remote_code=trust_remote_code, ignore_mismatched_sizes=True, **overrides
        )
        origin = str(model_name_or_path)
        check_finite_weights(model, origin, "model_name_or_path")
        stored = AutoConfig.from_pretrained(origin, trust_remote_code=trust_remote_code)
        match_classes(model, stored, origin, keeps_weights=True)
        return model
    if variant is not None:
        config = variant_config(variant, **overrides)
    else:
        config = AutoConfig.from_pretrained(model_name_or_path, trust_remote_code=trust_remote_code, **overrides)
    _check_fields(type(config), fields_given)
    if model_name_or_path is None:
        if getattr(config, "freeze_batch_norm", False) and "freeze_batch_norm" not in overrides:
            config.freeze_batch_norm = False  # there are no statistics yet that are worth keeping
        return auto_model_class(config).from_config(config)
    model, report = auto_model_class(config).from_pretrained(
        model_name_or_path,
        config=config,
        ignore_mismatched_sizes=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    anew = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    if not all(is_in_head(name) for name in anew):
        raise ValueError(
            f"`model_name_or_path` must hold the encoder of {variant or config.model_type}, but that of "
            f"{model_name_or_path} does not fit; choose the variant of the same kind and size."
        )
    check_finite_weights(model, model_name_or_path, "model_name_or_path")
    stored = AutoConfig.from_pretrained(model_name_or_path, trust_remote_code=trust_remote_code)
    match_classes(model, stored, model_name_or_path, "class_weights" in overrides, anew)
    return model


def _check_fields(config_class, names):
    for name in names:
        if name not in config_class.__dataclass_fields__:
            raise ValueError(
                f"`{name}` must be left out, since models of type {config_class.model_type} do not have it."
            )


def check_backbone_alone(backbone: str, **others: str | bool | None) -> None:
    """Raises where a model on a backbone is asked for together with what such a model cannot be.

    Args:
        backbone (`str`): folder or Hub id of its weights.
        **others: other arguments of [`create_model`] that say what to start from, by name.

    Raises:
        ValueError: where one of these is given.
    """
    given = [f"`{name}`" for name, value in others.items() if value]
    if given:
        raise ValueError(
            f"`backbone` must come without {', '.join(given)}, since it is the encoder of a model with offset "
            f"learning, by classes that are installed, got {backbone}; leave out one or the other."
        )


def backbone_normalization(backbone: str) -> dict[str, Any]:
    """How the photos were normalised that a backbone has learned from.

    Args:
        backbone (`str`): folder or Hub id of its weights.

    Returns:
        `dict[str, Any]`: what its `preprocessor_config.json` says of `do_rescale`, `rescale_factor`, `do_normalize`,
        `image_mean` and `image_std`, arguments of [`OffSegImageProcessor`]; empty where there is no such file. For
        EfficientNet's processors they make the pixels that these make, which divide by `image_std` once more. For
        timm's weights they are the mean and the deviation in their `config.json`.

    Raises:
        OSError: where the Hub cannot be reached.
        ValueError: where the file asks for what [`OffSegImageProcessor`] does not do to pixels.
    """
    file = cached_file(backbone, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    if file is None:
        of_timm = PreTrainedConfig.get_config_dict(backbone)[0].get("pretrained_cfg", {})
        return {f"image_{name}": of_timm[name] for name in ("mean", "std") if name in of_timm}
    settings = json.loads(Path(file).read_text(encoding="utf-8"))
    for name in ("rescale_offset", "do_flip_channel_order"):
        if settings.get(name):
            raise ValueError(
                f"`{name}` must be false in preprocessor_config.json of {backbone}, since photos are RGB here and "
                f"without an offset, got {settings[name]}; choose another start, or set it to false in a copy."
            )
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type") or ""
    if kind.startswith("EfficientNet"):
        settings = _of_efficientnet(settings)
    return {name: settings[name] for name in _NORMALIZATION if settings.get(name) is not None}


def _of_efficientnet(settings):
    """The settings of one normalisation that equals the one or two of transformers' EfficientNet image processors."""
    settings = {"image_mean": IMAGENET_STANDARD_MEAN, "image_std": IMAGENET_STANDARD_STD, **settings}  # their defaults
    if not settings.get("include_top", True):
        return settings
    if not settings.get("do_normalize", True):  # then `include_top` alone divides
        return settings | {"do_normalize": True, "image_mean": [0.0] * 3}
    return settings | {"image_std": [deviation**2 for deviation in settings["image_std"]]}  # ((x − m) / s) / s


def native_image_processor(config: PreTrainedConfig, image_processor: OffSegImageProcessor) -> BaseImageProcessor:
    """The image processor to save beside a model, which makes the same `pixel_values` as the one of the training.

    Args:
        config ([`transformers.PreTrainedConfig`]): the model's.
        image_processor ([`OffSegImageProcessor`]): the one that it is trained with.

    Returns:
        [`transformers.BaseImageProcessor`]: the same; for models that classify masks Mask2Former's own, which also
        makes instance, panoptic and semantic maps of their outputs.
    """
    if auto_model_class(config) is AutoModelForSemanticSegmentation:
        return image_processor
    names = ("size", "resample", "do_reduce_labels", *_NORMALIZATION)
    settings = {name: getattr(image_processor, name) for name in names}
    return Mask2FormerImageProcessorPil(
        **settings, size_divisor=0
    )  # its default resizes to multiples of 32, which changes the ratio
