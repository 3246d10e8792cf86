import subprocess
import sys

import pytest
from tiny_models import tiny_mask2former, tiny_offseg
from torch import nn
from transformers import SegformerConfig

from offseg_hf import OffsetLearningConfig, OffsetLearningForSemanticSegmentation
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.optimization import create_optimizer_and_scheduler, learning_rate_factor, parameter_groups

# Parameter groups


def test_every_parameter_is_in_one_group_when_grouped():
    model = tiny_offseg()
    grouped = [p for group in parameter_groups(model, 1e-3, 0.01, 10) for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))


def test_head_learns_faster_and_norm_layers_do_not_decay():
    model = tiny_offseg()
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in parameter_groups(model, 1e-3, 0.01, 10):
        for name in (names[parameter] for parameter in group["params"]):
            is_norm = isinstance(model.get_submodule(name.rpartition(".")[0]), (nn.LayerNorm, nn.BatchNorm2d))
            assert group["weight_decay"] == (0 if is_norm else 0.01), name
            assert group["lr"] == pytest.approx(1e-2 if name.startswith("decode_head.") else 1e-3), name


def test_class_bias_does_not_decay():
    model = tiny_offseg(logit_normalization="class_bias")
    bias = model.decode_head.offset_learning.mask_norm.bias
    (group,) = [g for g in parameter_groups(model, 1e-3, 0.01, 10) if any(p is bias for p in g["params"])]
    assert group["weight_decay"] == 0


def test_frozen_parameters_are_left_out():
    model = tiny_offseg()
    model.segformer.requires_grad_(False)
    grouped = {p for group in parameter_groups(model, 1e-3, 0.01, 10) for p in group["params"]}
    assert grouped == set(model.decode_head.parameters())


def test_head_of_mask2former_is_all_but_its_backbone():
    model = tiny_mask2former()
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in parameter_groups(model, 1e-4, 0.05, 10):
        for name in (names[parameter] for parameter in group["params"]):
            in_backbone = name.startswith("model.pixel_level_module.encoder.")
            assert group["lr"] == pytest.approx(1e-4 if in_backbone else 1e-3), name


def test_head_is_found_in_a_wrapped_model():
    base_config = SegformerConfig(hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1), decoder_hidden_size=16)
    model = OffsetLearningForSemanticSegmentation(OffsetLearningConfig(base_config=base_config))
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in parameter_groups(model, 1e-4, 0.05, 10):
        for name in (names[parameter] for parameter in group["params"]):
            assert group["lr"] == pytest.approx(1e-3 if name.startswith("model.decode_head.") else 1e-4), name


# Learning rates


def test_learning_rate_follows_the_closed_form():
    factors = [learning_rate_factor(step, 1500, 160_000, 1e-6) for step in (0, 750, 1500, 80_000, 160_000)]
    assert factors == pytest.approx([1e-6, (1 + 1e-6) / 2, 1, 80_000 / 158_500, 0])


def test_decay_is_polynomial_when_it_has_a_power():
    factors = [learning_rate_factor(step, 0, 160_000, 1e-6, decay_power=0.9) for step in (0, 80_000, 160_000)]
    assert factors == pytest.approx([1, 0.5**0.9, 0])


def test_error_is_raised_when_the_warmup_is_not_shorter_than_the_training(tmp_path):
    args = SegmentationTrainingArguments(output_dir=str(tmp_path), warmup_steps=10)
    with pytest.raises(ValueError, match=r"`warmup_steps` must be less than the 10 steps .*`--warmup_steps 0.05`"):
        create_optimizer_and_scheduler(tiny_offseg(), args, 10)


# Batch sizes


@pytest.mark.parametrize(
    ("values", "batch_size"),
    [
        ({}, 16),
        ({"per_device_train_batch_size": 3}, 3),
        ({"total_batch_size": 8}, 8),
        ({"total_batch_size": 8, "gradient_accumulation_steps": 4}, 2),
        ({"total_batch_size": 8, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, 4),
    ],
)
def test_batch_size_of_a_device_follows_from_the_total(tmp_path, values, batch_size):
    args = SegmentationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **values)
    assert args.per_device_train_batch_size == args.train_batch_size == batch_size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total_batch_size": 16, "per_device_train_batch_size": 4}, r"got 16 for 1 × 1 × 4.*`--total_batch_size 4`"),
        ({"total_batch_size": 16, "gradient_accumulation_steps": 3}, r"got 16 for 1 × 3 × 5.*`--total_batch_size 15`"),
        ({"total_batch_size": 2, "gradient_accumulation_steps": 3}, r"got 2 for 1 × 3 × 0.*`--total_batch_size 3`"),
    ],
)
def test_error_when_batch_sizes_contradict_each_other(tmp_path, values, message):
    with pytest.raises(ValueError, match=r"`total_batch_size` must be devices × .*" + message):
        SegmentationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **values)


def test_batch_is_divided_among_processes(tmp_path):
    code = (
        "from offseg_hf.training.arguments import SegmentationTrainingArguments as Arguments\n"
        f"args = Arguments(output_dir={str(tmp_path)!r}, use_cpu=True, total_batch_size=16)\n"
        f"file = open(f'{tmp_path}/{{args.process_index}}.txt', 'w')\n"  # on one screen, their lines would mingle
        "file.write(f'{args.world_size} {args.per_device_train_batch_size}')"
    )
    (tmp_path / "program.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, str(tmp_path / "program.py")], capture_output=True, check=True)
    assert [(tmp_path / f"{index}.txt").read_text() for index in range(2)] == ["2 8", "2 8"]


@pytest.mark.parametrize(("name", "value"), [("optim", "sgd"), ("lr_scheduler_type", "cosine")])
def test_error_when_optimizer_or_schedule_is_another(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"`{name}` cannot be set, .*`lr_decay_power`"):
        SegmentationTrainingArguments(output_dir=str(tmp_path), **{name: value})
