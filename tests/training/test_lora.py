import sys

import pytest
import torch
from tiny_models import tiny_backbone_model, tiny_efficientformer, tiny_mask2former, tiny_offseg, tiny_segnext
from transformers import (
    ConvNextConfig,
    Dinov2Config,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from offseg_hf import OffsetLearningForSemanticSegmentation
from offseg_hf.model_types import is_in_head
from offseg_hf.training.lora import add_lora
from offseg_hf.training.optimization import parameter_groups

peft = pytest.importorskip("peft", reason="needs the extra `peft`")


def tiny_segformer():
    torch.manual_seed(0)
    config = SegformerConfig(hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1), decoder_hidden_size=16, num_labels=4)
    return SegformerForSemanticSegmentation(config)


def tiny_wrapped_segformer():
    return OffsetLearningForSemanticSegmentation.from_base(tiny_segformer())


def tiny_model_on_resnet():
    stages = ["stage1", "stage2", "stage3", "stage4"]
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return tiny_backbone_model(ResNetConfig(**sizes, out_features=stages))


def tiny_model_on_dinov2():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}
    return tiny_backbone_model(Dinov2Config(**sizes, out_features=["stage2"]))


MODELS = [
    *(tiny_offseg, tiny_segnext, tiny_efficientformer, tiny_mask2former),
    *(tiny_segformer, tiny_wrapped_segformer),
    *(tiny_backbone_model, tiny_model_on_resnet, tiny_model_on_dinov2),
]


def examples():
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(2, 3, 96, 96, generator=generator)
    labels = torch.randint(4, (2, 96, 96), generator=generator)
    return {"pixel_values": pixel_values, "labels": labels}


@torch.no_grad()
def answers(model):
    """What the model predicts, in evaluation mode."""
    outputs = model.eval()(pixel_values=examples()["pixel_values"])
    return outputs.masks_queries_logits if hasattr(outputs, "masks_queries_logits") else outputs.logits


def trained(model, steps=3):
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):  # the second matrix of an update starts at zero, so that the first moves from step 2 on
        optimizer.zero_grad()
        model(**examples()).loss.backward()
        optimizer.step()
    return model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tiny_model", MODELS)
def test_model_predicts_what_it_did_when_lora_is_added(tiny_model):
    expected = answers(tiny_model())
    assert_close(answers(add_lora(tiny_model(), 4)), expected)


@pytest.mark.parametrize("tiny_model", MODELS)
def test_only_updates_and_head_move_when_trained(tiny_model):
    model = add_lora(tiny_model(), 4)
    before = state(model)
    after = state(trained(model))
    constant = ("seeded_bases", "empty_weight")
    for name, tensor in after.items():
        is_trained = "lora_" in name or ".modules_to_save." in name
        assert torch.equal(tensor, before[name]) != (is_trained and not name.endswith(constant)), name


@pytest.mark.parametrize(
    ("tiny_model", "num_updated", "num_batch_norms"),
    [
        (tiny_offseg, 8, 0),  # queries and values of 4 blocks
        (tiny_segformer, 8, 0),
        (tiny_wrapped_segformer, 8, 0),
        (tiny_mask2former, 8, 0),
        (tiny_segnext, 8, 13),  # 2 convolutions of 4 blocks; 2 norms in each of them, and 2 + 1 + 1 + 1 before them
        (tiny_efficientformer, 18, 0),  # 2 convolutions of 6 blocks, queries and values of 2 and before stage 4
    ],
)
def test_every_module_that_is_meant_is_updated(tiny_model, num_updated, num_batch_norms):
    names = [name for name, parameter in add_lora(tiny_model(), 4).named_parameters() if parameter.requires_grad]
    in_encoder = [name for name in names if not is_in_head(name)]
    assert sum(name.endswith(".lora_A.default.weight") for name in in_encoder) == num_updated
    assert sum(name.endswith(".modules_to_save.default.weight") for name in in_encoder) == num_batch_norms
    assert len(in_encoder) == 2 * num_updated + 2 * num_batch_norms


@pytest.mark.parametrize("tiny_model", MODELS)
def test_adapter_predicts_the_same_when_saved_and_read(tiny_model, tmp_path):
    model = trained(add_lora(tiny_model(), 4))
    expected = answers(model)
    model.save_pretrained(tmp_path)
    read = peft.PeftModel.from_pretrained(tiny_model(), tmp_path)
    found = read.state_dict()
    for name, tensor in model.state_dict().items():
        assert ".original_module." in name or torch.equal(found[name], tensor), name
    assert_close(answers(read), expected)


@pytest.mark.parametrize("tiny_model", MODELS)
def test_merged_model_is_a_plain_one_that_predicts_the_same_and_is_saved_as_usual(tiny_model, tmp_path):
    model = trained(add_lora(tiny_model(), 4))
    expected = answers(model)
    merged = model.merge_and_unload()
    assert type(merged) is type(tiny_model()) and merged.state_dict().keys() == tiny_model().state_dict().keys()
    assert_close(answers(merged), expected)
    merged.save_pretrained(tmp_path)
    read, report = type(merged).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    found = read.state_dict()
    for name, tensor in merged.state_dict().items():
        assert torch.equal(found[name], tensor), name
    assert_close(answers(read), expected)


@pytest.mark.parametrize("tiny_model", MODELS)
def test_head_keeps_its_own_learning_rate_and_batch_norms_do_not_decay(tiny_model):
    model = add_lora(tiny_model(), 4)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in parameter_groups(model, 1e-4, 0.05, 10):
        for name in (names[parameter] for parameter in group["params"]):
            in_encoder = "lora_" in name or ".backbone." in name
            assert group["lr"] == pytest.approx(1e-4 if in_encoder else 1e-3), name
            if ".norm1." in name or ".bn." in name or ".normalization." in name:
                assert group["weight_decay"] == 0, name


def test_batch_norms_of_an_encoder_are_left_as_they_are_when_frozen():
    trainable = {name for name, p in add_lora(tiny_efficientformer(), 4).named_parameters() if p.requires_grad}
    assert not any("backbone" in name and "lora_" not in name for name in trainable)
    trainable = {
        name
        for name, p in add_lora(tiny_efficientformer(freeze_batch_norm=False), 4).named_parameters()
        if p.requires_grad
    }
    assert any(name.endswith("backbone.stem.1.modules_to_save.default.weight") for name in trainable)


def test_error_when_the_rank_is_none():
    with pytest.raises(ValueError, match="`lora_rank` must be at least 1, got 0"):
        add_lora(tiny_offseg(), 0)


def test_error_when_peft_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # importing it raises an ImportError
    with pytest.raises(
        ImportError, match=r"`add_lora` must have the package PEFT, .*`pip install 'offseg-hf\[peft\]'`"
    ):
        add_lora(tiny_offseg(), 4)


def test_error_when_it_is_not_known_what_to_update():
    backbone_config = ConvNextConfig(depths=[1] * 4, hidden_sizes=[8] * 4, out_indices=[1, 2, 3, 4])
    config = UperNetConfig(backbone_config=backbone_config, hidden_size=8, use_auxiliary_head=False)
    with pytest.raises(ValueError, match=r"`model` must be of type segformer, .*got upernet; .*`peft.LoraConfig`"):
        add_lora(UperNetForSemanticSegmentation(config), 4)
