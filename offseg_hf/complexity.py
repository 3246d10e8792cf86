"""Counts the parameters and the multiply-adds of a model, without holding its weights or running it."""

import math

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from offseg_hf.model_types import auto_model_class


def count_parameters(config: PreTrainedConfig) -> int:
    """Counts the parameters of a segmentation model.

    Args:
        config ([`transformers.PreTrainedConfig`]): the model, such as `variant_config("offseg-b0", num_labels=150)`.

    Returns:
        `int`
    """
    return empty_model(config).num_parameters()


def count_multiply_adds(config: PreTrainedConfig, height: int, width: int) -> int:
    """Counts the multiply-adds of a segmentation model's forward pass for one image.

    Counted are all convolutions and matrix products that a forward pass on a CPU runs, by torch's own
    [`~torch.utils.flop_counter.FlopCounterMode`]. Among them are the products of attention, and those by which
    EfficientFormerV2's attention and OffSeg's head on SegFormer upsample maps, whether a product is a new tensor (`@`)
    or added to one in place (`baddbmm_`). A multiply-add is one operation here, as in the literature, where it is
    called a FLOP; torch counts two. Element-wise work is not counted: normalisation, activation, softmax, upsampling
    by interpolation, sampling, and weighted sums that are not matrix products.

    Args:
        config ([`transformers.PreTrainedConfig`]): the model, such as `variant_config("offseg-b0", num_labels=150)`.
        height (`int`): of the image, in pixels.
        width (`int`): of the image, in pixels.

    Returns:
        `int`
    """
    return count_model_multiply_adds(empty_model(config), height, width)


def count_model_multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Counts the multiply-adds of a model's forward pass for one image, as [`count_multiply_adds`] does.

    Args:
        model (`torch.nn.Module`): the model, which loses its weights; [`empty_model`] makes one that has none.
        height (`int`): of the image, in pixels.
        width (`int`): of the image, in pixels.

    Returns:
        `int`
    """
    # Tensors without values that say to be on the CPU: not every model runs on the meta device.
    in_place = dict.fromkeys((torch.ops.aten.addmm_, torch.ops.aten.baddbmm_), _product_flops)
    counter = FlopCounterMode(display=False, custom_mapping=in_place)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), counter:
        model.to_empty(device="cpu")
        model(torch.empty(1, 3, height, width))
    return counter.get_total_flops() // 2


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration without weights, in evaluation mode, with attention that can be counted.

    Args:
        config ([`transformers.PreTrainedConfig`]): the model.

    Returns:
        [`transformers.PreTrainedModel`]: on the meta device.
    """
    with torch.device("meta"):  # shapes only
        # eager: fused attention would not be counted
        return auto_model_class(config).from_config(config, attn_implementation="eager").eval()


def _product_flops(sums, left, right, out_shape=None, **kwargs):
    """Two operations for each multiply-add of (…, m, k) · (…, k, n), which torch 2.13 counts only out of place."""
    return 2 * math.prod(left) * right[-1]
