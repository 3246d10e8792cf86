#!/usr/bin/env bash
# transformers 5.24.0, torch 2.13.0: get_polynomial_decay_schedule_with_warmup with parameter groups of different rates.
#
# One would guess that `lr_end` is the rate at which every group ends. It is a multiple: the factor of each step is
# worked out from the optimiser's *default* rate, and every group's own rate is multiplied by it. A head with ten times
# the encoder's rate ends at 10 × lr_end; and where the optimiser was made without `lr=`, its default of 1e-3 counts,
# which no group has, so that all of them end far below `lr_end`. Only lr_end=0 means the same to every group.
#
# Seen:
#   lr=6e-5 given:     encoder 1.0e-06, head 1.0e-05
#   AdamW's own lr:    encoder 6.0e-08, head 6.0e-07
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import get_polynomial_decay_schedule_with_warmup


def last_rates(**options):
    encoder, head = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [encoder], "lr": 6e-5}, {"params": [head], "lr": 6e-4}]
    optimizer = torch.optim.AdamW(groups, **options)
    schedule = get_polynomial_decay_schedule_with_warmup(optimizer, 0, 10, lr_end=1e-6, power=1.0)
    for _ in range(12):
        optimizer.step()
        schedule.step()
    return [f"{group['lr']:.1e}" for group in optimizer.param_groups]


given, default = last_rates(lr=6e-5), last_rates()
print("lr=6e-5 given:     encoder {}, head {}".format(*given))
print("AdamW's own lr:    encoder {}, head {}".format(*default))
assert given == ["1.0e-06", "1.0e-05"]
assert default == ["6.0e-08", "6.0e-07"]
PYTHON
