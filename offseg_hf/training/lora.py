"""Parameter-efficient tuning with PEFT: low-rank updates (LoRA, arXiv 2106.09685) of the encoder, and a trained head.

What is updated, by type of model, as the names of modules in transformers 5:

- SegFormer, with offset learning or without: the maps to queries and values of every attention, as in the paper of
  LoRA.
- SegNeXt: the 1×1 convolutions around the gate of every attention. Its depth-wise convolutions are left out, since
  their weights are of low rank already.
- OffSeg-T, B, L: both 1×1 convolutions of every MLP, and the maps to queries and values, which only the last blocks
  have.
- Mask2Former: the maps to queries and values of its Swin encoder.
- OffSeg's head on any other backbone: every linear layer, and every convolution that is not grouped.

The head is trained as a whole and saved with its BatchNorm statistics. So are the encoder's BatchNorm layers that are
not frozen (SegNeXt's): their statistics change in training, and an adapter saved without them would predict something
else.
"""

from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel, Trainer

from offseg_hf.models.configuration_offseg_backbone import OffSegBackboneConfig
from offseg_hf.models.inverted_residual_backbone import SamePaddedConv2d
from offseg_hf.training.batch_norm import BATCH_NORM_LAYERS

if TYPE_CHECKING:
    from peft import PeftModel

_TARGETS = {  # of a full match with a module's name
    "segformer": r"(model\.)?segformer\..*\.(q_proj|v_proj)",
    "offseg_segnext": r"backbone\..*\.attn\.(proj_1|proj_2)",
    "offseg_efficientformer": r"backbone\..*\.(mlp\.fc1|mlp\.fc2|[qv]\.0|q\.proj\.0)",
    "offseg_mask2former": r"model\.pixel_level_module\.encoder\..*\.(q_proj|v_proj)",
}
_TARGETS |= {"offseg": _TARGETS["segformer"], "mask2former": _TARGETS["offseg_mask2former"]}
_HEADS = ["decode_head"]
_HEADS_OF_MASK2FORMER = ["pixel_level_module.decoder", "transformer_module", "class_predictor"]


def add_lora(model: PreTrainedModel, lora_rank: int) -> "PeftModel":
    """Freezes a model's encoder and adds low-rank updates to its weights; the head is trained as a whole.

    The updates start at zero, so that predictions do not change. `save_pretrained` of the result writes only what is
    trained, `peft.PeftModel.from_pretrained(model, folder)` reads it, and `merge_and_unload()` makes a plain model of
    it again.

    Args:
        model ([`transformers.PreTrainedModel`]): a model of this package, a SegFormer or a Mask2Former, or a SegFormer
            with offset learning added. It becomes part of the result.
        lora_rank (`int`): rank of the updates, at least 1; `lora_alpha` equals it, so that they are scaled by 1.

    Returns:
        `peft.PeftModel`: what `Trainer` trains like any other model.

    Raises:
        ValueError: where `lora_rank` is less than 1, or the model is of a type for which no modules are listed here.
        ImportError: where PEFT is not installed.
    """
    config = getattr(model.config, "base_config", model.config)  # a wrapper's
    if lora_rank < 1:
        raise ValueError(f"`lora_rank` must be at least 1, got {lora_rank}; 8 is a good start.")
    is_on_backbone = config.model_type == OffSegBackboneConfig.model_type
    if not is_on_backbone and config.model_type not in _TARGETS:
        raise ValueError(
            f"`model` must be of type {', '.join((*_TARGETS, OffSegBackboneConfig.model_type))}, got "
            f"{config.model_type}; for others, name the modules in a `peft.LoraConfig` of your own."
        )
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError(
            f"`add_lora` must have the package PEFT, got {error}; install it with `pip install 'offseg-hf[peft]'`."
        ) from error
    heads = _HEADS_OF_MASK2FORMER if config.model_type.endswith("mask2former") else _HEADS
    trained = [] if getattr(config, "freeze_batch_norm", False) else _batch_norms_of_encoder(model, heads)
    if is_on_backbone and model.pyramid is not None:
        trained.append("pyramid")
    targets = _layers_of_backbone(model) if is_on_backbone else _TARGETS[config.model_type]
    lora_config = LoraConfig(
        r=lora_rank, lora_alpha=lora_rank, target_modules=targets, modules_to_save=heads + trained
    )
    return get_peft_model(model, lora_config)


def _layers_of_backbone(model):
    def has_updates(module):
        if isinstance(module, SamePaddedConv2d):  # PEFT's update would be padded otherwise
            return False
        return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)

    return [f"backbone.{name}" for name, module in model.backbone.named_modules() if has_updates(module)]


def _batch_norms_of_encoder(model, heads):
    names = [name for name, module in model.named_modules() if isinstance(module, BATCH_NORM_LAYERS)]
    return [name for name in names if not any(f".{head}." in f".{name}." for head in heads)]


def merge_lora(trainer: Trainer) -> None:
    """Adds the updates of a `Trainer`'s model to its weights, so that it is a plain model again, saved as a whole.

    Args:
        trainer ([`transformers.Trainer`]): after the training of a model from [`add_lora`].
    """
    trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()
