"""OffSeg for Hugging Face: efficient semantic segmentation with offset learning.

Importing the package registers its models with transformers' Auto classes and pipelines. All else, such as what trains
and evaluates, is loaded when it is first asked for.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offseg_hf.evaluation.protocol import evaluate_model
    from offseg_hf.model_types import load_model
    from offseg_hf.models.backbone_efficientformer_v2 import EfficientFormerV2Backbone
    from offseg_hf.models.backbone_efficientnet import EfficientNetBackbone
    from offseg_hf.models.backbone_mobilenet_v2 import MobileNetV2Backbone
    from offseg_hf.models.backbone_mscan import MscanBackbone
    from offseg_hf.models.configuration_inverted_residual import EfficientNetBackboneConfig, MobileNetV2BackboneConfig
    from offseg_hf.models.configuration_offseg import OffSegConfig
    from offseg_hf.models.configuration_offseg_backbone import OffSegBackboneConfig
    from offseg_hf.models.configuration_offseg_efficientformer import OffSegEfficientFormerConfig
    from offseg_hf.models.configuration_offseg_mask2former import OffSegMask2FormerConfig
    from offseg_hf.models.configuration_offseg_segnext import OffSegSegNextConfig
    from offseg_hf.models.configuration_offset_learning_wrapper import OffsetLearningConfig
    from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
    from offseg_hf.models.modeling_offseg import OffSegForSemanticSegmentation
    from offseg_hf.models.modeling_offseg_backbone import OffSegBackboneForSemanticSegmentation
    from offseg_hf.models.modeling_offseg_efficientformer import OffSegEfficientFormerForSemanticSegmentation
    from offseg_hf.models.modeling_offseg_mask2former import OffSegMask2FormerForUniversalSegmentation
    from offseg_hf.models.modeling_offseg_segnext import OffSegSegNextForSemanticSegmentation
    from offseg_hf.models.modeling_offset_learning_wrapper import OffsetLearningForSemanticSegmentation
    from offseg_hf.models.offset_learning import MaskOffsetLearning, OffsetLearning
    from offseg_hf.prediction.label_maps import predict_label_map
    from offseg_hf.training.arguments import SegmentationTrainingArguments
    from offseg_hf.training.trainer import SegmentationTrainer
    from offseg_hf.variants import VARIANTS, variant_config

__version__ = "0.2.0"

# Public name → the module that has it.
_MODULES = {
    "VARIANTS": "variants",
    "EfficientFormerV2Backbone": "models.backbone_efficientformer_v2",
    "EfficientNetBackbone": "models.backbone_efficientnet",
    "EfficientNetBackboneConfig": "models.configuration_inverted_residual",
    "MaskOffsetLearning": "models.offset_learning",
    "MobileNetV2Backbone": "models.backbone_mobilenet_v2",
    "MobileNetV2BackboneConfig": "models.configuration_inverted_residual",
    "MscanBackbone": "models.backbone_mscan",
    "OffSegBackboneConfig": "models.configuration_offseg_backbone",
    "OffSegBackboneForSemanticSegmentation": "models.modeling_offseg_backbone",
    "OffSegConfig": "models.configuration_offseg",
    "OffSegEfficientFormerConfig": "models.configuration_offseg_efficientformer",
    "OffSegEfficientFormerForSemanticSegmentation": "models.modeling_offseg_efficientformer",
    "OffSegForSemanticSegmentation": "models.modeling_offseg",
    "OffSegImageProcessor": "models.image_processing_offseg",
    "OffSegMask2FormerConfig": "models.configuration_offseg_mask2former",
    "OffSegMask2FormerForUniversalSegmentation": "models.modeling_offseg_mask2former",
    "OffSegSegNextConfig": "models.configuration_offseg_segnext",
    "OffSegSegNextForSemanticSegmentation": "models.modeling_offseg_segnext",
    "OffsetLearning": "models.offset_learning",
    "OffsetLearningConfig": "models.configuration_offset_learning_wrapper",
    "OffsetLearningForSemanticSegmentation": "models.modeling_offset_learning_wrapper",
    "SegmentationTrainer": "training.trainer",
    "SegmentationTrainingArguments": "training.arguments",
    "evaluate_model": "evaluation.protocol",
    "load_model": "model_types",
    "predict_label_map": "prediction.label_maps",
    "variant_config": "variants",
}
__all__ = [
    "VARIANTS",
    "EfficientFormerV2Backbone",
    "EfficientNetBackbone",
    "EfficientNetBackboneConfig",
    "MaskOffsetLearning",
    "MobileNetV2Backbone",
    "MobileNetV2BackboneConfig",
    "MscanBackbone",
    "OffSegBackboneConfig",
    "OffSegBackboneForSemanticSegmentation",
    "OffSegConfig",
    "OffSegEfficientFormerConfig",
    "OffSegEfficientFormerForSemanticSegmentation",
    "OffSegForSemanticSegmentation",
    "OffSegImageProcessor",
    "OffSegMask2FormerConfig",
    "OffSegMask2FormerForUniversalSegmentation",
    "OffSegSegNextConfig",
    "OffSegSegNextForSemanticSegmentation",
    "OffsetLearning",
    "OffsetLearningConfig",
    "OffsetLearningForSemanticSegmentation",
    "SegmentationTrainer",
    "SegmentationTrainingArguments",
    "evaluate_model",
    "load_model",
    "predict_label_map",
    "variant_config",
]


def __getattr__(name: str) -> Any:
    """A public name's module is loaded when the name is first asked for; what it means is asked anew each time."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_the_command():
    """Whether the process is `offseg`, or `python -m offseg_hf`, for which Python sets "-m" while it looks for it."""
    program = Path(sys.argv[0] if sys.argv else "").name.lower()
    words = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if program == "-m" and "-m" in sys.orig_argv else []
    is_module = bool(words) and words[0].split(".")[0] == __name__
    return is_module or program in ("offseg", "offseg.exe")


# The command shows its help without the seconds that transformers takes to load; `model_types` and `variants`, which
# its work goes through, register the models then. A program of a person's own called offseg.py registers them here.
if not _is_the_command():
    importlib.import_module("offseg_hf.registration")
