"""OffSegBackboneConfig: its defaults, its files and its errors."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, ConvNextV2Config, ResNetConfig

from offseg_hf import OffSegBackboneConfig


def test_default_is_a_resnet_with_four_stages():
    config = OffSegBackboneConfig()
    assert type(config.backbone_config) is ResNetConfig
    assert config.backbone_config.out_features == ["stage1", "stage2", "stage3", "stage4"]
    assert config.decoder_hidden_size == 256


def test_configuration_is_unchanged_when_saved_and_loaded(tmp_path):
    config = OffSegBackboneConfig(backbone_config=ConvNextV2Config(out_features=["stage2", "stage4"]), num_labels=19)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is OffSegBackboneConfig
    assert loaded.to_dict() == config.to_dict() | {"_name_or_path": loaded.name_or_path}
    assert type(loaded.backbone_config) is ConvNextV2Config
    written = json.loads((tmp_path / "config.json").read_text())["backbone_config"]
    assert written["model_type"] == "convnextv2" and written["out_features"] == ["stage2", "stage4"]


def test_backbone_configuration_is_copied():
    given = ResNetConfig(out_features=["stage4"])
    config = OffSegBackboneConfig(backbone_config=given)
    config.backbone_config.out_features = ["stage1"]
    assert given.out_features == ["stage4"]


def test_error_when_the_backbone_is_of_an_unknown_type():
    with pytest.raises(ValueError, match="`backbone_config` must be of a `model_type` that is registered, got 'nope'"):
        OffSegBackboneConfig(backbone_config={"model_type": "nope"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_hidden_size": 0}, "`decoder_hidden_size` must be at least 1 and finite, got 0"),
        ({"logit_normalization": "batch_norm"}, "`logit_normalization` must be one of"),
    ],
)
def test_error_when_a_field_is_out_of_its_range(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        OffSegBackboneConfig(**fields)
