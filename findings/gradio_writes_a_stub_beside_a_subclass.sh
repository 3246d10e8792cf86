#!/usr/bin/env bash
# gradio 6.31.0: a module that defines a subclass of a component.
#
# One would guess that `class Photo(gr.Image)` with an overridden `preprocess` is a class like any other. Importing the
# module writes a file beside it, its name with the suffix .pyi, which from then on stands for the module to type
# checkers and linters. An import is put into it at a line that is counted, so that it is Python only where the module
# is laid out with blank lines as formatters do; without them the import lands inside the method.
#
# Seen: spaced.pyi written: True, valid: True; compact.pyi written: True, valid: False (IndentationError)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gradio==6.31.0
cd "$folder"
cat > spaced.py <<'PYTHON'
import gradio as gr


class Photo(gr.Image):
    """A photo that is left unopened."""

    def preprocess(self, payload):
        return payload and payload.path
PYTHON
grep -v '^$' spaced.py > compact.py
venv/bin/python - <<'PYTHON'
import importlib
from pathlib import Path

found = []
for name in ("spaced", "compact"):
    importlib.import_module(name)
    stub, problem = Path(f"{name}.pyi"), None
    if stub.exists():
        try:
            compile(stub.read_text(), stub.name, "exec")
        except SyntaxError as error:
            problem = type(error).__name__
    found.append((stub.exists(), problem))
    print(f"{stub.name} written: {stub.exists()}, valid: {problem is None}" + (f" ({problem})" if problem else ""))
assert found == [(True, None), (True, "IndentationError")]
PYTHON
