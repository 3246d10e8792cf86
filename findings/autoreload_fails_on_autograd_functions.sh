#!/usr/bin/env bash
# ipython 9.18.1, torch 2.13.0: `%autoreload 2` and a module that defines a torch.autograd.Function.
#
# One would guess that a notebook reloads any module of pure Python. IPython updates old classes in place and goes down
# into each class attribute that is a class itself. Every `autograd.Function` has one, `_backward_cls`, and that has one
# that leads back, `_forward_cls`, so that the update goes round until "[autoreload of loss failed: …]" with a
# RecursionError. The message is printed, the cell goes on, and what was made before keeps the old code.
#
# Seen: autoreload failed: True, RecursionError: True; a module without such a class: reloaded, value 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q ipython==9.18.1 numpy
cd "$folder"
export IPYTHONDIR="$folder/ipython"
cat > reload.py <<'PYTHON'
import contextlib
import io
import os
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

FUNCTION = '''
import torch

class Twice(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, gradient):
        return 2 * gradient
'''
shell = InteractiveShell.instance()


def reloaded(name, source):
    """What is printed where a module is saved anew while a notebook has it."""
    Path(f"{name}.py").write_text(source + "\nvalue = 1\n")
    for cell in ("%load_ext autoreload", "%autoreload 2", f"import {name}"):
        shell.run_cell(cell).raise_error()
    Path(f"{name}.py").write_text(source + "\nvalue = 2\n")
    os.utime(f"{name}.py", (2e9, 2e9))
    with contextlib.redirect_stderr(io.StringIO()) as printed, contextlib.redirect_stdout(printed):
        shell.run_cell(f"found = {name}.value").raise_error()
    return printed.getvalue()


failure, plain = reloaded("loss", FUNCTION), reloaded("plain", "")
print(f"autoreload failed: {'autoreload of loss failed' in failure}, RecursionError: {'RecursionError' in failure}; "
      f"a module without such a class: reloaded, value {shell.user_ns['found']}")
assert "autoreload of loss failed" in failure and "RecursionError" in failure
assert not plain and shell.user_ns["found"] == 2
PYTHON
venv/bin/python reload.py
