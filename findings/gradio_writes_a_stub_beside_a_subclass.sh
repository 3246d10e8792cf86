#!/usr/bin/env bash
# gradio 6.31.0: a module that defines a subclass of a component.
#
# One would guess that `class Photo(gr.Image)` with an overridden `preprocess` is a class like any other. Importing the
# module writes a file beside it, its name with the suffix .pyi, which then stands for the module to every type checker
# and linter. It is made by inserting an import after the first line of the class body that the metaclass finds, so
# that it need not even be Python: where `preprocess` is the first method, the import lands inside it.
#
# Seen: mine.pyi was written: True; it is valid Python: False (IndentationError)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gradio==6.31.0
cd "$folder"
cat > mine.py <<'PYTHON'
import gradio as gr


class Photo(gr.Image):
    """A photo that is left unopened."""

    def preprocess(self, payload):
        return payload and payload.path
PYTHON
venv/bin/python - <<'PYTHON'
from pathlib import Path

import mine  # noqa: F401  that is all

stub = Path("mine.pyi")
written, problem = stub.exists(), None
if written:
    try:
        compile(stub.read_text(), "mine.pyi", "exec")
    except SyntaxError as error:
        problem = type(error).__name__
print(f"mine.pyi was written: {written}; it is valid Python: {problem is None} ({problem})")
assert written and problem == "IndentationError"
PYTHON
