"""What importing the package does, and which file may import which."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import offseg_hf

ROOT = Path(offseg_hf.__file__).parents[1]
PACKAGE = ROOT / "offseg_hf"
FILES = sorted([*PACKAGE.rglob("*.py"), *ROOT.glob("scripts/**/*.py")])
# What the files of each room may import of the package: their own room, and those of the rows above that stand here.
FOUNDATIONS = {"models", "registration", "variants", "model_types", "files", "hub", "markdown", "pictures"}
SOURCES = {*FOUNDATIONS, "data", "prediction", "conversion", "complexity"}
MAY_IMPORT = {
    "models": set(),
    "files": set(),
    "hub": set(),
    "markdown": set(),
    "registration": {"models"},
    "variants": {"models", "registration"},
    "model_types": {"models", "registration", "hub"},
    "pictures": {"models", "files"},
    "data": FOUNDATIONS,
    "prediction": {*FOUNDATIONS, "data"},
    "conversion": FOUNDATIONS,
    "complexity": FOUNDATIONS,
    "evaluation": SOURCES,
    "export": SOURCES,
    "training": {*SOURCES, "evaluation"},
    "publishing": {*SOURCES, "evaluation"},
    "commands": {*SOURCES, "evaluation", "export", "training", "publishing"},
    "__init__": {"registration"},
    "__main__": {"commands"},
}
HUB_FILES_MAY_IMPORT = {"torch", "transformers", "huggingface_hub", "numpy", "PIL"} | set(sys.stdlib_module_names)


def imported_modules(file):
    """Names of the modules a file imports; a sibling's with its leading dot."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def room_of(file):
    """`data` for offseg_hf/data/sources.py, `files` for offseg_hf/files.py."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_imports_go_one_way(file):
    room = room_of(file)
    imported = {name.split(".")[1] for name in imported_modules(file) if name.startswith("offseg_hf.")}
    if room == "__init__":  # what only type checkers import is left out
        imported = {"registration"}
    assert imported <= MAY_IMPORT[room] | {room}
    assert room == "commands" or "offseg_hf" not in imported_modules(file)  # the public names


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


def public_functions(scope, prefix=""):
    """(name, node) of the public functions of a module, and of the methods of its public classes, `__init__` too."""
    for node in scope.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and re.match(r"[^_]|__\w+__$", node.name):
            yield prefix + node.name, node


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_public_functions_say_the_types_of_their_arguments_and_of_what_they_return(file):
    missing = []  # `*args` and `**kwargs` may be without: what a library's method is called with is the library's
    for name, node in public_functions(ast.parse(file.read_text())):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        untyped = [one.arg for one in arguments if one.annotation is None and one.arg not in ("self", "cls")]
        if node.returns is None and not name.endswith(".__init__"):
            untyped.append("what it returns")
        missing += [f"{name}: {one}" for one in untyped]
    assert not missing, f"{file.relative_to(ROOT)} has no types for {'; '.join(missing)}"


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
