"""What importing the package does, and which file may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import offseg_hf

ROOT = Path(offseg_hf.__file__).parents[1]
FILES = sorted([*ROOT.glob("offseg_hf/**/*.py"), *ROOT.glob("scripts/*.py")])
# What the files of each part may import of the package: itself, and what stands here. `scripts` may import all.
MAY_IMPORT = {
    "models": set(),
    "variants": {"models"},
    "data": {"models"},
    "metrics": {"models"},
    "inference": {"models"},
    "visualization": {"models"},
    "training_arguments": set(),
    "recipes": {"variants", "data"},
    "lora": set(),
    "optimization": {"models", "training_arguments"},
    "evaluation": {"models", "data", "metrics", "inference", "visualization"},
    "trainer": {"data", "evaluation", "inference"},
    "training": {
        *("models", "variants", "data", "metrics", "inference", "visualization"),
        *("evaluation", "lora", "optimization", "trainer", "training_arguments", "watching"),
    },
    "curves": set(),
    "watching": {"data", "inference", "visualization", "evaluation", "optimization", "training_arguments", "curves"},
    "conversion": {"models", "variants", "data", "metrics", "inference", "visualization"},
    "complexity": {"inference"},
    "literal": {"models"},
    "benchmark_models": {"models", "data", "literal"},
    "benchmark_cases": {"variants", "benchmark_models"},
    "benchmark": {
        *("models", "variants", "inference", "complexity", "literal", "benchmark_cases", "benchmark_models"),
    },
    "benchmark_report": {"benchmark_models"},
    "benchmark_pictures": {"variants", "benchmark_models"},
    "model_card": {"models", "variants", "inference"},
    "hub": {"models", "variants", "data", "inference", "model_card"},
    "export": {"models", "inference"},
    "__init__": {"models", "variants"},  # importing the package must not import datasets
}
HUB_FILES_MAY_IMPORT = {"torch", "transformers", "huggingface_hub", "numpy", "PIL"} | set(sys.stdlib_module_names)


def imported_modules(file):
    """Names of the modules a file imports; a sibling's with its leading dot."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def part_of(file):
    """`data` for offseg_hf/data/loading.py, `metrics` for offseg_hf/metrics.py."""
    return file.relative_to(ROOT / "offseg_hf").with_suffix("").parts[0]


@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name != "scripts"], ids=str)
def test_imports_go_one_way(file):
    part = part_of(file)
    imported = {name.split(".")[1] for name in imported_modules(file) if name.startswith("offseg_hf.")}
    assert imported <= MAY_IMPORT[part] | {part}
    assert "offseg_hf" not in imported_modules(file)


@pytest.mark.parametrize("file", sorted((ROOT / "offseg_hf" / "models").glob("*.py")), ids=str)
def test_hub_files_import_only_siblings_and_what_every_user_has(file):
    siblings = {f".{other.stem}" for other in file.parent.glob("*.py")}
    for name in imported_modules(file):
        assert name in siblings or name.split(".")[0] in HUB_FILES_MAY_IMPORT, name


@pytest.mark.parametrize("file", sorted((ROOT / "offseg_hf" / "models").glob("modeling_*.py")), ids=str)
def test_no_modeling_file_imports_another(file):
    assert not any(name.startswith(".modeling_") for name in imported_modules(file))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_file_imports_torchvision_or_timm(file):
    assert not {name.split(".")[0] for name in imported_modules(file)} & {"torchvision", "timm"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_import_loads_neither_datasets_nor_evaluate_nor_gradio_and_registers_the_classes():
    code = """
import sys, offseg_hf
from transformers import AutoConfig, AutoModelForSemanticSegmentation
print(*{"datasets", "evaluate", "gradio", "torchvision"} & sys.modules.keys(), "|")
config = AutoConfig.for_model("offseg", depths=(1, 1, 1, 1))
print(type(AutoModelForSemanticSegmentation.from_config(config)).__name__)
"""
    assert run(code) == ["|", "OffSegForSemanticSegmentation"]


def test_public_names_are_all_there():
    assert offseg_hf.__all__ == sorted(
        offseg_hf.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)
    )
    for name in offseg_hf.__all__:
        assert getattr(offseg_hf, name).__doc__
