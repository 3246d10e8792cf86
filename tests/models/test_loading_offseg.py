"""Files of OffSegForSemanticSegmentation: the names in them, what is read from which, and what is reported."""

import copy
import logging

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
)

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
}


def randomised(model):
    """`model` with other numbers in every tensor, so that a tensor left as it was is seen."""
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand_like(tensor) if tensor.is_floating_point() else tensor + 7)
    return model


def tiny_model(num_labels=5):
    return randomised(OffSegForSemanticSegmentation(OffSegConfig(**TINY, num_labels=num_labels))).eval()


def assert_equal_tensors(state_dict, expected):
    assert state_dict.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state_dict[name], tensor) and state_dict[name].dtype == tensor.dtype, name


def hub_encoder_names():
    """Entries of a one-block-per-stage SegFormer encoder in the files of nvidia/mit-b0 and its like."""
    modules = []
    for stage in range(4):
        block = f"block.{stage}.0"
        modules += [f"patch_embeddings.{stage}.proj", f"patch_embeddings.{stage}.layer_norm", f"layer_norm.{stage}"]
        modules += [f"{block}.layer_norm_1", f"{block}.attention.self.query", f"{block}.attention.self.key"]
        modules += [f"{block}.attention.self.value", f"{block}.attention.output.dense", f"{block}.layer_norm_2"]
        modules += [f"{block}.mlp.dense1", f"{block}.mlp.dwconv.dwconv", f"{block}.mlp.dense2"]
        if stage < 3:  # the last stage attends to all of its pixels
            modules += [f"{block}.attention.self.sr", f"{block}.attention.self.layer_norm"]
    return {f"segformer.encoder.{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def head_names():
    modules = [f"convs.{stage}" for stage in range(4)] + ["fusion_conv"]
    names = {f"{module}.conv.weight" for module in modules}
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names |= {f"{module}.bn.{kind}" for module in modules for kind in statistics}
    layer = ("cls_repr", "cls_offset_proj.weight", "feat_offset_proj.weight", "mask_norm.bias")
    names |= {f"offset_learning.{name}" for name in layer}
    return {f"decode_head.{name}" for name in names}


def test_saved_files_have_the_hubs_encoder_names_and_the_heads_own(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == hub_encoder_names() | head_names()


@pytest.mark.parametrize("native_class", [SegformerForImageClassification, SegformerForSemanticSegmentation])
def test_encoder_of_a_segformer_checkpoint_is_loaded_bit_for_bit(native_class, tmp_path, transformers_log):
    native = randomised(native_class(SegformerConfig(**TINY, num_labels=1000)))
    native.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() >= hub_encoder_names()

    with transformers_log.at_level(logging.WARNING):
        model, report = OffSegForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    assert_equal_tensors(model.segformer.state_dict(), native.segformer.state_dict())
    assert (model.config.num_labels, model.config.model_type) == (3, "offseg")

    assert report["missing_keys"] == head_names()
    assert not any(value for name, value in report.items() if name != "missing_keys")
    assert "decode_head.offset_learning.cls_repr" in transformers_log.text and "MISSING" in transformers_log.text
    assert not any(word in transformers_log.text for word in ("UNEXPECTED", "MISMATCH", "linear_", "classifier"))


def test_new_head_starts_as_described_when_the_encoder_is_loaded(tmp_path):
    randomised(SegformerForImageClassification(SegformerConfig(**TINY))).save_pretrained(tmp_path)
    head = OffSegForSemanticSegmentation.from_pretrained(tmp_path, num_labels=19).decode_head
    assert head.offset_learning.cls_repr.std().item() == pytest.approx(1 / (3 * 256) ** 0.5, rel=0.1)
    assert head.offset_learning.cls_offset_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert head.fusion_conv.conv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not head.offset_learning.mask_norm.bias.any()
    for module in (*head.convs, head.fusion_conv):
        assert (module.bn.weight == 1).all() and (module.bn.running_var == 1).all()
        assert not module.bn.bias.any() and not module.bn.running_mean.any() and module.bn.num_batches_tracked == 0


@pytest.mark.parametrize("original_format", [True, False], ids=["Hub names", "current names"])
def test_load_state_dict_restores_every_tensor(original_format, tmp_path):
    model, other = tiny_model(), tiny_model()
    model.save_pretrained(tmp_path, save_original_format=original_format)
    state_dict = load_file(tmp_path / "model.safetensors")
    names = list(state_dict)
    other.load_state_dict(state_dict)
    assert_equal_tensors(other.state_dict(), model.state_dict())
    assert list(state_dict) == names


def test_load_state_dict_restores_every_tensor_when_the_model_is_part_of_another(tmp_path):
    model, other = tiny_model(), tiny_model()
    model.save_pretrained(tmp_path)
    state_dict = {f"net.{name}": tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    torch.nn.ModuleDict({"net": other}).load_state_dict(state_dict)
    assert_equal_tensors(other.state_dict(), model.state_dict())


def test_load_state_dict_names_what_is_unknown(tmp_path):
    model = tiny_model()
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"decode_head.nonsense"'):
        model.load_state_dict({**model.state_dict(), "decode_head.nonsense": torch.zeros(1)})


@pytest.mark.parametrize("original_format", [True, False], ids=["Hub names", "current names"])
def test_accelerator_load_state_restores_every_tensor(original_format, tmp_path):
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(tiny_model())
    expected = copy.deepcopy(model.state_dict())
    accelerator.save_state(tmp_path)
    model.save_pretrained(tmp_path, save_original_format=original_format)  # over the file of the same name
    randomised(model)
    accelerator.load_state(tmp_path)
    assert_equal_tensors(model.state_dict(), expected)
