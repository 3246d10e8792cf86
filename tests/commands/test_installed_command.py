"""The wheel, installed outside the clone: the command `offseg` from photos and masks to a label map."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from PIL import Image

from offseg_hf.commands.main import COMMANDS
from offseg_hf.data.scenes.scenes import SCENE_LABELS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def offseg(tmp_path_factory):
    """The console script of an environment with the wheel, beside the libraries of this one, run outside the clone."""
    folder = tmp_path_factory.mktemp("installed")
    clone = folder / "clone"  # where setuptools may leave its files
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "outputs", "results", "tests", "spaces")
    shutil.copytree(ROOT, clone, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, clone], check=True)
    shutil.rmtree(clone)
    (wheel,) = folder.glob("offseg_hf-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    installed = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    # Libraries only: a line of another .pth file, of an editable installation of the clone, is not read there.
    (installed / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    work = folder / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(*words, program="offseg"):
        command = [str(word) for word in (python.with_name(program), *words)]
        found = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return found.stdout

    where = "import offseg_hf; print(offseg_hf.__file__)"
    assert Path(run("-c", where, program="python").strip()) == installed / "offseg_hf" / "__init__.py"
    assert (installed / "offseg_hf" / "py.typed").is_file()
    for recipe in (ROOT / "offseg_hf" / "training" / "recipes").glob("*.json"):
        assert (installed / "offseg_hf" / "training" / "recipes" / recipe.name).is_file()
    assert not {"tests", "scripts", "spaces"} & {path.name for path in installed.iterdir()}
    run.work = work
    return run


def test_help_of_every_command(offseg):
    assert "quickstart" in offseg("--help")
    for name in COMMANDS:
        assert f"\n    offseg {name}" in offseg(name, "--help")


def test_quickstart_then_predict(offseg):
    shown = offseg("quickstart", "--from_scratch", "--max_steps", 4, "--num_train", 8)
    assert "$ offseg train " in shown and "mIoU" in shown
    made = offseg.work / "outputs" / "quickstart"
    assert (made / "pictures.png").is_file()
    Image.open(made / "pictures.png").convert("RGB").save(offseg.work / "photo.jpg")
    offseg("predict", "--model", made / "model", "--input", "photo.jpg", "--output", "segmented")
    assert {path.name for path in (offseg.work / "segmented").iterdir()} == {"photo_labels.png", "photo_overlay.jpg"}


def test_train_then_evaluate_then_predict_then_export(offseg, scenes, shared_model):
    offseg(
        "train", "--model_name_or_path", shared_model, "--dataset", scenes, "--labels", ",".join(SCENE_LABELS),
        "--output_dir", "model", "--max_steps", 2, "--warmup_steps", 1, "--per_device_train_batch_size", 2,
        "--crop_size", 64, 64, "--resize", 96, 64, "--use_cpu",
    )  # fmt: skip
    assert "mIoU" in offseg("evaluate", "--model", "model", "--dataset", scenes)
    Image.new("RGB", (96, 64)).save(offseg.work / "one.png")
    assert "1 of 1 photos" in offseg("predict", "--model", "model", "--input", "one.png", "--output", "one")
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="needs the extra `onnx`")
    assert "onnx/model.onnx" in offseg("export", "--model", "model", "--output", "onnx")
