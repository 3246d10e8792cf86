"""The light dataclasses of options, and the arguments of a training that are made of them."""

import dataclasses
import subprocess
import sys

import pytest
from transformers import HfArgumentParser, TrainingArguments

from offseg_hf.data import TrainTransform
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.options import AugmentationSettings, DataArguments, ModelArguments, RecipeArguments


def defaults(arguments):
    """Of a dataclass, by name."""
    return {
        field.name: field.default_factory() if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(arguments)
        if (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
    }


def test_options_are_light():
    heavy = "{'torch', 'transformers', 'datasets', 'numpy', 'PIL'}"
    code = f"""
import sys; sys.argv[0] = "offseg"  # whose help comes without what the package registers
import offseg_hf.training.options
print(*{heavy} & sys.modules.keys())
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_recipe_wins_over_the_defaults_of_transformers():
    recipe, ours, stock = map(defaults, (RecipeArguments, SegmentationTrainingArguments, TrainingArguments))
    assert {name: ours[name] for name in recipe} == recipe
    assert ours["learning_rate"] == 6e-5 != stock["learning_rate"]
    others = stock.keys() - recipe.keys() - {"dataloader_pin_memory"}
    assert {name: ours[name] for name in others} == {name: stock[name] for name in others}


def test_every_option_has_a_help_text():
    for arguments in (ModelArguments, DataArguments, RecipeArguments):
        for field in dataclasses.fields(arguments):
            assert field.metadata["help"].endswith("."), field.name


def test_defaults_of_the_augmentation_are_those_of_the_transform():
    given = defaults(DataArguments)
    for name, value in defaults(AugmentationSettings).items():
        assert value == getattr(TrainTransform(), name), name
        if name not in ("crop_size", "resize"):  # which a named data set has of its own
            assert given[name] == (list(value) if isinstance(value, tuple) else value), name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"optim": "adamw_torch", "lr_scheduler_kwargs": {"lr_end": 0.0, "power": 1.0}, "report_to": []}),
        (["--lr_decay_power", "0.9"], {"lr_scheduler_kwargs": {"lr_end": 0.0, "power": 0.9}}),
        (["--lr_scheduler_type", "cosine"], {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": None}),
        (["--optim", "sgd", "--batch_norm", "frozen"], {"optim": "sgd", "batch_norm": "frozen"}),
        (["--report_to", "none", "--warmup_steps", "0.1"], {"report_to": [], "warmup_steps": 0.1}),
    ],
)
def test_command_line_is_parsed(tmp_path, words, expected):
    parser = HfArgumentParser((ModelArguments, DataArguments, SegmentationTrainingArguments))
    argv = ["--dataset", "photos", "--output_dir", str(tmp_path), "--use_cpu", *words]
    _, data_args, args = parser.parse_args_into_dataclasses(argv)
    assert data_args.dataset == ["photos"]
    assert {name: getattr(args, name) for name in expected} == expected


@pytest.mark.parametrize(("option", "value"), [("--optim", "adam2"), ("--lr_scheduler_type", "square")])
def test_error_when_there_is_no_such_optimizer_or_schedule(tmp_path, option, value):
    parser = HfArgumentParser(SegmentationTrainingArguments)
    with pytest.raises(ValueError, match=f"{value} is not a valid .*please select one of"):
        parser.parse_args_into_dataclasses(["--output_dir", str(tmp_path), option, value])
