"""What importing the package makes transformers know, also where it is imported again, as notebooks do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import offseg_hf

IMPORTED_TWICE = """
import importlib, sys
import offseg_hf
{again}
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation
from transformers import AutoModelForUniversalSegmentation
from transformers import AutoBackbone
from offseg_hf.models.modeling_offseg import OffSegForSemanticSegmentation
from offseg_hf.models.modeling_offseg_mask2former import OffSegMask2FormerForUniversalSegmentation
config = AutoConfig.for_model("offseg", depths=(1, 1, 1, 1), num_labels=3)
model = AutoModelForSemanticSegmentation.from_config(config)
assert type(model) is OffSegForSemanticSegmentation, type(model)
assert type(model) is offseg_hf.OffSegForSemanticSegmentation
model.save_pretrained(sys.argv[1])
offseg_hf.OffSegImageProcessor().save_pretrained(sys.argv[1])
assert type(AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1])) is OffSegForSemanticSegmentation
# Image processors are looked up by name, and transformers keeps the first class of a name besides the last.
assert type(AutoImageProcessor.from_pretrained(sys.argv[1])).__name__ == "OffSegImageProcessor"
assert AutoModelForUniversalSegmentation._model_mapping[
    type(AutoConfig.for_model("offseg_mask2former"))
] is OffSegMask2FormerForUniversalSegmentation
assert AutoBackbone._model_mapping[offseg_hf.OffSegSegNextConfig] is offseg_hf.MscanBackbone
"""
AGAIN = {
    "afresh": "for name in [name for name in sys.modules if name.split('.')[0] == 'offseg_hf']:\n"
    "    del sys.modules[name]\n"
    "import offseg_hf",
    "reloaded": "importlib.reload(offseg_hf)\nimportlib.reload(sys.modules['offseg_hf.registration'])",
}


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
def test_models_are_registered_when_the_package_is_imported_twice(again, tmp_path):
    subprocess.run([sys.executable, "-c", IMPORTED_TWICE.format(again=again), str(tmp_path)], check=True)


def test_names_are_those_of_the_reloaded_modules():
    code = """
import importlib, sys
sys.argv[0] = "offseg"  # so that nothing is registered, which takes seconds
import offseg_hf
before = offseg_hf.variant_config
importlib.reload(importlib.import_module("offseg_hf.variants"))
importlib.reload(offseg_hf)
assert offseg_hf.variant_config is not before
assert offseg_hf.variant_config is importlib.import_module("offseg_hf.variants").variant_config
assert "SegmentationTrainer" in dir(offseg_hf)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_models_are_registered_after_a_notebooks_autoreload(tmp_path):
    pytest.importorskip("IPython", reason="needs the extra `dev`")
    package = Path(offseg_hf.__file__).parent
    shutil.copytree(package, tmp_path / "offseg_hf", ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import os, sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
def cell(source):
    shell.run_cell(source).raise_error()
cell("%load_ext autoreload")
cell("%autoreload 2")
cell("import offseg_hf")
import offseg_hf
assert Path(offseg_hf.__file__).is_relative_to(Path.cwd())
for file in Path("offseg_hf").rglob("*.py"):
    if "autograd.Function" not in file.read_text():  # IPython 9 cannot reload a class of these, whoever wrote it
        os.utime(file, (2e9, 2e9))  # as if saved by an editor
cell("from transformers import AutoConfig, AutoModelForSemanticSegmentation")
cell("config = AutoConfig.for_model('offseg', depths=(1, 1, 1, 1), num_labels=3)")
cell("model = AutoModelForSemanticSegmentation.from_config(config)")
cell("assert type(model).__name__ == 'OffSegForSemanticSegmentation'")
cell("assert isinstance(model, offseg_hf.OffSegForSemanticSegmentation)")
cell("assert isinstance(config, offseg_hf.OffSegConfig)")
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "autoreload of" not in result.stderr, result.stderr  # which says so where a reload failed


@pytest.mark.slow
@pytest.mark.parametrize("program", [["-m", "mine.program"], ["offseg.py"]], ids=" ".join)
def test_models_are_registered_in_programs_of_a_persons_own(program, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("import offseg_hf\n")
    check = "import offseg_hf\nfrom transformers import AutoConfig\nprint(AutoConfig.for_model('offseg').model_type)\n"
    for file in (tmp_path / "mine" / "program.py", tmp_path / "offseg.py"):
        file.write_text(check)
    environment = {**os.environ, "PYTHONPATH": str(Path(offseg_hf.__file__).parents[1])}
    command = [sys.executable, *program]
    result = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert result.stdout.split() == ["offseg"]
