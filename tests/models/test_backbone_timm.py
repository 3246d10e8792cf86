"""Encoders that timm has saved: against timm's own forward where it is installed, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from segmentation_model_tests import randomised
from transformers import AutoModelForSemanticSegmentation
from transformers.utils import is_timm_available

from offseg_hf import OffSegBackboneForSemanticSegmentation

needs_timm = pytest.mark.skipif(not is_timm_available(), reason="timm is not installed")
# Stages beside other modules, the same inside another one, a network that returns maps itself, a vision transformer.
NETWORKS = ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"]


def write_config(folder, architecture, **fields):
    """The `config.json` of timm's repositories, in short."""
    pretrained_cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "license": "cc-by-4.0", "num_classes": 1000}
    config = {"architecture": architecture, "num_classes": 1000, "pretrained_cfg": pretrained_cfg, **fields}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_timm_encoder(folder, architecture):
    """A network of timm's in a folder, and itself."""
    import timm

    torch.manual_seed(0)
    network = randomised(timm.create_model(architecture)).eval()
    write_config(folder, architecture)
    save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return network


@needs_timm
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_timms(name, tmp_path):
    network = save_timm_encoder(tmp_path, name)
    model = OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path, num_labels=3, decoder_hidden_size=16)
    pixel_values = torch.randn(1, 3, 64, 96)
    indices = model.config.backbone_config.out_indices
    maps = model.backbone(pixel_values).feature_maps
    expected = network.forward_intermediates(pixel_values, indices=indices, intermediates_only=True)
    assert len(maps) == (1 if name == "test_vit" else 4)
    torch.testing.assert_close([*maps], [*expected], rtol=1e-4, atol=1e-4)


@needs_timm
@pytest.mark.parametrize("name", NETWORKS)
def test_saved_model_is_loaded_whole(name, tmp_path):
    save_timm_encoder(tmp_path, name)
    model = OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path, num_labels=3, decoder_hidden_size=16)
    assert model.config.backbone_config.weights_license == "cc-by-4.0"
    model.save_pretrained(tmp_path / "whole")
    loaded, report = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not any(report.values()) and loaded.config.backbone_config.weights_license == "cc-by-4.0"
    pixel_values = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(pixel_values).logits, model(pixel_values).logits)


@needs_timm
def test_all_parameters_are_trained(tmp_path):
    save_timm_encoder(tmp_path, "test_resnet")
    model = OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path, num_labels=3, decoder_hidden_size=16)
    model.train()(torch.randn(2, 3, 64, 64), labels=torch.randint(0, 3, (2, 64, 64))).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@needs_timm
def test_error_when_weights_are_missing(tmp_path):
    network = save_timm_encoder(tmp_path, "test_convnext")
    weights = {name: tensor for name, tensor in network.state_dict().items() if "stages.1." not in name}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must hold all weights of a TimmBackbone, but in .* are missing or missh"):
        OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path)


@needs_timm
def test_error_when_the_network_is_built_with_arguments(tmp_path):
    write_config(tmp_path, "test_resnet", model_args={"num_classes": 1000, "block_args": {"attn_layer": "se"}})
    match = r"`backbone` must be a network that timm builds by its name alone, got .* `model_args` block_args; choose"
    with pytest.raises(ValueError, match=match):
        OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path)


@needs_timm
def test_error_when_timm_does_not_have_the_network(tmp_path):
    write_config(tmp_path, "resnet_of_tomorrow")
    with pytest.raises(ValueError, match=r"that the installed timm has as a backbone, got .*'resnet_of_tomorrow' \("):
        OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path)


@needs_timm
def test_error_when_the_network_takes_images_of_one_size_alone(tmp_path):
    write_config(tmp_path, "vit_tiny_patch16_224")
    with pytest.raises(ValueError, match=r"`backbone` must take images of any size, got one of .* 448×448 pixels"):
        OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path)


@pytest.mark.skipif(is_timm_available(), reason="timm is installed")
def test_error_when_timm_is_not_installed(tmp_path):
    write_config(tmp_path, "resnet18")
    with pytest.raises(ValueError, match="`backbone` must not be of timm where timm is not installed, got"):
        OffSegBackboneForSemanticSegmentation.from_backbone(tmp_path)
