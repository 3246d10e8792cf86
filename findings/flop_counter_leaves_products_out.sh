#!/usr/bin/env bash
# torch 2.13.0: torch.utils.flop_counter.FlopCounterMode counts matrix products by the name of the operator alone.
#
# One would guess that a product is counted however it is written. In-place products (`baddbmm_`, `addmm_`), products of
# a matrix with a vector (`matrix @ vector`, `addmv`), `dot`, `outer` and `nn.functional.bilinear` count as nothing,
# without a word; `out=` and `einsum` are counted. The same arithmetic gives 2,048 or 0, so that making a model's product
# in place seems to make it free.
#
# Seen: {'@': 2048, 'baddbmm': 2048, 'bmm(out=)': 2048, 'einsum': 2048, 'baddbmm_': 0, 'addmm_': 0, 'matrix @ vector': 0,
#        'addmv': 0, 'dot': 0, 'outer': 0, 'bilinear': 0}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.utils.flop_counter import FlopCounterMode

a, b, out, weight = torch.randn(2, 8, 8), torch.randn(2, 8, 8), torch.zeros(2, 8, 8), torch.randn(4, 8, 8)
matrix, vector = a[0], a[1, 0]
ways = {
    "@": lambda: a @ b,
    "baddbmm": lambda: torch.baddbmm(out, a, b),
    "bmm(out=)": lambda: torch.bmm(a, b, out=out),
    "einsum": lambda: torch.einsum("bij,bjk->bik", a, b),
    "baddbmm_": lambda: out.baddbmm_(a, b),
    "addmm_": lambda: torch.zeros(8, 8).addmm_(matrix, b[0]),
    "matrix @ vector": lambda: matrix @ vector,
    "addmv": lambda: torch.addmv(vector, matrix, vector),
    "dot": lambda: torch.dot(vector, vector),
    "outer": lambda: torch.outer(vector, vector),
    "bilinear": lambda: torch.nn.functional.bilinear(matrix, b[0], weight),
}
counts = {}
for name, compute in ways.items():
    with FlopCounterMode(display=False) as counter:
        compute()
    counts[name] = counter.get_total_flops()
print(counts)
counted = ("@", "baddbmm", "bmm(out=)", "einsum")
assert all(counts[name] == 2048 for name in counted)
assert not any(count for name, count in counts.items() if name not in counted)
PYTHON
