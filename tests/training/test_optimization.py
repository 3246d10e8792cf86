import subprocess
import sys

import pytest
import torch
from tiny_models import (
    tiny_backbone_model,
    tiny_efficientformer,
    tiny_mask2former,
    tiny_offseg,
    tiny_segnext,
)
from torch import nn
from transformers import (
    Dinov2Config,
    HGNetV2Config,
    PvtV2Config,
    ResNetConfig,
    SegformerConfig,
    Swinv2Config,
)

from offseg_hf import OffsetLearningConfig, OffsetLearningForSemanticSegmentation
from offseg_hf.model_types import is_in_head
from offseg_hf.models.offset_learning import ClassBias
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.optimization import numbers_of_blocks, parameter_groups
from offseg_hf.training.trainer import SegmentationTrainer


def arguments(folder, **values):
    return SegmentationTrainingArguments(output_dir=str(folder), use_cpu=True, disable_tqdm=True, **values)


def learning_rates(folder, steps, num_steps, **values):
    """Of the encoder, as multiples of the full one, after so many steps."""
    trainer = SegmentationTrainer(tiny_offseg(), arguments(folder, learning_rate=0.5, **values))
    trainer.create_optimizer_and_scheduler(num_steps)
    trainer.optimizer.step()  # there are no gradients; else the schedule warns
    factors = []
    for step in steps:
        trainer.lr_scheduler.last_epoch = step - 1
        trainer.lr_scheduler.step()
        encoder, head = (group["lr"] for group in trainer.optimizer.param_groups[::2])
        assert head == pytest.approx(10 * encoder)
        factors.append(encoder / 0.5)
    return factors


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
            module = model.get_submodule(name.rpartition(".")[0])
            is_norm = isinstance(module, (nn.LayerNorm, nn.BatchNorm2d, ClassBias))
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


# Layer-wise decay

STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
WIDTHS = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 2, 1, 1]}


def tiny_swin():
    sizes = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "image_size": 64, "window_size": 4}
    return tiny_backbone_model(Swinv2Config(**sizes, **STAGES))


def tiny_dinov2():
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56}
    return tiny_backbone_model(Dinov2Config(**sizes, out_features=["stage3"]))


def tiny_resnet():
    return tiny_backbone_model(ResNetConfig(embedding_size=8, **WIDTHS, **STAGES))


def tiny_pvt():
    return tiny_backbone_model(PvtV2Config(num_attention_heads=[1, 1, 2, 2], **WIDTHS, **STAGES))


def tiny_hgnet():
    widths = ("stage_in_channels", "stage_mid_channels", "stage_out_channels")
    return tiny_backbone_model(HGNetV2Config(stem_channels=[3, 8, 8], **dict.fromkeys(widths, [8] * 4), **STAGES))


LEVELS = [
    # Levels: one for what comes before the blocks, and one for each block. And parameters of blocks in the middle.
    (tiny_offseg, 1 + 4, {"segformer.stages.0.patch_embeddings.proj.weight": 0}),
    (tiny_segnext, 1 + 4, {"backbone.stages.1.patch_embed.0.weight": 1, "backbone.stages.3.norm.bias": 4}),
    (tiny_efficientformer, 1 + 6, {"backbone.stem.0.weight": 0, "backbone.stages.2.blocks.1.layer_scale_1": 4}),
    (tiny_mask2former, 1 + 4, {"model.pixel_level_module.encoder.hidden_states_norms.stage1.weight": 4}),
    (tiny_backbone_model, 1 + 5, {"backbone.encoder.stages.2.downsampling_layer.1.weight": 2}),
    (tiny_swin, 1 + 5, {"backbone.encoder.layers.0.downsample.norm.weight": 1}),
    (tiny_dinov2, 1 + 3, {"backbone.embeddings.cls_token": 0, "backbone.layernorm.weight": 3}),
    (tiny_resnet, 1 + 5, {"backbone.encoder.stages.1.layers.1.layer.2.convolution.weight": 3}),
    (tiny_pvt, 1 + 5, {"backbone.encoder.layers.1.patch_embedding.proj.weight": 1}),
    (tiny_hgnet, 1 + 6, {"backbone.encoder.stages.2.blocks.1.layers.3.conv2.convolution.weight": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("tiny_model", "num_levels", "examples"), LEVELS)
def test_blocks_of_an_encoder_are_counted_from_the_stem_to_the_head(tiny_model, num_levels, examples):
    model = tiny_model()
    numbers = numbers_of_blocks(model)
    assert sorted({*numbers.values()}) == list(range(num_levels))
    assert list(numbers.values()) == sorted(numbers.values())  # in the order in which they compute
    assert {name: numbers[name] for name in examples} == examples
    assert numbers.keys() == {name for name, _ in model.named_parameters() if not is_in_head(name)}


def test_learning_rate_falls_by_the_factor_with_each_block_from_the_head_down():
    model = tiny_backbone_model()
    names = {parameter: name for name, parameter in model.named_parameters()}
    numbers = numbers_of_blocks(model)
    groups = parameter_groups(model, 1e-3, 0.01, 10, layer_decay=0.5)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len({*grouped}) == len(names)
    for group in groups:
        for name in (names[parameter] for parameter in group["params"]):
            expected = 1e-2 if name not in numbers else 1e-3 * 0.5 ** (6 - numbers[name])
            assert group["lr"] == pytest.approx(expected), name
    rates = sorted({group["lr"] for group in groups})
    assert rates == pytest.approx([1e-3 / 64, 1e-3 / 32, 1e-3 / 16, 1e-3 / 8, 1e-3 / 4, 1e-3 / 2, 1e-2])


def test_groups_are_as_without_it_when_the_factor_is_one():
    plain, explicit = (parameter_groups(tiny_backbone_model(), 1e-3, 0.01, 10, *more) for more in ((), (1.0,)))
    assert len(plain) == 4 and [len(group["params"]) for group in plain] == [len(g["params"]) for g in explicit]


@pytest.mark.parametrize("wrapper", ["_fsdp_wrapped_module", "_orig_mod", "module", "_checkpoint_wrapped_module"])
def test_levels_are_the_same_when_the_model_and_some_blocks_are_wrapped(wrapper):
    model = tiny_backbone_model()
    expected = list(numbers_of_blocks(model).values())
    for stage in model.backbone.encoder.stages:
        stage.layers[0] = nn.ModuleDict({wrapper: stage.layers[0]})
    model.backbone = nn.ModuleDict({wrapper: model.backbone})
    assert list(numbers_of_blocks(nn.ModuleDict({wrapper: model})).values()) == expected


def test_levels_are_the_same_when_lora_is_added():
    pytest.importorskip("peft", reason="needs the extra `peft`")
    from offseg_hf.training.lora import add_lora

    expected = numbers_of_blocks(tiny_backbone_model())
    model = add_lora(tiny_backbone_model(), 2)
    numbers = numbers_of_blocks(model)
    for name, number in expected.items():
        module = name.rpartition(".")[0]
        inner = f"base_model.model.{module}"
        found = {numbers[full] for full in numbers if full.startswith(f"{inner}.")}
        assert found == {number}, name
    rates = {group["lr"] for group in parameter_groups(model, 1e-3, 0.01, 10, layer_decay=0.5)}
    assert len(rates) == 6 + 1


def test_rate_of_the_encoder_that_is_logged_is_the_last_blocks(tmp_path):
    def collate(examples):
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(4, (len(examples), 64, 64), generator=generator)
        return {"pixel_values": torch.randn(len(examples), 3, 64, 64, generator=generator), "labels": labels}

    args = arguments(
        tmp_path, max_steps=2, lr_scheduler_type="constant", learning_rate=1e-3, layer_decay=0.5, save_strategy="no",
        per_device_train_batch_size=2, logging_steps=1,
    )  # fmt: skip
    trainer = SegmentationTrainer(tiny_offseg(), args, train_dataset=[None] * 4, data_collator=collate)
    trainer.train()
    (first, *_) = trainer.state.log_history
    assert (first["learning_rate"], first["learning_rate_head"]) == (5e-4, 1e-2)


@pytest.mark.parametrize("layer_decay", [0.0, -0.5, 1.5])
def test_error_when_the_factor_is_out_of_range(tmp_path, layer_decay):
    with pytest.raises(
        ValueError, match=f"`layer_decay` must be above 0 and at most 1, got {layer_decay}; leave it out"
    ):
        arguments(tmp_path, layer_decay=layer_decay)


def test_error_when_an_encoder_has_no_blocks():
    model = nn.ModuleDict({"backbone": nn.Conv2d(3, 8, 3), "head": nn.Conv2d(8, 4, 1)})
    with pytest.raises(
        ValueError, match=r"`layer_decay` must be 1 for an encoder in which no .*got 0\.5; leave it out"
    ):
        parameter_groups(model, 1e-3, 0.01, 10, layer_decay=0.5)
    assert len(parameter_groups(model, 1e-3, 0.01, 10)) == 2


# Learning rates


def test_learning_rate_follows_the_closed_form(tmp_path):
    factors = learning_rates(tmp_path, (0, 750, 1500, 80_000, 160_000), 160_000, warmup_steps=1500)
    assert factors == pytest.approx([0, 1 / 2, 1, 80_000 / 158_500, 0])


def test_decay_is_polynomial_when_it_has_a_power(tmp_path):
    factors = learning_rates(tmp_path, (0, 80_000, 160_000), 160_000, warmup_steps=0, lr_decay_power=0.9)
    assert factors == pytest.approx([1, 0.5**0.9, 0])


def test_settings_of_the_schedule_win_when_they_are_given(tmp_path):
    factors = learning_rates(tmp_path, (0, 5, 10), 10, warmup_steps=0, lr_scheduler_kwargs={"lr_end": 0.1})
    assert factors == pytest.approx([1, 0.6, 0.2])


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("cosine", [0, 1, 0.5, 0]), ("linear", [0, 1, 0.5, 0]), ("constant_with_warmup", [0, 1, 1, 1])],
)
def test_schedule_is_the_one_that_is_named(tmp_path, schedule, factors):
    found = learning_rates(tmp_path, (0, 2, 6, 10), 10, warmup_steps=2, lr_scheduler_type=schedule)
    assert found == pytest.approx(factors, abs=1e-12)
    assert learning_rates(tmp_path, (0, 5), 10, lr_scheduler_type="constant") == [1, 1]


def test_error_is_raised_when_the_warmup_is_not_shorter_than_the_training(tmp_path):
    args = arguments(tmp_path, warmup_steps=10, max_steps=10)
    with pytest.raises(ValueError, match=r"`warmup_steps` must be less than the 10 steps .*`--warmup_steps 0.05`"):
        SegmentationTrainer(tiny_offseg(), args, train_dataset=[None] * 32)
    args = arguments(tmp_path, warmup_steps=10, max_steps=10, lr_scheduler_type="constant")
    assert SegmentationTrainer(tiny_offseg(), args, train_dataset=[None] * 32).train_dataset == [None] * 32


# Optimizers


@pytest.mark.parametrize(
    ("optim", "name"),
    [("adamw_torch", "AdamW"), ("adamw_torch_fused", "AdamW"), ("sgd", "SGD"), ("adafactor", "Adafactor")],
)
def test_optimizer_is_the_one_that_is_named_and_moves_every_group(tmp_path, optim, name):
    model = tiny_offseg()
    trainer = SegmentationTrainer(model, arguments(tmp_path, optim=optim, learning_rate=1e-3))
    optimizer = trainer.create_optimizer()
    assert type(optimizer).__name__ == name and optimizer.defaults.get("fused") in (
        (True,) if optim.endswith("fused") else (None, False)
    )
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (1e-3, 0.01), (1e-3, 0), (1e-2, 0.01), (1e-2, 0),
    ]  # fmt: skip
    before = [[parameter.clone() for parameter in group["params"]] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (2, 64, 64), generator=generator)
    model(torch.randn(2, 3, 64, 64, generator=generator), labels=labels).loss.backward()
    optimizer.step()
    for old, group in zip(before, optimizer.param_groups):
        assert not all(torch.equal(*pair) for pair in zip(old, group["params"]))


def test_optimizer_is_the_users_when_it_is_given(tmp_path):
    model = tiny_offseg()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SegmentationTrainer(model, arguments(tmp_path), optimizers=(optimizer, None))
    assert trainer.create_optimizer() is optimizer
    options = (torch.optim.Adagrad, {"lr": 1e-3, "lr_decay": 0.1})
    trainer = SegmentationTrainer(model, arguments(tmp_path), optimizer_cls_and_kwargs=options)
    assert type(trainer.create_optimizer()) is torch.optim.Adagrad
    assert trainer.optimizer.defaults["lr_decay"] == 0.1


def test_error_when_an_optimizer_takes_no_groups(tmp_path):
    options = (torch.optim.SGD, {"params": []})
    trainer = SegmentationTrainer(tiny_offseg(), arguments(tmp_path), optimizer_cls_and_kwargs=options)
    with pytest.raises(ValueError, match=r"`optim` must be an optimizer that takes groups .*, got adamw_torch; leave"):
        trainer.create_optimizer()


@pytest.mark.parametrize("wrapper", ["_fsdp_wrapped_module", "_orig_mod", "module", "_checkpoint_wrapped_module"])
def test_groups_are_the_same_when_the_model_is_wrapped(tmp_path, wrapper):
    """As for FSDP, which wraps the model and its parts before the optimizer is made."""
    model = tiny_offseg()
    expected = parameter_groups(model, 1e-3, 0.01, 10)
    for name in ("segformer", "decode_head"):
        setattr(model, name, nn.ModuleDict({wrapper: getattr(model, name)}))
    wrapped = nn.ModuleDict({wrapper: model})
    trainer = SegmentationTrainer(tiny_offseg(), arguments(tmp_path, learning_rate=1e-3))
    assert (trainer.optimizer, trainer.lr_scheduler) == (None, None)  # which FSDP insists on
    for group, found in zip(expected, trainer.create_optimizer(wrapped).param_groups, strict=True):
        assert (found["lr"], found["weight_decay"]) == (group["lr"], group["weight_decay"])
        assert [id(parameter) for parameter in found["params"]] == [id(parameter) for parameter in group["params"]]


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


@pytest.mark.slow
def test_batch_is_divided_among_processes(tmp_path):
    code = (
        "from offseg_hf.training.arguments import SegmentationTrainingArguments as Arguments\n"
        f"args = Arguments(output_dir={str(tmp_path)!r}, use_cpu=True, total_batch_size=16)\n"
        f"file = open(f'{tmp_path}/{{args.process_index}}.txt', 'w')\n"  # on one screen, their lines would mingle
        "file.write(f'{args.world_size} {args.per_device_train_batch_size}')\n"
        "file.close()\n"
        "args.distributed_state.destroy_process_group()"
    )
    (tmp_path / "program.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, str(tmp_path / "program.py")], capture_output=True, check=True)
    assert [(tmp_path / f"{index}.txt").read_text() for index in range(2)] == ["2 8", "2 8"]
