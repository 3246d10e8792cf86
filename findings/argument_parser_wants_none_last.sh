#!/usr/bin/env bash
# transformers 5.24.0: HfArgumentParser reads a dataclass's union types by their order.
#
# `None | list[int]` and `list[int] | None` are the same type to Python and to every type checker, and linters rewrite
# one to the other's order. The parser takes the second, and dies at the first with a TypeError that names neither the
# field nor the class. With two types besides None, only the orders of TrainingArguments' own fields pass:
# `None | str | list[str]` and `list[str] | str | None` do, `str | list[str] | None` does not. So a `ruff check --fix`
# (RUF036, "None not at the end of the type annotation") turns a working command line into that TypeError.
#
# Seen:
#   list[int] | None          taken
#   None | list[int]          TypeError: isinstance() argument 2 cannot be a parameterized generic
#   None | str | list[str]    taken
#   list[str] | str | None    taken
#   str | list[str] | None    TypeError: isinstance() argument 2 cannot be a parameterized generic
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import dataclasses

from transformers import HfArgumentParser

TYPES = {
    "list[int] | None": list[int] | None,
    "None | list[int]": None | list[int],
    "None | str | list[str]": None | str | list[str],
    "list[str] | str | None": list[str] | str | None,
    "str | list[str] | None": str | list[str] | None,
}
results = {}
for name, annotation in TYPES.items():
    fields = dataclasses.make_dataclass("Arguments", [("value", annotation, dataclasses.field(default=None))])
    try:
        HfArgumentParser(fields)
        results[name] = "taken"
    except TypeError as error:
        results[name] = f"TypeError: {error}"
    print(f"{name:25} {results[name]}")
refused = "TypeError: isinstance() argument 2 cannot be a parameterized generic"
assert list(results.values()) == ["taken", refused, "taken", "taken", refused]
PYTHON
