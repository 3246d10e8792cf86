"""Counting parameters and multiply-adds."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForSemanticSegmentation, Mask2FormerConfig, SegformerConfig

from offseg_hf import OffSegConfig, variant_config
from offseg_hf.complexity import count_model_multiply_adds, count_multiply_adds, count_parameters


def tiny_config():
    return SegformerConfig(
        num_encoder_blocks=1, depths=(1,), hidden_sizes=(8,), num_attention_heads=(2,), sr_ratios=(2,),
        mlp_ratios=(3,), patch_sizes=(7,), strides=(4,), decoder_hidden_size=16, num_labels=5,
    )  # fmt: skip


def test_parameters_are_counted():
    model = AutoModelForSemanticSegmentation.from_config(tiny_config())
    assert count_parameters(tiny_config()) == sum(parameter.numel() for parameter in model.parameters())


def test_multiply_adds_are_those_counted_by_hand():
    n, keys = 8 * 16, 4 * 8  # pixels at stride 4 of an image of 32×64, and halved
    encoder = [
        n * 8 * 3 * 7 * 7,  # patch embedding
        n * 8 * 8 + 2 * keys * 8 * 8 + n * 8 * 8,  # query, key and value, output
        keys * 8 * 8 * 2 * 2,  # sequence reduction
        2 * n * keys * 8,  # query × key, attention × value
        2 * n * 8 * 24 + n * 24 * 3 * 3,  # MLP
    ]
    head = [n * 8 * 16, n * 16 * 16, n * 16 * 5]
    assert count_multiply_adds(tiny_config(), 32, 64) == sum(encoder) + sum(head)


def test_multiply_adds_of_offset_learning_are_those_of_its_formula():
    def by_hand(k, c=16, n=4 * 4):
        return n * (3 * k * c + k * k) + 2 * k * c * c + k * k * c

    def counted(k):
        config = OffSegConfig(
            depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 8, 8), num_attention_heads=(1, 1, 1, 1), decoder_hidden_size=16,
            num_labels=k,
        )  # fmt: skip
        return count_multiply_adds(config, 32, 32)

    assert counted(13) - counted(7) == by_hand(13) - by_hand(7)


class Products(nn.Module):
    """Maps (1, 3, H, W) times their transposes: as new tensors, or added up in place."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place

    def forward(self, pixel_values):
        maps = pixel_values[0]  # (3, H, W)
        if self.in_place:
            sums = torch.zeros(maps.shape[0], maps.shape[1], maps.shape[1])
            sums.baddbmm_(maps, maps.mT)
            sums[0].addmm_(maps[0], maps[0].T)
            return sums
        return maps @ maps.mT, maps[0] @ maps[0].T


@pytest.mark.parametrize("in_place", [False, True])
def test_products_count_alike_where_they_are_added_up_in_place(in_place):
    assert count_model_multiply_adds(Products(in_place), 32, 64) == (3 + 1) * 32 * 64 * 32


def test_multiply_adds_are_the_published_ones_without_offset_learning():
    assert count_multiply_adds(variant_config("segformer-b0", num_labels=150), 512, 512) == pytest.approx(
        8.4e9, rel=0.005
    )


@pytest.mark.parametrize(("name", "published"), [("offseg-t", 5.3e9), ("offseg-b", 10.3e9), ("offseg-l", 17.1e9)])
def test_published_figures_of_the_papers_own_network_are_its_convolutions(name, published):
    counts = []

    def count(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            counts.append(output.numel() * module.weight[0].numel())

    with torch.device("meta"), nn.modules.module.register_module_forward_hook(count), torch.no_grad():
        AutoModelForSemanticSegmentation.from_config(variant_config(name, num_labels=150)).eval()(
            torch.empty(1, 3, 512, 512)
        )
    assert sum(counts) == pytest.approx(published, rel=0.01)


def test_multiply_adds_of_a_model_that_classifies_masks_are_counted():
    tiny = {
        "backbone_config": {"model_type": "swin", "embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1),
                            "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "num_attention_heads": 2,
        "encoder_feedforward_dim": 16, "dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 2,
        "num_queries": 5,
    }  # fmt: skip
    fewer = count_multiply_adds(Mask2FormerConfig(**tiny, num_labels=3), 64, 64)
    more = count_multiply_adds(Mask2FormerConfig(**tiny, num_labels=5), 64, 64)
    assert more - fewer == 2 * 5 * 32 * 2  # two classes more, for five queries, before and after the decoder layer
