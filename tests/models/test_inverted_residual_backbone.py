"""MobileNetV2Backbone and EfficientNetBackbone: their maps, the native checkpoints that they load, and their start."""

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    AutoBackbone,
    AutoConfig,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    EfficientNetModel,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    MobileNetV2ForSemanticSegmentation,
    MobileNetV2Model,
    ResNetConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from offseg_hf import (
    EfficientNetBackbone,
    EfficientNetBackboneConfig,
    MobileNetV2Backbone,
    MobileNetV2BackboneConfig,
)
from offseg_hf.models.inverted_residual_backbone import SamePaddedConv2d

STAGES = ["stage1", "stage2", "stage3", "stage4"]
MOBILENET = {"depth_multiplier": 0.1}
EFFICIENTNET = {"width_coefficient": 0.2, "depth_coefficient": 1.0, "hidden_dim": 256, "drop_connect_rate": 0.0}
LITE = {**EFFICIENTNET, "use_squeeze_excite": False, "hidden_act": "relu6"}
# Name: backbone, its configuration, the native model, its configuration, where the stages are among its hidden states.
NETWORKS = {
    "mobilenet": (
        MobileNetV2Backbone,
        MobileNetV2BackboneConfig(**MOBILENET, tf_padding=False),
        MobileNetV2Model,
        MobileNetV2Config(**MOBILENET, tf_padding=False),
        (1, 4, 11, 15),
    ),
    "mobilenet_tf": (
        MobileNetV2Backbone,
        MobileNetV2BackboneConfig(**MOBILENET),
        MobileNetV2Model,
        MobileNetV2Config(**MOBILENET),
        (1, 4, 11, 15),
    ),
    "efficientnet": (
        EfficientNetBackbone,
        EfficientNetBackboneConfig(**EFFICIENTNET),
        EfficientNetModel,
        EfficientNetConfig(**EFFICIENTNET),
        (3, 5, 11, 16),
    ),
}
BACKBONES = {name: NETWORKS[name][:2] for name in NETWORKS} | {
    "lite": (EfficientNetBackbone, EfficientNetBackboneConfig(**LITE)),
    "efficientnet_symmetric": (EfficientNetBackbone, EfficientNetBackboneConfig(**EFFICIENTNET, tf_padding=False)),
}
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
every_backbone = pytest.mark.parametrize(("backbone_class", "config"), BACKBONES.values(), ids=BACKBONES)


def randomised(model):
    """The model with BatchNorms as after training, in evaluation mode."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@every_backbone
@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ((64, 96), [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]),
        ((33, 101), [(17, 51), (9, 26), (5, 13), (3, 7), (2, 4)]),
        ((1, 1), [(1, 1)] * 5),
    ],
)
def test_each_stage_halves_the_resolution_rounded_up(backbone_class, config, size, sizes):
    backbone = backbone_class(config).eval()
    outputs = backbone(torch.randn(2, 3, *size), output_hidden_states=True)
    assert [tuple(state.shape[2:]) for state in outputs.hidden_states] == sizes
    assert all(state.isfinite().all() for state in outputs.hidden_states)
    assert backbone.out_features == STAGES
    assert [feature_map.shape[1] for feature_map in outputs.feature_maps] == backbone.channels
    assert [state.shape[1] for state in outputs.hidden_states] == backbone.num_features


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        (MobileNetV2Backbone(MobileNetV2BackboneConfig()), [16, 24, 32, 96, 320]),
        (
            EfficientNetBackbone(EfficientNetBackboneConfig(width_coefficient=1.0, depth_coefficient=1.0)),
            [16, 24, 40, 112, 320],
        ),
    ],
    ids=["mobilenet", "efficientnet"],
)
def test_channels_are_those_of_the_papers(backbone, channels):
    assert backbone.num_features == channels


@every_backbone
def test_feature_maps_are_the_states_that_out_features_names(backbone_class, config, pixel_values):
    backbone = backbone_class(config).eval()
    backbone.out_features = ["stem", "stage2", "stage4"]
    outputs = backbone(pixel_values, output_hidden_states=True)
    assert [id(outputs.hidden_states[i]) for i in (0, 2, 4)] == [id(one) for one in outputs.feature_maps]
    assert backbone(pixel_values).hidden_states is None
    assert type(backbone(pixel_values, return_dict=False)) is tuple
    backbone.out_features = STAGES


@every_network
def test_feature_maps_are_the_native_models_hidden_states(network, pixel_values, tmp_path):
    backbone_class, _, native_class, native_config, indices = network
    native = randomised(native_class(native_config))
    native.save_pretrained(tmp_path)
    backbone, report = backbone_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    hidden_states = native(pixel_values, output_hidden_states=True).hidden_states
    for feature_map, i in zip(backbone(pixel_values).feature_maps, indices, strict=True):
        torch.testing.assert_close(feature_map, hidden_states[i], rtol=1e-5, atol=1e-5)
    deepest = {tuple(state.shape[2:]) for state in hidden_states[indices[-1] + 1 :]}
    assert deepest <= {tuple(backbone(pixel_values).feature_maps[-1].shape[2:])}


@pytest.mark.parametrize(
    ("native", "backbone_class"),
    [
        (MobileNetV2ForImageClassification(MobileNetV2Config(**MOBILENET)), MobileNetV2Backbone),
        (MobileNetV2ForSemanticSegmentation(MobileNetV2Config(**MOBILENET)), MobileNetV2Backbone),
        (EfficientNetForImageClassification(EfficientNetConfig(**EFFICIENTNET)), EfficientNetBackbone),
    ],
    ids=["mobilenet", "mobilenet_segmentation", "efficientnet"],
)
def test_checkpoints_of_native_models_with_a_head_are_loaded_quietly(
    native, backbone_class, transformers_log, tmp_path
):
    native.save_pretrained(tmp_path)
    transformers_log.clear()
    for config in (None, AutoConfig.from_pretrained(tmp_path)):  # the latter as AutoBackbone does
        backbone, report = backbone_class.from_pretrained(
            tmp_path, config=config, out_features=["stage3"], output_loading_info=True
        )
        assert not any(report.values()) and backbone.out_features == ["stage3"]
        expected = native.base_model.state_dict()
        for name, tensor in backbone.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
    assert not [record for record in transformers_log.records if record.levelname in ("WARNING", "ERROR")]


@every_network
def test_auto_backbone_makes_it_of_both_configurations(network):
    backbone_class, config, _, native_config, _ = network
    for one in (config, native_config):
        backbone = AutoBackbone.from_config(one)
        assert type(backbone) is backbone_class and type(backbone.config) is type(config)


@every_backbone
def test_inference_on_a_cpu_answers_what_separate_norms_do(backbone_class, config):
    backbone = randomised(backbone_class(config))
    pixel_values = torch.randn(2, 3, 65, 96)
    expected = backbone(pixel_values).feature_maps  # with gradients, so that norms are separate
    with torch.no_grad():
        found = backbone(pixel_values).feature_maps
        rounded = backbone.bfloat16()(pixel_values.bfloat16()).feature_maps
    rounded_separately = backbone(pixel_values.bfloat16()).feature_maps
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for reference, one, other in zip(found, rounded, rounded_separately, strict=True):
        errors = [(maps.float() - reference).norm().item() for maps in (one, other)]
        assert errors[0] < 1.5 * errors[1]  # no worse than bfloat16 is anyway


def test_copy_does_its_own_norms_and_replaced_norms_are_left_to_themselves():
    backbone = randomised(MobileNetV2Backbone(MobileNetV2BackboneConfig(**MOBILENET)))
    pixel_values = torch.randn(1, 3, 64, 64)
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        expected = backbone(pixel_values).feature_maps
        for module in other.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias += 1
        moved = other(pixel_values).feature_maps
        assert not any(map(torch.equal, moved, expected))
        assert all(map(torch.equal, backbone(pixel_values).feature_maps, expected))
        replaced = torch.nn.SyncBatchNorm.convert_sync_batchnorm(other)(pixel_values).feature_maps
    torch.testing.assert_close(replaced, moved, rtol=1e-4, atol=1e-4)
