"""Makes transformers' Auto classes and pipelines know the models of this package, by being imported."""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageSegmentation,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    EfficientNetConfig,
    Mask2FormerImageProcessorPil,
    MobileNetV2Config,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
)
from transformers.utils import is_torchvision_available

from offseg_hf.models.backbone_efficientformer_v2 import EfficientFormerV2Backbone
from offseg_hf.models.backbone_efficientnet import EfficientNetBackbone
from offseg_hf.models.backbone_mobilenet_v2 import MobileNetV2Backbone
from offseg_hf.models.backbone_mscan import MscanBackbone
from offseg_hf.models.configuration_offseg_efficientformer import OffSegEfficientFormerConfig
from offseg_hf.models.configuration_offseg_mask2former import OffSegMask2FormerConfig
from offseg_hf.models.configuration_offseg_segnext import OffSegSegNextConfig
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.models.modeling_offseg import OffSegForSemanticSegmentation
from offseg_hf.models.modeling_offseg_backbone import OffSegBackboneForSemanticSegmentation
from offseg_hf.models.modeling_offseg_efficientformer import OffSegEfficientFormerForSemanticSegmentation
from offseg_hf.models.modeling_offseg_mask2former import OffSegMask2FormerForUniversalSegmentation
from offseg_hf.models.modeling_offseg_segnext import OffSegSegNextForSemanticSegmentation
from offseg_hf.models.modeling_offset_learning_wrapper import OffsetLearningForSemanticSegmentation

# What is registered already is replaced, so that a notebook's autoreload may import all of this again.
AGAIN = {"exist_ok": True}

for _model_class in (
    OffSegForSemanticSegmentation,
    OffSegBackboneForSemanticSegmentation,
    OffSegEfficientFormerForSemanticSegmentation,
    OffSegSegNextForSemanticSegmentation,
    OffsetLearningForSemanticSegmentation,
):
    _config_class = _model_class.config_class
    AutoConfig.register(_config_class.model_type, _config_class, **AGAIN)
    AutoModelForSemanticSegmentation.register(_config_class, _model_class, **AGAIN)
    AutoImageProcessor.register(_config_class, image_processor_classes={"pil": OffSegImageProcessor}, **AGAIN)
    # The pipeline looks up class names here, and logs an error about any other class.
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[_config_class.model_type] = _model_class.__name__

AutoConfig.register(OffSegMask2FormerConfig.model_type, OffSegMask2FormerConfig, **AGAIN)
for _auto_class in (AutoModelForUniversalSegmentation, AutoModelForImageSegmentation):  # the pipeline asks the latter
    _auto_class.register(OffSegMask2FormerConfig, OffSegMask2FormerForUniversalSegmentation, **AGAIN)
_image_processors = {"pil": Mask2FormerImageProcessorPil}
if is_torchvision_available():
    from transformers import Mask2FormerImageProcessor

    _image_processors["torchvision"] = Mask2FormerImageProcessor
AutoImageProcessor.register(OffSegMask2FormerConfig, image_processor_classes=_image_processors, **AGAIN)
MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES[OffSegMask2FormerConfig.model_type] = (
    OffSegMask2FormerForUniversalSegmentation.__name__
)

AutoBackbone.register(OffSegSegNextConfig, MscanBackbone, **AGAIN)
AutoBackbone.register(OffSegEfficientFormerConfig, EfficientFormerV2Backbone, **AGAIN)

for _backbone_class, _native_config_class in (
    (MobileNetV2Backbone, MobileNetV2Config),
    (EfficientNetBackbone, EfficientNetConfig),
):
    _config_class = _backbone_class.config_class
    AutoConfig.register(_config_class.model_type, _config_class, **AGAIN)
    AutoImageProcessor.register(_config_class, image_processor_classes={"pil": OffSegImageProcessor}, **AGAIN)
    AutoBackbone.register(_config_class, _backbone_class, **AGAIN)
    # Not by `AutoBackbone.register`, which takes a class's own configuration alone.
    MODEL_FOR_BACKBONE_MAPPING.register(_native_config_class, _backbone_class, **AGAIN)
