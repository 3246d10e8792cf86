"""The recipes against the paper's table, written out here a second time, and what the command line makes of them."""

import argparse

import pytest
import torch
from tiny_models import tiny_efficientformer, tiny_mask2former, tiny_offseg, tiny_segnext
from torch import nn
from transformers import HfArgumentParser, Trainer, TrainerCallback

from offseg_hf import OffsetLearningForSemanticSegmentation
from offseg_hf.models.offset_learning import ClassBias
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.from_arguments import resolved_data_arguments
from offseg_hf.training.options import DataArguments, ModelArguments
from offseg_hf.training.recipes import RECIPES, apply_recipe, read_recipe
from offseg_hf.training.trainer import SegmentationTrainer

# Data set: crop, resize and evaluation edges, steps, images per step.
ROWS = {
    "ade20k": ([512, 512], [2048, 512], 160_000, 16),
    "cityscapes": ([1024, 1024], [2048, 1024], 160_000, 8),
    "coco_stuff": ([512, 512], [2048, 512], 80_000, 16),
    "pascal_context": ([480, 480], [520, 520], 80_000, 16),
}
MODELS = {
    "segformer": (tiny_offseg, tiny_efficientformer),
    "segnext": (tiny_segnext,),
    "mask2former": (tiny_mask2former,),
}
NORM_LAYERS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm, ClassBias)


def parse(*words):
    argv = ["--dataset", "photos", "--output_dir", "outputs/never-made", "--use_cpu", *words]
    parser = HfArgumentParser((ModelArguments, DataArguments, SegmentationTrainingArguments))
    apply_recipe(parser, argv)
    return parser.parse_args_into_dataclasses(argv)


def assert_arrived(recipe, data_args, args):
    for name, value in recipe.items():
        if name not in ("window_size", "stride"):
            assert getattr(data_args if hasattr(data_args, name) else args, name) == value, name


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_number_of_a_recipe_is_an_argument_and_arrives(recipe):
    *_, data_args, args = parse("--recipe", recipe)
    assert_arrived(read_recipe(recipe), data_args, args)


@pytest.mark.parametrize("recipe", RECIPES)
def test_data_and_length_are_those_of_the_row(recipe):
    _, data_args, args = parse("--recipe", recipe)
    crop_size, edges, steps, batch_size = ROWS[recipe.split("-")[0]]
    assert (data_args.crop_size, data_args.resize, data_args.eval_size or data_args.resize) == (
        crop_size,
        edges,
        edges,
    )
    assert data_args.scale_range == [0.5, 2.0]
    assert (args.max_steps, args.per_device_train_batch_size) == (steps, batch_size)


def expected_learning_rate(recipe, step, in_head):
    num_steps = ROWS[recipe.split("-")[0]][2]
    if recipe.endswith("mask2former"):
        return (1e-4 if in_head else 1e-5) * (1 - step / num_steps) ** 0.9
    if step < 1500:
        factor = step / 1500
    else:
        factor = (num_steps - step) / (num_steps - 1500)
    return (6e-4 if in_head else 6e-5) * factor


@pytest.mark.parametrize(
    ("recipe", "tiny_model"), [(recipe, model) for recipe in RECIPES for model in MODELS[recipe.split("-")[1]]]
)
def test_learning_rates_and_weight_decay_of_every_parameter_follow_the_closed_form(recipe, tiny_model, tmp_path):
    *_, args = parse("--recipe", recipe, "--output_dir", str(tmp_path))
    model = tiny_model()
    encoder = "model.pixel_level_module.encoder." if recipe.endswith("mask2former") else ("segformer.", "backbone.")
    modules = {p: module for module in model.modules() for p in module.parameters(recurse=False)}
    trainer = SegmentationTrainer(model, args)
    trainer.create_optimizer_and_scheduler(args.max_steps)
    optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler

    grouped = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    assert grouped.keys() == set(model.parameters())
    optimizer.step()  # there are no gradients; else the schedule warns
    last = args.max_steps - 1
    for step in (0, 750, 1500, args.max_steps // 2, last, args.max_steps):
        scheduler.last_epoch = step - 1
        scheduler.step()
        for name, parameter in model.named_parameters():
            expected = expected_learning_rate(recipe, step, in_head=not name.startswith(encoder))
            assert grouped[parameter]["lr"] == pytest.approx(expected, rel=1e-9, abs=0), (name, step)
    weight_decay = 0.05 if recipe.endswith("mask2former") else 0.01
    for name, parameter in model.named_parameters():
        expected = 0 if isinstance(modules[parameter], NORM_LAYERS) else weight_decay
        assert grouped[parameter]["weight_decay"] == expected, name
        assert grouped[parameter]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    ("recipe", "window_size", "stride"),
    [
        ("ade20k-segformer", [512, 512], [480, 480]),
        ("coco_stuff-segformer", [512, 512], [480, 480]),
        ("cityscapes-segformer", [1024, 1024], [768, 768]),
        ("cityscapes-segnext", [1024, 1024], [768, 768]),
        ("pascal_context-segnext", [480, 480], [320, 320]),
        ("ade20k-segnext", None, None),
        ("coco_stuff-segnext", None, None),
        ("ade20k-mask2former", None, None),
    ],
)
def test_windows_are_those_of_the_row_or_photos_are_whole(recipe, window_size, stride):
    parser = argparse.ArgumentParser()
    for name in ("--recipe", "--model"):
        parser.add_argument(name)
    for name in ("--window_size", "--stride"):
        parser.add_argument(name, type=int, nargs=2)
    words = ["--recipe", recipe]
    apply_recipe(parser, words)
    args = parser.parse_args(words)
    assert (args.window_size, args.stride) == (window_size, stride)
    assert not hasattr(args, "max_steps")


# Which recipe


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        (["ade20k", "--variant", "offseg-b3"], "ade20k-segformer"),
        (["ade20k", "--variant", "segformer-b3"], "ade20k-segformer"),
        (["cityscapes", "--variant", "offseg-t"], "cityscapes-segformer"),
        (["pascal_context", "--variant", "offseg-segnext-b"], "pascal_context-segnext"),
        (["ade20k", "--variant", "offseg-mask2former-t"], "ade20k-mask2former"),
        (["ade20k-segnext", "--variant", "offseg-b0"], "ade20k-segnext"),
        (["coco_stuff-segformer"], "coco_stuff-segformer"),
    ],
)
def test_recipe_is_that_of_the_variants_family_unless_named_in_full(words, recipe):
    _, data_args, args = parse("--recipe", *words)
    assert_arrived(read_recipe(recipe), data_args, args)


def test_recipe_is_that_of_the_models_family_when_weights_are_given(tmp_path):
    tiny_mask2former().save_pretrained(tmp_path / "mask2former")
    assert parse("--recipe", "ade20k", "--model_name_or_path", str(tmp_path / "mask2former"))[2].max_grad_norm == 0.01
    torch.manual_seed(0)
    OffsetLearningForSemanticSegmentation(
        OffsetLearningForSemanticSegmentation.config_class(base_config={"model_type": "segformer", "depths": [1] * 4})
    ).save_pretrained(tmp_path / "wrapped")
    assert parse("--recipe", "ade20k", "--model_name_or_path", str(tmp_path / "wrapped"))[2].max_steps == 160_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ade", "--variant", "offseg-b0"], "got 'ade' for a model of type offseg"),
        (["pascal_context", "--variant", "offseg-b0"], "got 'pascal_context' for a model of type offseg"),
        (["cityscapes", "--variant", "offseg-mask2former-t"], "got 'cityscapes' for a model of type offseg_mask2"),
        (["ade20k"], "got 'ade20k' for a model of type None"),
        (["ade20k", "--variant", "offseg-b9"], "`variant` must be one of offseg-b0, offseg-b1"),
    ],
)
def test_error_lists_the_known_recipes_when_there_is_none(words, message):
    listed = "" if "offseg-b9" in words else "`recipe` must be one of ade20k-mask2former, .*pascal_context-segnext, .*"
    with pytest.raises(ValueError, match=listed + message):
        parse("--recipe", *words)


# What wins


def test_given_arguments_win_over_the_recipe_and_the_recipe_over_the_defaults():
    more = ["--learning_rate", "1e-3", "--crop_size", "64", "96", "--total_batch_size", "4"]
    _, data_args, args = parse("--recipe", "cityscapes-segnext", *more)
    assert (args.learning_rate, data_args.crop_size, args.per_device_train_batch_size) == (1e-3, [64, 96], 4)
    assert (data_args.resize, args.max_steps) == ([2048, 1024], 160_000)


def test_epochs_that_are_given_win_over_the_recipes_steps():
    *_, args = parse("--recipe", "ade20k-segnext", "--num_train_epochs", "3")
    assert (args.max_steps, args.num_train_epochs) == (-1, 3)
    *_, args = parse("--recipe", "ade20k-segnext")
    assert args.max_steps == 160_000


def test_defaults_are_those_of_ade20k_but_for_the_warm_up():
    recipe = read_recipe("ade20k-segformer")
    _, data_args, args = parse()
    own = {"max_steps": -1, "total_batch_size": None, "warmup_steps": 0.05}  # a short training has a short warm-up
    assert_arrived(recipe | own, resolved_data_arguments(data_args), args)
    assert data_args.crop_size == []  # as it was
    assert args.per_device_train_batch_size == recipe["total_batch_size"]


def test_error_when_the_batch_of_a_recipe_is_not_the_one_of_a_device():
    with pytest.raises(ValueError, match=r"got 16 for 1 × 1 × 4; change one of them"):
        parse("--recipe", "ade20k-segformer", "--per_device_train_batch_size", "4")
    *_, args = parse(
        "--recipe", "ade20k-segformer", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "4"
    )
    assert args.per_device_train_batch_size == 4


# Training by it


class GradientNorm(TrainerCallback):
    """Notes the norm of the gradient that the optimiser is about to apply."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        self.norm = nn.utils.get_total_norm(gradients).item()


@pytest.mark.parametrize(("recipe", "clipped"), [("ade20k-mask2former", True), ("ade20k-segformer", False)])
def test_gradients_are_clipped_only_as_the_recipe_of_mask2former_says(tmp_path, recipe, clipped):
    *_, args = parse("--recipe", recipe, "--output_dir", str(tmp_path), "--max_steps", "1", "--save_strategy", "no")
    args.disable_tqdm = True
    examples = [{"pixel_values": torch.randn(3, 64, 64), "labels": torch.randint(4, (64, 64))} for _ in range(16)]
    seen = GradientNorm()
    collate = lambda batch: {name: torch.stack([example[name] for example in batch]) for name in batch[0]}  # noqa: E731
    Trainer(tiny_mask2former(), args, collate, train_dataset=examples, callbacks=[seen]).train()
    assert (seen.norm <= 0.010001) is clipped
