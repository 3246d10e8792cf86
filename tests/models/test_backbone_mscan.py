"""MscanBackbone: its maps, its start, and its use in other models."""

import pytest
import torch
from transformers import AutoBackbone, UperNetConfig, UperNetForSemanticSegmentation

from offseg_hf import MscanBackbone, OffSegSegNextConfig, OffSegSegNextForSemanticSegmentation

TINY = {
    "hidden_sizes": (8, 16, 24, 32),
    "depths": (1, 2, 1, 1),
    "mlp_ratios": (2, 2, 2, 2),
    "decoder_hidden_size": 16,
    "num_groups": 4,
    "nmf_rank": 4,
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def tiny_backbone(**fields):
    torch.manual_seed(0)
    return MscanBackbone(OffSegSegNextConfig(**{**TINY, **fields})).eval()


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


def test_every_stage_is_normalised_over_its_channels(pixel_values):
    for feature_map in tiny_backbone(out_features=STAGES)(pixel_values).feature_maps:
        torch.testing.assert_close(feature_map.mean(1), torch.zeros_like(feature_map[:, 0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            feature_map.var(1, correction=0), torch.ones_like(feature_map[:, 0]), rtol=0.1, atol=0
        )


def test_drop_path_grows_linearly_over_the_blocks():
    backbone = tiny_backbone(drop_path_rate=0.2)
    rates = [block.drop_path.rate for stage in backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_new_backbone_starts_as_described():
    backbone = MscanBackbone(OffSegSegNextConfig(layer_scale_init_value=0.03))
    block = backbone.stages[2].blocks[0]  # of 160 channels
    fan_outs = {
        backbone.stages[2].patch_embed[0]: 3 * 3 * 160,
        block.attn.proj_1: 160,
        block.attn.spatial_gating_unit.conv0: 5 * 5,  # each input channel reaches one output channel
        block.attn.spatial_gating_unit.conv2_2: 21,
        block.mlp.fc1: 640,
    }
    for convolution, fan_out in fan_outs.items():
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        assert not convolution.bias.any()
    for norm in (block.norm1, block.norm2, backbone.stages[2].norm):
        assert (norm.weight == 1).all() and not norm.bias.any()
    assert (block.layer_scale_1 == 0.03).all() and (block.layer_scale_2 == 0.03).all()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_gradient_checkpointing_counts_every_batch_once_in_the_norms(pixel_values):
    models = [tiny_backbone().train(), tiny_backbone().train()]
    models[1].gradient_checkpointing_enable()
    for model in models:
        torch.manual_seed(0)  # of drop path
        model(pixel_values).feature_maps[0].square().sum().backward()
    for (name, buffer), expected in zip(models[1].named_buffers(), models[0].buffers(), strict=True):
        assert torch.equal(buffer, expected), name


def test_auto_backbone_makes_it_of_a_configuration():
    assert type(AutoBackbone.from_config(OffSegSegNextConfig(**TINY))) is MscanBackbone


def test_backbone_is_loaded_from_its_own_file_or_a_whole_models(pixel_values, tmp_path):
    model = OffSegSegNextForSemanticSegmentation(OffSegSegNextConfig(**TINY)).eval()
    model.save_pretrained(tmp_path / "model")
    model.backbone.save_pretrained(tmp_path / "backbone")
    expected = model(pixel_values, output_hidden_states=True).hidden_states
    for name in ("model", "backbone"):
        backbone, report = MscanBackbone.from_pretrained(
            tmp_path / name, out_features=STAGES, output_loading_info=True
        )
        assert not report["missing_keys"]
        for feature_map, state in zip(backbone(pixel_values).feature_maps, expected, strict=True):
            assert torch.equal(feature_map, state)


def test_whole_model_starts_from_a_backbones_file(tmp_path):
    backbone = tiny_backbone()
    backbone.save_pretrained(tmp_path)
    model, report = OffSegSegNextForSemanticSegmentation.from_pretrained(
        tmp_path, num_labels=7, output_loading_info=True
    )
    assert all(name.startswith("decode_head.") for name in report["missing_keys"]) and not report["unexpected_keys"]
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor), name


def test_upernet_learns_with_it(pixel_values, tmp_path):
    config = UperNetConfig(
        backbone_config=OffSegSegNextConfig(**TINY, out_features=STAGES),
        hidden_size=8,
        auxiliary_in_channels=24,
        auxiliary_channels=8,
        num_labels=4,
    )
    model = UperNetForSemanticSegmentation(config)
    assert type(model.backbone) is MscanBackbone
    outputs = model(pixel_values, labels=torch.randint(0, 4, (2, 64, 64)))
    outputs.loss.backward()
    assert outputs.logits.shape == (2, 4, 64, 64)
    assert all(parameter.grad.any() for parameter in model.backbone.stages[0].parameters())
    model.save_pretrained(tmp_path)
    loaded = UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(pixel_values).logits, model.eval()(pixel_values).logits, rtol=0, atol=1e-7)
