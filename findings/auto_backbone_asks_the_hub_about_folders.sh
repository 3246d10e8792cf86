#!/usr/bin/env bash
# transformers 5.24.0: AutoBackbone.from_pretrained of a folder that save_pretrained wrote.
#
# One would guess that it loads, as with every other Auto class. But this class first asks the Hub whether a repository of
# that name exists, to tell transformers' weights from timm's names: an absolute path raises an error about the form of
# repository names, and a relative one is taken for a name of timm where the Hub says no. The backbone's own class loads
# the folder.
#
# Seen: AutoConfig: ResNetConfig, AutoBackbone: HFValidationError, ResNetBackbone: ResNetBackbone
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0
cd "$folder"
venv/bin/python - <<'PYTHON'
from pathlib import Path

from transformers import AutoBackbone, AutoConfig, ResNetBackbone, ResNetConfig

path = Path("saved").absolute()
config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
ResNetBackbone(config).save_pretrained(path)
found = [type(AutoConfig.from_pretrained(path)).__name__]
for loader in (AutoBackbone, ResNetBackbone):
    try:
        found.append(type(loader.from_pretrained(path)).__name__)
    except Exception as error:
        found.append(type(error).__name__)
print("AutoConfig: {}, AutoBackbone: {}, ResNetBackbone: {}".format(*found))
assert found == ["ResNetConfig", "HFValidationError", "ResNetBackbone"]
PYTHON
