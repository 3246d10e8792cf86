#!/usr/bin/env bash
# transformers 5.24.0: an EfficientNet made from a configuration, to be trained from random weights.
#
# One would guess that its maps depend on the photo from the start. But the scales of its BatchNorms, too, are drawn from a
# normal distribution with a deviation of 0.02 where others set them to 1: each of the fifty-odd norms shrinks what is left
# of the image, and after the last block two different photos cannot be told apart in float32. MobileNetV2 of the same
# library, made the same way, keeps them apart.
#
# Seen, deviation of the difference between the last maps of two photos: EfficientNet 2.2e-29, MobileNetV2 1.3e+00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from transformers import EfficientNetConfig, EfficientNetModel, MobileNetV2Config, MobileNetV2Model

torch.manual_seed(0)
photos = torch.rand(2, 3, 128, 128)
deviations = {}
for name, model in (
    ("EfficientNet", EfficientNetModel(EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280))),
    ("MobileNetV2", MobileNetV2Model(MobileNetV2Config())),
):
    with torch.no_grad():
        maps = model.train()(photos, output_hidden_states=True).hidden_states[-1]  # norms by the batch, as in training
    deviations[name] = (maps[0] - maps[1]).std().item()
print(", ".join(f"{name} {deviation:.1e}" for name, deviation in deviations.items()))
assert deviations["EfficientNet"] < 1e-6 < 1e-3 < deviations["MobileNetV2"]
PYTHON
