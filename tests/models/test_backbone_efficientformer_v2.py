"""EfficientFormerV2Backbone: its maps, its attention, its norms, its start, and its use in other models."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoBackbone, UperNetConfig, UperNetForSemanticSegmentation

from offseg_hf import (
    EfficientFormerV2Backbone,
    OffSegEfficientFormerConfig,
    OffSegEfficientFormerForSemanticSegmentation,
)
from offseg_hf.models.backbone_efficientformer_v2 import upsample_twice

TINY = {
    "hidden_sizes": (8, 16, 24, 32),
    "depths": (1, 1, 3, 2),
    "num_attention_blocks": 1,
    "mlp_ratios": ((2,), (2,), (2, 2, 3), (2, 3)),
    "num_attention_heads": 2,
    "key_dim": 4,
    "value_dim": 6,
    "downsample_key_dim": 5,
    "downsample_value_dim": 7,
    "attention_grid_size": 2,
    "neck_hidden_sizes": (32, 32, 16, 16),
    "decoder_hidden_size": 16,
    "num_groups": 4,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def tiny_backbone(**fields):
    torch.manual_seed(0)
    return EfficientFormerV2Backbone(OffSegEfficientFormerConfig(**{**TINY, **fields})).eval()


def batch_norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_feature_maps_are_the_states_that_out_features_names(pixel_values):
    backbone = tiny_backbone(out_features=["stem", "stage2", "stage4"])
    outputs = backbone(pixel_values, output_hidden_states=True)
    assert len(outputs.hidden_states) == 5
    assert [id(outputs.hidden_states[i]) for i in (0, 2, 4)] == [
        id(feature_map) for feature_map in outputs.feature_maps
    ]
    assert [feature_map.shape[1] for feature_map in outputs.feature_maps] == backbone.channels == [8, 16, 32]
    assert backbone(pixel_values).hidden_states is None


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ((64, 96), [(16, 24), (8, 12), (4, 6), (2, 3)]),
        ((33, 101), [(9, 26), (5, 13), (3, 7), (2, 4)]),
        ((1, 1), [(1, 1)] * 4),
    ],
)
def test_each_stage_halves_the_resolution_rounded_up(size, sizes):
    feature_maps = tiny_backbone(out_features=STAGES)(torch.randn(2, 3, *size)).feature_maps
    assert [tuple(feature_map.shape[2:]) for feature_map in feature_maps] == sizes
    assert all(feature_map.isfinite().all() for feature_map in feature_maps)


def test_last_blocks_of_stages_3_and_4_have_attention():
    backbone = tiny_backbone()
    attend = [[block.token_mixer is not None for block in stage.blocks] for stage in backbone.stages]
    assert attend == [[False], [False], [False, False, True], [False, True]]
    without = [tiny_backbone(num_attention_blocks=0).stages[i].blocks[-1].token_mixer for i in (2, 3)]
    assert without == [None, None]


def test_attentions_come_in_the_order_of_the_layers(pixel_values):
    attentions = tiny_backbone()(pixel_values, output_attentions=True).attentions
    # Stage 3 at half its 4×4 pixels, the down-sampling from there, stage 4.
    assert [tuple(attention.shape) for attention in attentions] == [(2, 2, 4, 4), (2, 2, 4, 16), (2, 2, 4, 4)]


def literal_biases(attention, stride):
    """The matrix of each head on the training grid, entry by entry."""
    side = attention.grid_size
    keys = list(itertools.product(range(side), repeat=2))
    queries = list(itertools.product(range(0, side, stride), repeat=2))
    return torch.stack(
        [
            torch.stack([torch.stack([table[abs(y - i) * side + abs(x - j)] for i, j in keys]) for y, x in queries])
            for table in attention.attention_biases
        ]
    )  # (heads, queries, keys)


@pytest.mark.parametrize("stride", [1, 2])
def test_biases_are_those_of_the_distances_and_resized_for_other_grids(stride):
    backbone = tiny_backbone(attention_grid_size=3)
    attention = backbone.stages[3].downsample.attn if stride == 2 else backbone.stages[3].blocks[1].token_mixer
    nn.init.normal_(attention.attention_biases)
    expected = literal_biases(attention, stride)
    assert torch.equal(attention.biases(*expected.shape[1:]), expected)
    resized = F.interpolate(expected[None], (6, 20), mode="bicubic", align_corners=False)[0]
    torch.testing.assert_close(attention.biases(6, 20), resized)


def test_biases_that_keep_their_size_are_what_a_resize_would_give():
    biases = torch.randn(1, 2, 16, 64)
    assert torch.equal(F.interpolate(biases, (16, 64), mode="bicubic"), biases)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 3)])
def test_upsample_twice_is_the_bilinear_interpolation(size):
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = F.interpolate(maps, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(upsample_twice(maps), expected, rtol=1e-6, atol=1e-6)


def test_norms_stay_in_evaluation_mode_when_they_are_frozen():
    backbone = tiny_backbone()
    assert not any(module.training for module in batch_norms(backbone.train()))
    assert backbone.training and backbone.stages[0].blocks[0].training
    assert all(module.training for module in batch_norms(tiny_backbone(freeze_batch_norm=False).train()))
    assert not any(module.training for module in batch_norms(tiny_backbone(freeze_batch_norm=False)))


def test_norms_of_a_new_model_are_frozen_before_its_mode_is_set():
    model = OffSegEfficientFormerForSemanticSegmentation(OffSegEfficientFormerConfig(**TINY))
    assert model.training and not any(module.training for module in batch_norms(model))


def test_frozen_norms_still_learn(pixel_values):
    backbone = tiny_backbone(out_features=STAGES).train()
    statistics = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    for name, parameter in backbone.named_parameters():
        if "layer_scale" in name:
            nn.init.constant_(parameter, 0.1)
    sum(feature_map.square().sum() for feature_map in backbone(pixel_values).feature_maps).backward()
    for name, buffer in backbone.named_buffers():
        assert torch.equal(buffer, statistics[name]), name
    assert all(module.weight.grad.any() for module in batch_norms(backbone))
    assert backbone.stem[1].bias.grad.any()


def test_synchronised_norms_are_frozen_too():
    backbone = nn.SyncBatchNorm.convert_sync_batchnorm(tiny_backbone()).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert norms and not any(module.training for module in norms)


def test_drop_path_grows_linearly_over_the_blocks():
    backbone = tiny_backbone(drop_path_rate=0.3)
    rates = [block.drop_path.rate for stage in backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])


def test_new_backbone_starts_as_described():
    backbone = EfficientFormerV2Backbone(OffSegEfficientFormerConfig(layer_scale_init_value=0.03))
    block = backbone.stages[2].blocks[8]  # of 120 channels
    fan_ins = {
        backbone.stages[2].downsample.proj: 48 * 3 * 3,
        block.mlp.fc1: 120,
        block.mlp.mid: 3 * 3,
        block.token_mixer.v[0]: 120,
    }
    for convolution, fan_in in fan_ins.items():
        assert convolution.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
        assert not convolution.bias.any()
    assert (block.mlp.norm1.weight == 1).all() and not block.mlp.norm1.bias.any()
    assert (block.layer_scale_1 == 0.03).all() and (block.layer_scale_2 == 0.03).all()
    assert not block.token_mixer.attention_biases.any()


def test_auto_backbone_makes_it_of_a_configuration():
    assert type(AutoBackbone.from_config(OffSegEfficientFormerConfig(**TINY))) is EfficientFormerV2Backbone


def test_backbone_is_loaded_from_its_own_file_or_a_whole_models(pixel_values, tmp_path):
    model = OffSegEfficientFormerForSemanticSegmentation(OffSegEfficientFormerConfig(**TINY)).eval()
    model.save_pretrained(tmp_path / "model")
    model.backbone.save_pretrained(tmp_path / "backbone")
    expected = model(pixel_values, output_hidden_states=True).hidden_states
    for name in ("model", "backbone"):
        backbone, report = EfficientFormerV2Backbone.from_pretrained(
            tmp_path / name, out_features=STAGES, output_loading_info=True
        )
        assert not report["missing_keys"]
        for feature_map, state in zip(backbone(pixel_values).feature_maps, expected, strict=True):
            assert torch.equal(feature_map, state)


def test_whole_model_starts_from_a_backbones_file(tmp_path):
    backbone = tiny_backbone()
    backbone.save_pretrained(tmp_path)
    model, report = OffSegEfficientFormerForSemanticSegmentation.from_pretrained(
        tmp_path, num_labels=7, output_loading_info=True
    )
    assert all(name.startswith("decode_head.") for name in report["missing_keys"]) and not report["unexpected_keys"]
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor), name


@pytest.mark.parametrize("size", [(64, 64), (50, 75)])
def test_upernet_learns_with_it(size, tmp_path):
    config = UperNetConfig(
        backbone_config=OffSegEfficientFormerConfig(**TINY, out_features=STAGES),
        hidden_size=8,
        auxiliary_in_channels=24,
        auxiliary_channels=8,
        num_labels=4,
    )
    model = UperNetForSemanticSegmentation(config)
    assert type(model.backbone) is EfficientFormerV2Backbone
    pixel_values = torch.randn(2, 3, *size)
    outputs = model(pixel_values, labels=torch.randint(0, 4, (2, *size)))
    outputs.loss.backward()
    assert outputs.logits.shape == (2, 4, *size)
    assert all(parameter.grad.any() for parameter in model.backbone.stages[0].parameters())
    model.save_pretrained(tmp_path)
    loaded = UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(pixel_values).logits, model.eval()(pixel_values).logits, rtol=0, atol=1e-7)
