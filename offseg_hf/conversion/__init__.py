"""Checkpoints of other libraries → models: reads what they saved and writes what `from_pretrained` loads.

Two kinds are read: whole models of the authors of offset learning (mmsegmentation), and encoders alone that were
trained on ImageNet: MSCAN as mmsegmentation publishes it, EfficientFormerV2 as timm does, MobileNetV2 and EfficientNet
as torchvision, timm and efficientnet-pytorch do. A checkpoint is used up entry by entry: each one must fill its place
in the model, or be one that the model never uses. Anything else is refused, so a model that comes out here computes
what the checkpoint's did.
"""

from offseg_hf.conversion.checkpoints import read_checkpoint
from offseg_hf.conversion.formats import extend_bias_table
from offseg_hf.conversion.models import convert_checkpoint, convert_entries

__all__ = ["convert_checkpoint", "convert_entries", "extend_bias_table", "read_checkpoint"]
