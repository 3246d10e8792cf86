#!/usr/bin/env bash
# transformers 5.24.0: MobileNetV2 and EfficientNet, trained further.
#
# One would guess that their BatchNorms keep running statistics that a single odd batch hardly moves, as ported networks
# do. But both hand TensorFlow's momentum, the share of the *old* statistics (0.997 and 0.99), to PyTorch, where momentum
# is the share of the *new* batch: after one step of training the statistics are little more than that batch's, and a
# model that is fine-tuned with small batches evaluates by the last one.
#
# Seen: share of one batch in the running mean: MobileNetV2 0.997, EfficientNet 0.990, ResNet 0.100
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
from transformers import ResNetConfig, ResNetModel

models = {
    "MobileNetV2": MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.1)),
    "EfficientNet": EfficientNetModel(EfficientNetConfig(width_coefficient=0.2, depth_coefficient=1.0, hidden_dim=256)),
    "ResNet": ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])),
}
shares = {}
for name, model in models.items():
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    means = []
    norm.register_forward_pre_hook(lambda module, inputs: means.append(inputs[0].mean((0, 2, 3))))
    norm.running_mean.fill_(5.0)
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 64, 64))
    share = (norm.running_mean - 5) / (means[0] - 5)  # new = (1 − share) · old + share · batch's
    shares[name] = round(share.mean().item(), 3)
print("share of one batch in the running mean: " + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))
assert shares == {"MobileNetV2": 0.997, "EfficientNet": 0.99, "ResNet": 0.1}
PYTHON
