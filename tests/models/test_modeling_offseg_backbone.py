"""OffSegBackboneForSemanticSegmentation by the shared tests, on every kind of backbone, and from given encoders."""

import logging

import pytest
import torch
from segmentation_model_tests import SegmentationModelTests, coloured_examples, randomised
from torch.nn import functional as F
from transformers import (
    AutoModelForSemanticSegmentation,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    Dinov2Config,
    Dinov2Model,
    DINOv3ConvNextConfig,
    DINOv3ViTConfig,
    HGNetV2Config,
    HieraConfig,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PvtV2Config,
    ResNetBackbone,
    ResNetConfig,
    ResNetForImageClassification,
    Swinv2Config,
    ViTConfig,
)
from transformers.utils import is_timm_available

from offseg_hf import (
    EfficientNetBackboneConfig,
    MobileNetV2BackboneConfig,
    OffSegBackboneConfig,
    OffSegBackboneForSemanticSegmentation,
    OffSegEfficientFormerConfig,
    OffSegSegNextConfig,
)
from offseg_hf.models.modeling_offseg_backbone import feature_maps, stages_to_read

FOUR = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
BACKBONES = {
    "convnextv2": (ConvNextV2Config, FOUR),
    "swinv2": (Swinv2Config, {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2], "window_size": 4}),
    "resnet": (ResNetConfig, {**FOUR, "embedding_size": 8}),
    "dinov2": (
        Dinov2Config,
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56},
    ),
    "dinov3_vit": (
        DINOv3ViTConfig,
        {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    ),
    "dinov3_convnext": (DINOv3ConvNextConfig, FOUR),
    "pvt_v2": (PvtV2Config, {**FOUR, "num_attention_heads": [1, 1, 2, 2]}),
    "hgnet_v2": (
        HGNetV2Config,
        {
            "stem_channels": [3, 8, 8], "stage_in_channels": [8, 16, 16, 16], "stage_mid_channels": [8, 8, 8, 8],
            "stage_out_channels": [16, 16, 16, 16], "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [1] * 4,
        },
    ),
    "mobilenet_v2": (MobileNetV2BackboneConfig, {"depth_multiplier": 0.25}),
    "efficientnet_lite": (
        EfficientNetBackboneConfig,
        {"width_coefficient": 0.2, "depth_coefficient": 1.0, "use_squeeze_excite": False, "hidden_act": "relu6"},
    ),
    "mscan": (OffSegSegNextConfig, {**FOUR, "mlp_ratios": [2] * 4}),
    "efficientformer_v2": (
        OffSegEfficientFormerConfig,
        {
            "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 2], "num_attention_blocks": 1,
            "mlp_ratios": [[2], [2], [2, 2], [2, 2]], "num_attention_heads": 2, "key_dim": 4, "value_dim": 8,
            "downsample_key_dim": 4, "downsample_value_dim": 8, "attention_grid_size": 4,
        },
    ),
}  # fmt: skip


def tiny_backbone_config(name):
    config_class, fields = BACKBONES[name]
    config = config_class(**fields)
    config.out_features = stages_to_read(config)
    return config


def tiny_model(name, **fields):
    torch.manual_seed(0)
    config = OffSegBackboneConfig(
        backbone_config=tiny_backbone_config(name), decoder_hidden_size=16, **(fields or {"num_labels": 4})
    )
    return OffSegBackboneForSemanticSegmentation(config)


class TestOffSegBackbone(SegmentationModelTests):
    config_class = OffSegBackboneConfig
    model_class = OffSegBackboneForSemanticSegmentation
    tiny = {
        "backbone_config": PvtV2Config(**BACKBONES["pvt_v2"][1], drop_path_rate=0.1, out_features=STAGES),
        "decoder_hidden_size": 16,
    }
    still = {"backbone_config": PvtV2Config(**BACKBONES["pvt_v2"][1], drop_path_rate=0.0, out_features=STAGES)}
    stage_shapes = ((2, 8, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4), (2, 16, 2, 2))
    files = {
        *(f"backbone_{name}.py" for name in ("efficientformer_v2", "efficientnet", "mobilenet_v2", "mscan", "timm")),
        "configuration_fields.py",
        "configuration_inverted_residual.py",
        "configuration_offseg_backbone.py",
        "configuration_offseg_efficientformer.py",
        "configuration_offseg_segnext.py",
        "decode_head.py",
        "drop_path.py",
        "inverted_residual_backbone.py",
        "library_internals.py",
        "modeling_offseg_backbone.py",
        "offset_learning.py",
        "segmentation_loss.py",
        "upsampling.py",
    }


@pytest.mark.parametrize("name", BACKBONES)
def test_sizes_of_logits_and_gradients_whatever_the_backbone(name):
    model = randomised(tiny_model(name)).eval()
    stride = 7 if name == "dinov2" else 8  # half a patch of 14
    assert model.stride == stride
    for height, width in [(32, 32), (33, 47), (64, 96)]:
        logits = model(torch.randn(2, 3, height, width)).logits
        assert logits.shape == (2, 4, -(-height // stride), -(-width // stride)) and logits.isfinite().all()
    model.train()(torch.randn(2, 3, 64, 64), labels=torch.randint(0, 4, (2, 64, 64))).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen <= {"backbone.embeddings.mask_token"}  # which only pre-training uses


@pytest.mark.parametrize("name", BACKBONES)
def test_saved_model_is_loaded_whole_by_the_auto_class(name, tmp_path, transformers_log):
    model = randomised(tiny_model(name, id2label={0: "sky", 1: "road", 2: "car"})).eval()
    model.save_pretrained(tmp_path)
    with transformers_log.at_level(logging.WARNING):
        loaded, report = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and not transformers_log.text
    assert loaded.config.id2label == {0: "sky", 1: "road", 2: "car"}
    pixel_values = torch.randn(1, 3, 64, 64)
    # Not to the last bit: kernels differ with where the weights lie in memory.
    torch.testing.assert_close(loaded(pixel_values).logits, model(pixel_values).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dinov2", "resnet"])
def test_a_tiny_data_set_is_learnt_whatever_the_backbone(name):
    model = tiny_model(name).train()
    images, labels = coloured_examples(8, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(60):
        optimizer.zero_grad()
        model(images, labels=labels).loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = model.eval()(images).logits
    assert (F.interpolate(logits, (64, 64), mode="bilinear").argmax(1) == labels).float().mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_exports_with_any_image_size_whatever_the_backbone(name):
    if name == "swinv2":
        pytest.skip("transformers 5.24: its windows are padded by remainders that torch.export cannot follow")
    model, dim = randomised(tiny_model(name)).eval(), torch.export.Dim
    sizes = {0: dim("batch"), 2: dim("height", min=64, max=512), 3: dim("width", min=64, max=512)}
    exported = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes={"pixel_values": sizes})
    for shape in [(1, 3, 64, 64), (2, 3, 65, 79)]:
        pixel_values = torch.randn(shape)
        logits = exported.module()(pixel_values).logits
        torch.testing.assert_close(logits, model(pixel_values).logits, rtol=1e-4, atol=1e-5)


def test_padding_leaves_whole_images_as_they_are():
    """At a multiple of the coarsest stride the model is its backbone and head, no more."""
    model = randomised(tiny_model("resnet")).eval()
    pixel_values = torch.randn(2, 3, 64, 96)
    logits, _ = model.decode_head(model.backbone(pixel_values).feature_maps)
    torch.testing.assert_close(model(pixel_values).logits, logits)


# Feature maps


@pytest.mark.parametrize(
    ("name", "stages", "strides", "channels"),
    [
        ("convnextv2", STAGES, [4, 8, 16, 32], [8, 8, 16, 16]),
        ("swinv2", STAGES, [4, 8, 16, 32], [8, 16, 32, 64]),
        ("dinov2", ["stage2"], [14], [16]),
        ("dinov3_vit", ["stage2"], [16], [16]),
        ("hgnet_v2", STAGES, [4, 8, 16, 32], [16, 16, 16, 16]),
    ],
)
def test_deepest_map_of_each_stride_is_read(name, stages, strides, channels):
    config = tiny_backbone_config(name)
    assert (config.out_features, *feature_maps(config)) == (stages, strides, channels)


def test_channels_are_those_of_the_maps_also_where_the_backbone_tells_others():
    config = HGNetV2Config(out_features=STAGES)  # its `hidden_sizes` start with 256, its stages with 128
    assert feature_maps(config)[1] == [128, 512, 1024, 2048]


@pytest.mark.parametrize(
    ("stages", "stride"), [(["stage2", "stage3", "stage4"], 8), (["stage3", "stage4"], 16), (["stage2"], 4)]
)
def test_fewer_strides_are_fused_at_the_finest(stages, stride):
    config = ConvNextV2Config(**FOUR, out_features=stages)
    model = OffSegBackboneForSemanticSegmentation(
        OffSegBackboneConfig(backbone_config=config, decoder_hidden_size=16, num_labels=4)
    ).eval()
    if len(stages) == 1:
        stride *= 2  # the pyramid's finest map, of stride 4, is pooled
    assert model(torch.randn(1, 3, 64, 96)).logits.shape == (1, 4, 64 // stride, 96 // stride)


def test_maps_of_one_stride_are_all_read():
    config = Dinov2Config(**BACKBONES["dinov2"][1], out_features=["stage1", "stage2"])
    model = OffSegBackboneForSemanticSegmentation(
        OffSegBackboneConfig(backbone_config=config, decoder_hidden_size=16, num_labels=4)
    ).eval()
    assert model.pyramid.hidden_sizes == [16, 32, 32]
    assert model(torch.randn(1, 3, 56, 70)).logits.shape == (1, 4, 8, 10)


# Weights to start from


def test_encoder_keeps_its_weights_and_the_head_is_new(tmp_path):
    torch.manual_seed(0)
    classifier = randomised(ResNetForImageClassification(ResNetConfig(**BACKBONES["resnet"][1]))).eval()
    classifier.save_pretrained(tmp_path)
    model = OffSegBackboneForSemanticSegmentation.from_backbone(
        tmp_path, id2label={0: "sky", 1: "road", 2: "car"}, decoder_hidden_size=16
    )
    assert not model.training and model.config.backbone_config is model.backbone.config
    pixel_values = torch.randn(1, 3, 64, 64)
    states = classifier(pixel_values, output_hidden_states=True).hidden_states[1:]
    torch.testing.assert_close(model.backbone(pixel_values).feature_maps, tuple(states))
    assert model(pixel_values).logits.shape == (1, 3, 8, 8)
    model.save_pretrained(tmp_path / "whole")
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(loaded(pixel_values).logits, model(pixel_values).logits, rtol=1e-4, atol=1e-5)


def test_encoder_is_built_once(tmp_path, monkeypatch):
    ResNetForImageClassification(ResNetConfig(**BACKBONES["resnet"][1])).save_pretrained(tmp_path)
    built, init = [], ResNetBackbone.__init__

    def counted(self, config):
        init(self, config)
        built.append(next(self.parameters()).device.type)

    monkeypatch.setattr(ResNetBackbone, "__init__", counted)
    model = OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path, num_labels=3, decoder_hidden_size=16)
    # Shapes alone, into one of which the file is loaded.
    assert model.backbone.device.type == "cpu" and set(built) == {"meta"}


def test_encoder_of_a_native_model_without_stages_is_loaded_by_this_packages_backbone(tmp_path):
    classifier = randomised(MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.1))).eval()
    classifier.save_pretrained(tmp_path)
    model = OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path, num_labels=3, decoder_hidden_size=16)
    assert model.config.backbone_config.model_type == "mobilenet_v2_backbone"
    pixel_values = torch.randn(1, 3, 64, 64)
    states = classifier(pixel_values, output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.backbone(pixel_values).feature_maps, tuple(states[i] for i in (1, 4, 11, 15)))


def test_norms_that_a_backbone_adds_to_its_maps_may_be_missing(tmp_path):
    ConvNextV2ForImageClassification(ConvNextV2Config(**FOUR)).save_pretrained(tmp_path)
    model = OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path, num_labels=3)
    assert model.config.backbone_config.out_features == STAGES


def test_weights_in_half_precision_are_trained_in_float32(tmp_path):
    Dinov2Model(Dinov2Config(**BACKBONES["dinov2"][1])).half().save_pretrained(tmp_path)
    model = OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path, num_labels=3)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_error_when_weights_are_of_a_type_without_a_backbone(tmp_path):
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`backbone` must be of a type that AutoBackbone knows, .*'vit'"):
        OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path)


def test_error_when_weights_of_the_encoder_are_missing(tmp_path):
    ConvNextV2ForImageClassification(ConvNextV2Config(**FOUR)).save_pretrained(tmp_path)
    ResNetConfig(**BACKBONES["resnet"][1]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must hold all weights of a ResNetBackbone, but in .* missing or misshapen"):
        OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path)


def test_error_when_only_statistics_and_biases_are_missing(tmp_path):
    model = ResNetForImageClassification(ResNetConfig(**BACKBONES["resnet"][1]))
    weights = {name: tensor for name, tensor in model.state_dict().items() if tensor.ndim > 1}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match="`backbone` must hold all weights of a ResNetBackbone, but in "):
        OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path)


def test_error_when_a_backbone_takes_images_of_one_size_alone():
    config = HieraConfig(
        embed_dim=8, num_heads=[1, 1, 1, 1], depths=[1, 1, 1, 1], image_size=[64, 64], out_features=STAGES
    )
    with pytest.raises(ValueError, match=r"`backbone` must take images of any size, got one of type 'hiera', which"):
        feature_maps(config)


def test_error_when_the_only_stride_is_odd():
    config = Dinov2Config(**{**BACKBONES["dinov2"][1], "patch_size": 7})
    with pytest.raises(ValueError, match="`backbone_config` must have maps of several strides, or of"):
        OffSegBackboneForSemanticSegmentation(OffSegBackboneConfig(backbone_config=config))


@pytest.mark.skipif(not is_timm_available(), reason="timm is not installed, or cannot be without torchvision")
def test_timm_backbones():
    from transformers import TimmBackboneConfig

    backbone_config = TimmBackboneConfig(backbone="resnet18", out_indices=[1, 2, 3, 4])
    config = OffSegBackboneConfig(backbone_config=backbone_config, decoder_hidden_size=16, num_labels=4)
    model = OffSegBackboneForSemanticSegmentation(config).eval()
    assert feature_maps(backbone_config)[0] == [4, 8, 16, 32]
    assert model(torch.randn(1, 3, 64, 96)).logits.shape == (1, 4, 8, 12)
