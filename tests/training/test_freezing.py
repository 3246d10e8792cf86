"""Training the head alone: what is outside of it stays as it is, bit for bit."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import (
    tiny_backbone_model,
    tiny_efficientformer,
    tiny_mask2former,
    tiny_offseg,
    tiny_segnext,
)
from torch import nn
from transformers import (
    ConvNextConfig,
    Dinov2Config,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from offseg_hf.data import TrainTransform, training_dataset
from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes
from offseg_hf.model_types import is_in_head
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.freezing import freeze_backbone
from offseg_hf.training.trainer import SegmentationTrainer

NUM_LABELS = len(SCENE_LABELS)
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def tiny_segformer(num_labels):
    torch.manual_seed(0)
    sizes = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "decoder_hidden_size": 16}
    return SegformerForSemanticSegmentation(SegformerConfig(**sizes, num_labels=num_labels))


def tiny_upernet(num_labels):
    torch.manual_seed(0)
    backbone_config = ConvNextConfig(depths=[1] * 4, hidden_sizes=[8] * 4, out_features=STAGES)
    sizes = {"hidden_size": 8, "pool_scales": [1, 2], "auxiliary_channels": 8, "auxiliary_in_channels": 8}
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone_config, **sizes, num_labels=num_labels)
    )


def tiny_resnet(num_labels):
    """Its encoder has BatchNorm, whose statistics a training changes."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=STAGES)
    return tiny_backbone_model(config, num_labels=num_labels)


def tiny_dinov2(num_labels):
    """It has drop path, and a pyramid, which is the head's."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}
    config = Dinov2Config(**sizes, drop_path_rate=0.5, out_features=["stage2"])
    return tiny_backbone_model(config, num_labels=num_labels)


MODELS = [
    *(tiny_offseg, tiny_segnext, tiny_mask2former, tiny_segformer, tiny_upernet),
    *(lambda num_labels: tiny_efficientformer(num_labels=num_labels, freeze_batch_norm=False),),
    *(tiny_backbone_model, tiny_resnet, tiny_dinov2),
]
NAMES = [
    "offseg",
    "segnext",
    "mask2former",
    "segformer",
    "upernet",
    "efficientformer",
    "convnextv2",
    "resnet",
    "dinov2",
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", num_train=8, num_validation=2, size=(64, 96))


def trainer_of(model, scenes, folder, **values):
    data = training_dataset(
        str(scenes), "train", num_labels=NUM_LABELS, transform=TrainTransform(crop_size=(64, 64), resize=(96, 64)),
        image_processor=OffSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}), seed=3,
    )  # fmt: skip
    defaults = {
        "max_steps": 3, "warmup_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "use_cpu": True,
        "save_strategy": "no", "disable_tqdm": True, "freeze_backbone": True,
    }  # fmt: skip
    args = SegmentationTrainingArguments(output_dir=str(folder), **{**defaults, **values})
    return SegmentationTrainer(model, args, train_dataset=data)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_only_the_head_moved(model, before):
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        if not is_in_head(name):
            assert torch.equal(tensor, before[name]), name
        elif name in parameters and not name.endswith("empty_weight"):
            assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("make_model", MODELS, ids=NAMES)
def test_encoder_stays_as_it_is_to_the_last_bit_and_the_head_moves(scenes, tmp_path, make_model):
    model = make_model(num_labels=NUM_LABELS)
    before = state(model)
    trainer = trainer_of(model, scenes, tmp_path)
    trainer.train()
    assert_only_the_head_moved(model, before)
    grouped = {parameter for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert grouped == {parameter for name, parameter in model.named_parameters() if is_in_head(name)}


@pytest.mark.parametrize("values", [{"activation_checkpointing": True}, {"gradient_accumulation_steps": 2}], ids=str)
def test_encoder_stays_as_it_is_when_the_training_is_of_another_kind(scenes, tmp_path, values):
    model = tiny_dinov2(num_labels=NUM_LABELS)
    before = state(model)
    trainer_of(model, scenes, tmp_path, **values).train()
    assert_only_the_head_moved(model, before)


@pytest.mark.slow
def test_encoder_stays_as_it_is_when_the_model_is_compiled(scenes, tmp_path):
    model = tiny_resnet(num_labels=NUM_LABELS)
    before = state(model)
    trainer_of(model, scenes, tmp_path, torch_compile=True, torch_compile_backend="aot_eager").train()
    assert_only_the_head_moved(model, before)


@pytest.mark.parametrize("make_model", MODELS, ids=NAMES)
def test_parts_that_are_returned_are_those_without_a_head(make_model):
    model = make_model(num_labels=NUM_LABELS)
    frozen = {parameter for module in freeze_backbone(model) for parameter in module.parameters()}
    assert frozen == {parameter for name, parameter in model.named_parameters() if not is_in_head(name)} != set()
    assert not any(parameter.requires_grad for parameter in frozen)


def test_features_are_those_of_evaluation_while_the_head_is_in_training_mode(scenes, tmp_path):
    model = tiny_dinov2(num_labels=NUM_LABELS)
    trainer = trainer_of(model, scenes, tmp_path)
    features, modes = [], []
    model.backbone.register_forward_hook(lambda module, inputs, outputs: features.append(outputs.feature_maps[0]))
    model.decode_head.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    batch = {"pixel_values": torch.randn(2, 3, 56, 56), "labels": torch.zeros(2, 56, 56, dtype=torch.long)}
    for _ in range(2):
        model.train()
        trainer.compute_loss(model, batch)
    assert torch.equal(*features) and modes == [True, True]  # drop path would have changed them


def test_training_goes_on_as_if_uninterrupted_when_resumed(scenes, tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 4}
    whole = tiny_resnet(num_labels=NUM_LABELS)
    trainer_of(whole, scenes, tmp_path / "whole", **settings).train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "part" / "checkpoint-4")
    resumed = tiny_resnet(num_labels=NUM_LABELS)
    torch.manual_seed(5)
    trainer_of(resumed, scenes, tmp_path / "part", **settings).train(str(tmp_path / "part" / "checkpoint-4"))
    for (name, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(expected, found), name


def test_batch_of_one_image_is_refused_only_where_batch_norm_learns(scenes, tmp_path):
    batch_of_one = {"per_device_train_batch_size": 1}
    model = tiny_resnet(num_labels=NUM_LABELS)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.decode_head.modules())
    with pytest.raises(ValueError, match="`per_device_train_batch_size` must be at least 2 with BatchNorm"):
        trainer_of(model, scenes, tmp_path, **batch_of_one)  # the head's learns
    for name, module in list(model.decode_head.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, own_name = name.rpartition(".")
            setattr(model.decode_head.get_submodule(parent), own_name, nn.GroupNorm(1, module.num_features))
    assert trainer_of(model, scenes, tmp_path, **batch_of_one).args.train_batch_size == 1


def test_rate_that_is_logged_is_the_heads_alone(scenes, tmp_path):
    trainer = trainer_of(tiny_offseg(num_labels=NUM_LABELS), scenes, tmp_path, logging_steps=1)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 3 and logged[0]["learning_rate_head"] == 0 and logged[1]["learning_rate_head"] == 0.1
    assert not any("learning_rate" in entry for entry in logged)
    assert (tmp_path / "curves.png").is_file()


@pytest.mark.slow
def test_encoder_stays_as_it_is_in_two_processes(scenes, tmp_path):
    program = Path(__file__).with_name("train_tiny.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)]
    options = ["--map_style", "--max_steps", "3", "--save_steps", "1", "--freeze_backbone", "--batch_size", "2"]
    subprocess.run([*command, str(tmp_path), str(scenes), *options], capture_output=True, check=True)
    first, last = (load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (1, 3))
    for name, tensor in last.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, first[name]) != is_in_head(name), name


def test_error_when_lora_has_added_updates(scenes, tmp_path):
    pytest.importorskip("peft", reason="needs the extra `peft`")
    from offseg_hf.training.lora import add_lora

    with pytest.raises(ValueError, match=r"`freeze_backbone` must be left out with `lora_rank`, .*; choose one of"):
        trainer_of(add_lora(tiny_offseg(num_labels=NUM_LABELS), 4), scenes, tmp_path)


def test_error_when_layers_of_a_frozen_encoder_are_to_have_learning_rates(tmp_path):
    with pytest.raises(ValueError, match=r"`layer_decay` must be left out with `freeze_backbone`, .*got 0\.5\."):
        SegmentationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, freeze_backbone=True, layer_decay=0.5)
