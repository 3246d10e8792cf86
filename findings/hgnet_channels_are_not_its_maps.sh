#!/usr/bin/env bash
# transformers 5.24.0: HGNetV2Backbone, made from a default HGNetV2Config, and a head that is built from its `channels`.
#
# One would guess that `backbone.channels` are the channels of its feature maps, as for every other backbone. The maps
# follow `stage_out_channels`, `channels` follows `hidden_sizes`, and the defaults of the two disagree in the first stage:
# a head of 1×1 convolutions made from `channels` fails at its first forward pass.
#
# Seen: channels [256, 512, 1024, 2048], maps [128, 512, 1024, 2048]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from transformers import HGNetV2Backbone, HGNetV2Config

backbone = HGNetV2Backbone(HGNetV2Config(out_features=["stage1", "stage2", "stage3", "stage4"])).eval()
with torch.no_grad():
    maps = [one.shape[1] for one in backbone(torch.rand(1, 3, 64, 64)).feature_maps]
print(f"channels {backbone.channels}, maps {maps}")
assert (backbone.channels, maps) == ([256, 512, 1024, 2048], [128, 512, 1024, 2048])
PYTHON
