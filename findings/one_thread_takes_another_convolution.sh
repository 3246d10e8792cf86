#!/usr/bin/env bash
# torch 2.13.0, CPU, float32: the same 1×1 convolution of a small batch on one thread and on two.
#
# One would guess that the number of threads changes the time alone. On one thread torch leaves oneDNN out for 1×1
# convolutions of batches up to 16 and takes its own im2col convolution ("_slow_conv2d"), forward and backward: who
# compares models on one thread compares other code than what runs on two, and the results differ in the last bits.
#
# Seen: 1 thread: aten::_slow_conv2d_forward, 2 threads: aten::mkldnn_convolution
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch

convolution, images = torch.nn.Conv2d(64, 64, 1), torch.randn(8, 64, 56, 56)
kernels = {"aten::_slow_conv2d_forward", "aten::mkldnn_convolution"}
found = []
for num_threads in (1, 2):
    torch.set_num_threads(num_threads)
    with torch.profiler.profile() as profile:
        convolution(images)
    found.append(*(kernels & {event.key for event in profile.key_averages()}))
print("1 thread: {}, 2 threads: {}".format(*found))
assert found == ["aten::_slow_conv2d_forward", "aten::mkldnn_convolution"]
PYTHON
