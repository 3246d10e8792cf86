"""OffSeg for Hugging Face: efficient semantic segmentation with offset learning.

Importing the package registers its models with transformers' Auto classes and pipelines.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from offseg_hf.models.configuration_offseg import OffSegConfig
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.models.modeling_offseg import OffSegForSemanticSegmentation
from offseg_hf.models.offset_learning import OffsetLearning
from offseg_hf.variants import VARIANTS, variant_config

__version__ = "0.1.0"

AutoConfig.register(OffSegConfig.model_type, OffSegConfig)
AutoModelForSemanticSegmentation.register(OffSegConfig, OffSegForSemanticSegmentation)
AutoImageProcessor.register(OffSegConfig, image_processor_classes={"pil": OffSegImageProcessor})
# The pipeline looks up class names here, and logs an error about any other class.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[OffSegConfig.model_type] = OffSegForSemanticSegmentation.__name__

__all__ = [
    "VARIANTS",
    "OffSegConfig",
    "OffSegForSemanticSegmentation",
    "OffSegImageProcessor",
    "OffsetLearning",
    "variant_config",
]
