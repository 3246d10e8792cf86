"""OffSeg for Hugging Face: efficient semantic segmentation with offset learning.

Importing the package registers its models with transformers' Auto classes and pipelines.
"""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageSegmentation,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
)
from transformers.utils import is_torchvision_available

from offseg_hf.models.backbone_efficientformer_v2 import EfficientFormerV2Backbone
from offseg_hf.models.backbone_mscan import MscanBackbone
from offseg_hf.models.configuration_offseg import OffSegConfig
from offseg_hf.models.configuration_offseg_efficientformer import OffSegEfficientFormerConfig
from offseg_hf.models.configuration_offseg_mask2former import OffSegMask2FormerConfig
from offseg_hf.models.configuration_offseg_segnext import OffSegSegNextConfig
from offseg_hf.models.configuration_offset_learning_wrapper import OffsetLearningConfig
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.models.modeling_offseg import OffSegForSemanticSegmentation
from offseg_hf.models.modeling_offseg_efficientformer import OffSegEfficientFormerForSemanticSegmentation
from offseg_hf.models.modeling_offseg_mask2former import OffSegMask2FormerForUniversalSegmentation
from offseg_hf.models.modeling_offseg_segnext import OffSegSegNextForSemanticSegmentation
from offseg_hf.models.modeling_offset_learning_wrapper import OffsetLearningForSemanticSegmentation
from offseg_hf.models.offset_learning import MaskOffsetLearning, OffsetLearning
from offseg_hf.variants import VARIANTS, variant_config

__version__ = "0.1.0"

for _model_class in (
    OffSegForSemanticSegmentation,
    OffSegEfficientFormerForSemanticSegmentation,
    OffSegSegNextForSemanticSegmentation,
    OffsetLearningForSemanticSegmentation,
):
    _config_class = _model_class.config_class
    AutoConfig.register(_config_class.model_type, _config_class)
    AutoModelForSemanticSegmentation.register(_config_class, _model_class)
    AutoImageProcessor.register(_config_class, image_processor_classes={"pil": OffSegImageProcessor})
    # The pipeline looks up class names here, and logs an error about any other class.
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[_config_class.model_type] = _model_class.__name__

AutoConfig.register(OffSegMask2FormerConfig.model_type, OffSegMask2FormerConfig)
for _auto_class in (AutoModelForUniversalSegmentation, AutoModelForImageSegmentation):  # the pipeline asks the latter
    _auto_class.register(OffSegMask2FormerConfig, OffSegMask2FormerForUniversalSegmentation)
_image_processors = {"pil": Mask2FormerImageProcessorPil}
if is_torchvision_available():
    from transformers import Mask2FormerImageProcessor

    _image_processors["torchvision"] = Mask2FormerImageProcessor
AutoImageProcessor.register(OffSegMask2FormerConfig, image_processor_classes=_image_processors)
MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES[OffSegMask2FormerConfig.model_type] = (
    OffSegMask2FormerForUniversalSegmentation.__name__
)

AutoBackbone.register(OffSegSegNextConfig, MscanBackbone)
AutoBackbone.register(OffSegEfficientFormerConfig, EfficientFormerV2Backbone)

__all__ = [
    "VARIANTS",
    "EfficientFormerV2Backbone",
    "MaskOffsetLearning",
    "MscanBackbone",
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
    "variant_config",
]
