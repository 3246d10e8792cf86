"""Files of OffSegForSemanticSegmentation: the names in them, what is read from which, and what is reported."""

import copy
import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    pipeline,
)

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation, OffSegImageProcessor

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
}


@pytest.fixture
def transformers_log(caplog):
    """`caplog` with what transformers logs, whether or not its logger passes that on to the root."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


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
    layer = ("cls_repr", "cls_offset_proj.weight", "feat_offset_proj.weight", "mask_norm.weight", "mask_norm.bias")
    names |= {f"offset_learning.{name}" for name in layer}
    return {f"decode_head.{name}" for name in names}


def test_saved_files_have_the_hubs_encoder_names_and_the_heads_own(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == hub_encoder_names() | head_names()


def test_names_stay_when_a_loaded_model_is_saved_again(tmp_path):
    tiny_model().save_pretrained(tmp_path / "first")
    OffSegForSemanticSegmentation.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert_equal_tensors(second, first)


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
    assert head.offset_learning.cls_repr.std().item() == pytest.approx(0.02, rel=0.1)
    assert head.fusion_conv.conv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert head.offset_learning.mask_norm.weight.unique().tolist() == pytest.approx([2.1877], abs=1e-4)
    assert not head.offset_learning.mask_norm.bias.any()
    for module in (*head.convs, head.fusion_conv):
        assert (module.bn.weight == 1).all() and (module.bn.running_var == 1).all()
        assert not module.bn.bias.any() and not module.bn.running_mean.any() and module.bn.num_batches_tracked == 0


def test_nothing_is_reported_when_a_whole_model_is_loaded(tmp_path, transformers_log):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    with transformers_log.at_level(logging.WARNING):
        loaded, report = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is OffSegForSemanticSegmentation and not loaded.training
    assert_equal_tensors(loaded.state_dict(), model.state_dict())
    assert not any(report.values()) and not transformers_log.text


@pytest.mark.parametrize("num_labels", [1, 2, 8])
def test_only_the_classes_are_new_when_their_number_changes(num_labels, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded, report = OffSegForSemanticSegmentation.from_pretrained(
        tmp_path, num_labels=num_labels, ignore_mismatched_sizes=True, output_loading_info=True
    )
    new = {name for name in head_names() if "cls_repr" in name or "mask_norm" in name}
    kept = {name: tensor for name, tensor in model.state_dict().items() if name not in new}
    assert_equal_tensors({name: tensor for name, tensor in loaded.state_dict().items() if name not in new}, kept)
    assert {name for name, *_ in report["mismatched_keys"]} <= new and not report["missing_keys"]
    assert loaded.decode_head.offset_learning.cls_repr.abs().max() < 0.5  # the file's lie between 0 and 1
    assert loaded(torch.rand(1, 3, 64, 64)).logits.shape == (1, num_labels, 8, 8)


def test_error_when_the_number_of_classes_changes_unasked(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        OffSegForSemanticSegmentation.from_pretrained(tmp_path, num_labels=8)


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


@pytest.mark.parametrize("options", [{"device_map": "cpu"}, {"device_map": "auto"}, {"low_cpu_mem_usage": True}])
def test_loading_options_give_the_same_model(options, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = OffSegForSemanticSegmentation.from_pretrained(tmp_path, **options)
    pixel_values = torch.rand(1, 3, 64, 64)
    expected = model.to(loaded.device)(pixel_values.to(loaded.device)).logits
    assert torch.equal(loaded(pixel_values.to(loaded.device)).logits, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_the_one_asked_for(dtype, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = OffSegForSemanticSegmentation.from_pretrained(tmp_path, dtype=dtype)
    assert_equal_tensors(loaded.state_dict(), model.to(dtype).state_dict())
    assert loaded(torch.rand(1, 3, 64, 64, dtype=dtype)).logits.dtype == dtype


def test_sharded_files_hold_every_tensor(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == hub_encoder_names() | head_names()
    assert len(set(index["weight_map"].values())) > 1
    assert_equal_tensors(OffSegForSemanticSegmentation.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_pipeline_segments_a_photo_without_a_warning(tmp_path, transformers_log):
    model = OffSegForSemanticSegmentation(OffSegConfig(**TINY, id2label={0: "sky", 1: "road", 2: "car"}))
    model.save_pretrained(tmp_path)
    OffSegImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    with transformers_log.at_level(logging.WARNING):
        segments = pipeline("image-segmentation", model=str(tmp_path))(Image.new("RGB", (90, 70), "red"))
    assert not transformers_log.text
    assert {segment["label"] for segment in segments} <= {"sky", "road", "car"}
    assert all(segment["mask"].size == (90, 70) for segment in segments)


def test_auto_image_processor_is_ours(tmp_path):
    OffSegImageProcessor(do_reduce_labels=True).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is OffSegImageProcessor and processor.do_reduce_labels


WITHOUT_THE_PACKAGE = """
import sys
sys.modules["offseg_hf"] = None  # importing it raises an ImportError
import torch
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained("repository", trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained("repository", trust_remote_code=True)
assert type(processor).__name__ == "OffSegImageProcessor"
torch.manual_seed(0)
save_file({"logits": model(torch.rand(1, 3, 64, 64)).logits}, "logits.safetensors")
"""


def test_files_run_without_the_package_when_loaded_as_remote_code(tmp_path, monkeypatch):
    classes = {
        OffSegConfig: "AutoConfig",
        OffSegForSemanticSegmentation: "AutoModelForSemanticSegmentation",
        OffSegImageProcessor: "AutoImageProcessor",
    }
    for registered, auto_class in classes.items():
        monkeypatch.setattr(registered, "_auto_class", registered._auto_class)  # restored after the test
        registered.register_for_auto_class(auto_class)
    model = tiny_model()
    model.save_pretrained(tmp_path / "repository")
    OffSegImageProcessor().save_pretrained(tmp_path / "repository")
    assert {file.name for file in (tmp_path / "repository").glob("*.py")} == {
        "checkpoint_entries.py",
        "configuration_fields.py",
        "configuration_offseg.py",
        "image_processing_offseg.py",
        "modeling_offseg.py",
        "offset_learning.py",
        "segmentation_loss.py",
        "upsampling.py",
    }

    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", WITHOUT_THE_PACKAGE], cwd=tmp_path, env=environment, check=True)
    torch.manual_seed(0)
    expected = model(torch.rand(1, 3, 64, 64)).logits
    assert torch.equal(load_file(tmp_path / "logits.safetensors")["logits"], expected)
