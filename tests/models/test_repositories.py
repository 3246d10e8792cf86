"""Repositories of published models: their files, and that these load without the package, in newer libraries too."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import test_modeling_offseg
import test_modeling_offseg_efficientformer
import test_modeling_offseg_mask2former
import test_modeling_offseg_segnext
import test_modeling_offset_learning_wrapper
import torch
from safetensors.torch import load_file
from test_library_internals import IN_MODELS

from offseg_hf import OffSegImageProcessor

SEMANTIC, UNIVERSAL = "AutoModelForSemanticSegmentation", "AutoModelForUniversalSegmentation"
PROCESSOR_FILES = {"image_processing_offseg.py", "image_reading.py", "label_map.py", "library_internals.py"}
# Family: how a tiny model is made, its Auto class, its files.
FAMILIES = {
    "offseg": (
        test_modeling_offseg.tiny_model,
        SEMANTIC,
        test_modeling_offseg.TestOffSeg.files | PROCESSOR_FILES,
    ),
    "segnext": (
        test_modeling_offseg_segnext.TestOffSegSegNext().tiny_model,
        SEMANTIC,
        test_modeling_offseg_segnext.TestOffSegSegNext.files | PROCESSOR_FILES,
    ),
    "efficientformer": (
        test_modeling_offseg_efficientformer.TestOffSegEfficientFormer().tiny_model,
        SEMANTIC,
        test_modeling_offseg_efficientformer.TestOffSegEfficientFormer.files | PROCESSOR_FILES,
    ),
    "wrapper": (
        lambda: test_modeling_offset_learning_wrapper.trained(
            test_modeling_offset_learning_wrapper.wrapped(test_modeling_offset_learning_wrapper.tiny_base())
        ),
        SEMANTIC,
        {
            "checkpoint_entries.py",
            "configuration_offset_learning_wrapper.py",
            "library_internals.py",
            "modeling_offset_learning_wrapper.py",
            "offset_learning.py",
        },
    ),
    "mask2former": (
        test_modeling_offseg_mask2former.tiny_model,
        UNIVERSAL,
        {
            "checkpoint_entries.py",
            "configuration_fields.py",
            "configuration_offseg_mask2former.py",
            "library_internals.py",
            "modeling_offseg_mask2former.py",
            "offset_learning.py",
        },
    ),
}
every_family = pytest.mark.parametrize("family", FAMILIES)

LOADS = """
import json, pathlib, sys, types, warnings
sys.modules["offseg_hf"] = None  # importing it raises an ImportError
import torch, transformers
from safetensors.torch import save_file
from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation, SegformerForSemanticSegmentation
from transformers import SwinBackbone, Trainer  # so that all that the library needs of itself is imported

def hide(path):
    module, name = path.rsplit(".", 1)
    without = types.ModuleType(module)
    vars(without).update(vars(sys.modules[module]))
    delattr(without, name)
    sys.modules[module] = without

families, hidden = json.loads(sys.argv[1]), json.loads(sys.argv[2])
outputs, warned = {}, {}
for state in ("today", "later"):
    if state == "later":
        for path in hidden:
            hide(path)
    for family, auto_class in families.items():
        repository = f"{family}-{state}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = getattr(transformers, auto_class).from_pretrained(repository, trust_remote_code=True)
        warned[repository] = [str(warning.message) for warning in caught if "transformers" in str(warning.message)]
        if pathlib.Path(repository, "preprocessor_config.json").exists():
            processor = AutoImageProcessor.from_pretrained(repository, trust_remote_code=True)
            assert type(processor).__name__ == "OffSegImageProcessor"
        for how in ("learning", "inference"):
            torch.manual_seed(0)
            with torch.set_grad_enabled(how == "learning"):
                result = model(torch.rand(2, 3, 64, 64), output_hidden_states=True)
            logits = result.masks_queries_logits if "masks_queries_logits" in result else result.logits
            outputs[f"{repository} {how}"] = logits.detach().contiguous()
            assert model(torch.rand(1, 3, 64, 64)).to_tuple()
save_file(outputs, "outputs.safetensors")
print(json.dumps(warned))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two repositories of each family, and what they answer in a process without the package.

    There, each second one is loaded after every name that `test_library_internals` lists has gone.
    """
    folder = tmp_path_factory.mktemp("repositories")
    with pytest.MonkeyPatch.context() as patch:
        for family, (make, auto_class, files) in FAMILIES.items():
            model = make()
            classes = {
                model.config_class: "AutoConfig",
                type(model): auto_class,
                OffSegImageProcessor: "AutoImageProcessor",
            }
            for registered, name in classes.items():
                patch.setattr(registered, "_auto_class", registered._auto_class)  # restored in the end
                registered.register_for_auto_class(name)
            model.save_pretrained(folder / f"{family}-today")
            if "image_processing_offseg.py" in files:
                OffSegImageProcessor().save_pretrained(folder / f"{family}-today")
            shutil.copytree(folder / f"{family}-today", folder / f"{family}-later")
    families = json.dumps({family: auto_class for family, (_, auto_class, _) in FAMILIES.items()})
    environment = os.environ | {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", LOADS, families, json.dumps(list(IN_MODELS))],
        cwd=folder, env=environment, stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    (folder / "warnings.json").write_text(run.stdout.splitlines()[-1])
    return folder


@every_family
def test_repository_has_the_files_that_the_model_needs(family, folder):
    assert {file.name for file in (folder / f"{family}-today").glob("*.py")} == FAMILIES[family][2]


@every_family
def test_files_run_without_the_package_when_loaded_as_remote_code(family, folder):
    answers = load_file(folder / "outputs.safetensors")
    model = FAMILIES[family][0]()
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = model(torch.rand(2, 3, 64, 64))
    expected = outputs.masks_queries_logits if family == "mask2former" else outputs.logits
    torch.testing.assert_close(answers[f"{family}-today inference"], expected, rtol=0, atol=0)


@every_family
def test_files_answer_the_same_in_a_library_whose_inner_names_have_gone(family, folder):
    answers = load_file(folder / "outputs.safetensors")
    for how in ("learning", "inference"):
        expected = answers[f"{family}-today {how}"]
        torch.testing.assert_close(answers[f"{family}-later {how}"], expected, rtol=1e-5, atol=1e-5)


def test_only_a_changed_encoder_is_warned_of(folder):
    warned = json.loads((folder / "warnings.json").read_text())
    (message,) = warned.pop("offseg-later")
    assert "makes SegFormer's encoder without SegformerDepthWiseConv" in message
    assert not any(warned.values())
