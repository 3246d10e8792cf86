#!/usr/bin/env bash
# transformers 5.24.0: registering a model type anew with exist_ok=True, as a notebook does that defines its classes again.
#
# One would guess that what is registered last is what the Auto classes give. It is so for configurations and models.
# Image processors are found by the *name* in preprocessor_config.json, among all classes ever registered, the oldest
# first; and since a class defined again makes a new key, the old one stays for ever. So one folder loads the new model
# with the old image processor, without a word, and an edit to the processor's code seems to do nothing.
#
# Seen: configuration: new, model: new, image processor: old
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0 pillow
cd "$folder"
venv/bin/python - <<'PYTHON'
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_backends import PilBackend


def define(version):
    """The cell of a notebook that defines three classes and registers them."""

    class MineConfig(PreTrainedConfig):
        model_type = "mine"

    class MineModel(PreTrainedModel):
        config_class = MineConfig

        def __init__(self, config):
            super().__init__(config)
            self.layer = nn.Linear(1, 1)
            self.post_init()

    class MineImageProcessor(PilBackend):
        pass

    for defined in (MineConfig, MineModel, MineImageProcessor):
        defined.version = version
    AutoConfig.register("mine", MineConfig, exist_ok=True)
    AutoModel.register(MineConfig, MineModel, exist_ok=True)
    AutoImageProcessor.register(MineConfig, image_processor_classes={"pil": MineImageProcessor}, exist_ok=True)
    return MineConfig, MineModel, MineImageProcessor


define("old")
config_class, model_class, processor_class = define("new")
model_class(config_class()).save_pretrained("mine")
processor_class().save_pretrained("mine")
found = [auto.from_pretrained("mine").version for auto in (AutoConfig, AutoModel, AutoImageProcessor)]
print("configuration: {}, model: {}, image processor: {}".format(*found))
assert found == ["new", "new", "old"]
PYTHON
