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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backbone_is_loaded_from_its_own_file(backbone_class, config, dtype, pixel_values, tmp_path):
    backbone = randomised(backbone_class(config))
    backbone.config.weights_license, backbone.config.weights_source = "mit", "here"
    backbone.save_pretrained(tmp_path)
    loaded, report = backbone_class.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
    assert not any(report.values()) and loaded.dtype == dtype
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(config)
    assert (loaded.config.weights_license, loaded.config.weights_source) == ("mit", "here")
    outputs = loaded(pixel_values.to(dtype)).feature_maps
    for feature_map, expected in zip(outputs, backbone.to(dtype)(pixel_values.to(dtype)).feature_maps, strict=True):
        torch.testing.assert_close(feature_map, expected, rtol=0, atol=1e-4)  # other memory rounds otherwise


def test_lite_has_no_squeeze_and_excitation():
    with_it, without = (EfficientNetBackbone(EfficientNetBackboneConfig(**fields)) for fields in (EFFICIENTNET, LITE))
    missing = with_it.state_dict().keys() - without.state_dict().keys()
    assert missing == {name for name in with_it.state_dict() if ".squeeze_excite." in name} != set()


@every_backbone
def test_norms_learn_with_the_configured_momentum_and_eps(backbone_class, config):
    backbone = backbone_class(config)
    eps = config.layer_norm_eps if backbone_class is MobileNetV2Backbone else config.batch_norm_eps
    norms = [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(config.batch_norm_momentum, eps)}


def test_native_shares_of_the_old_statistics_become_those_of_a_new_batch():
    config = EfficientNetBackboneConfig.from_native(EfficientNetConfig(batch_norm_momentum=0.97))
    assert config.batch_norm_momentum == 0.03
    assert MobileNetV2BackboneConfig.from_native(MobileNetV2Config()).batch_norm_momentum == 0.1


@every_backbone
def test_new_backbone_keeps_the_scale_of_its_maps(backbone_class, config, pixel_values):
    torch.manual_seed(0)
    backbone = backbone_class(config)
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 500:
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.2)
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any()
    for feature_map in backbone.train()(pixel_values).feature_maps:
        assert feature_map.std() > 0.5


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (1, 2), (5, 5)], ids=str)
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_same_padding_is_tensorflows(size, kernel_size):
    conv = SamePaddedConv2d(2, 3, kernel_size, stride=2)
    pixels = torch.randn(1, 2, *size)
    sides = []
    for length in reversed(size):  # from the last dimension, as F.pad wants it
        total = max((math.ceil(length / 2) - 1) * 2 + kernel_size - length, 0)
        sides += [total // 2, total - total // 2]
    expected = F.conv2d(F.pad(pixels, sides), conv.weight, conv.bias, stride=2)
    outputs = conv(pixels)
    assert outputs.shape[2:] == tuple(math.ceil(length / 2) for length in size)
    torch.testing.assert_close(outputs, expected)


@pytest.mark.slow
@pytest.mark.parametrize("tf_padding", [True, False])
def test_onnx_file_takes_any_size(tf_padding, pixel_values, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    config = EfficientNetBackboneConfig(**LITE, num_block_repeats=[1] * 7, tf_padding=tf_padding)
    backbone = randomised(EfficientNetBackbone(config))
    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(backbone, (pixel_values,), dynamic_shapes=({**sizes},), verbose=False)
    program.save(tmp_path / "backbone.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "backbone.onnx", providers=["CPUExecutionProvider"])
    for size in ((64, 96), (35, 101)):
        pixels = torch.randn(2, 3, *size)
        feature_maps = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
        for feature_map, expected in zip(feature_maps, backbone(pixels).feature_maps, strict=True):
            torch.testing.assert_close(torch.from_numpy(feature_map), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride_is_where_maps_stop_shrinking(stride, pixel_values):
    native = randomised(MobileNetV2Model(MobileNetV2Config(**MOBILENET, output_stride=stride)))
    backbone = MobileNetV2Backbone(native.config).eval()
    backbone.load_state_dict(native.state_dict(), strict=False)
    hidden_states = native(pixel_values, output_hidden_states=True).hidden_states
    assert backbone(pixel_values).feature_maps[-1].shape[2:] == (64 // stride, 96 // stride)
    for feature_map, i in zip(backbone(pixel_values).feature_maps, (1, 4, 11, 15), strict=True):
        torch.testing.assert_close(feature_map, hidden_states[i], rtol=1e-5, atol=1e-5)


@every_backbone
def test_upernet_learns_with_it(backbone_class, config, pixel_values, tmp_path):
    config = UperNetConfig(
        backbone_config=config, hidden_size=8, auxiliary_in_channels=24, use_auxiliary_head=False, num_labels=4
    )
    model = UperNetForSemanticSegmentation(config)
    assert type(model.backbone) is backbone_class
    outputs = model(pixel_values, labels=torch.randint(0, 4, (2, 64, 96)))
    outputs.loss.backward()
    assert all(parameter.grad.any() for parameter in model.backbone.parameters())
    model.save_pretrained(tmp_path)
    loaded = UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(pixel_values).logits, model.eval()(pixel_values).logits, rtol=0, atol=1e-6)


LOADS = """
import sys
sys.modules["offseg_hf"] = None  # importing it raises an ImportError
import torch
from safetensors.torch import save_file
from transformers import AutoConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

config = AutoConfig.from_pretrained("repository", trust_remote_code=True)
backbone_class = get_class_from_dynamic_module(config.auto_map["AutoBackbone"], "repository")
backbone = backbone_class.from_pretrained("repository", config=config)
torch.manual_seed(0)
feature_maps = backbone(torch.rand(1, 3, 64, 64)).feature_maps
save_file({name: one.contiguous() for name, one in zip(backbone.out_features, feature_maps)}, "maps.safetensors")
"""


@pytest.mark.parametrize("name", ["mobilenet", "lite"])
def test_files_run_without_the_package_when_loaded_as_remote_code(name, tmp_path, monkeypatch):
    backbone_class, config = BACKBONES[name]
    for registered, auto_class in {backbone_class: "AutoBackbone", type(config): "AutoConfig"}.items():
        monkeypatch.setattr(registered, "_auto_class", registered._auto_class)  # restored in the end
        registered.register_for_auto_class(auto_class)
    backbone = randomised(backbone_class(config))
    backbone.save_pretrained(tmp_path / "repository")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", LOADS], cwd=tmp_path, env=environment, check=True)
    torch.manual_seed(0)
    expected = backbone(torch.rand(1, 3, 64, 64)).feature_maps
    for stage, feature_map in zip(STAGES, expected, strict=True):
        assert torch.equal(load_file(tmp_path / "maps.safetensors")[stage], feature_map)


# Errors


@pytest.mark.parametrize("backbone_class", [MobileNetV2Backbone, EfficientNetBackbone])
def test_error_when_the_configuration_is_of_another_model(backbone_class):
    with pytest.raises(ValueError, match=r"`config` must be of model type '\w+_backbone' or .*'resnet'; use that"):
        backbone_class(ResNetConfig())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel_sizes": [3, 3]}, r"`kernel_sizes` must have an entry for each of the 7 groups .* got \[3, 3\]\."),
        ({"strides": [1, 2, 2, 1, 1, 2, 1]}, r"`strides` must be 1 or 2 .* 2 for four of them.* got \[1, 2, 2, 1"),
        ({"strides": [1, 2, 2, 2, 1, 2, 3]}, r"`strides` must be 1 or 2 for each group of blocks"),
    ],
)
def test_error_when_fields_contradict_each_other(fields, message):
    with pytest.raises(Exception, match=message):
        EfficientNetBackboneConfig(**fields)


def test_error_when_a_stage_is_unknown():
    with pytest.raises(ValueError, match="out_features must be a subset of stage_names"):
        MobileNetV2BackboneConfig(out_features=["stage5"])


# BatchNorm that the convolutions do


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
        assert errors[0] < 2 * errors[1]  # what bfloat16 costs anyway


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


def hooked(conv):
    conv.register_forward_hook(lambda module, inputs, output: output * 2)
    return conv


def replaced(conv):
    plain = torch.nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        groups=conv.groups,
        bias=False,
    )
    plain.load_state_dict(conv.state_dict())
    return plain


def wrapped(conv):
    return torch.nn.Sequential(conv)


@pytest.mark.parametrize("change", [hooked, replaced, wrapped])
def test_norms_are_done_once_whatever_is_put_in_the_place_of_a_convolution(change):
    backbone = randomised(MobileNetV2Backbone(MobileNetV2BackboneConfig(**MOBILENET, tf_padding=False)))
    layer = backbone.layer[3].expand_1x1
    layer.convolution = change(layer.convolution)
    pixel_values = torch.randn(1, 3, 64, 64)
    expected = backbone(pixel_values).feature_maps  # with gradients, so that norms are separate
    with torch.no_grad():
        torch.testing.assert_close(backbone(pixel_values).feature_maps, expected, rtol=1e-4, atol=1e-4)


def test_norms_are_done_once_under_lora():
    from offseg_hf import OffSegBackboneConfig, OffSegBackboneForSemanticSegmentation
    from offseg_hf.training.lora import add_lora

    pytest.importorskip("peft")
    config = OffSegBackboneConfig(
        backbone_config=MobileNetV2BackboneConfig(**MOBILENET), decoder_hidden_size=16, num_labels=4
    )
    model = add_lora(randomised(OffSegBackboneForSemanticSegmentation(config)), 2).eval()
    pixel_values = torch.randn(1, 3, 64, 64)
    expected = model(pixel_values).logits
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values).logits, expected, rtol=1e-4, atol=1e-5)
