"""Writes into the Space's folder what it repeats of the package, so that a plain clone of that folder works alone.

    python scripts/sync_space.py
    python scripts/sync_space.py --check

The first writes spaces/offseg/package_copies.py, which holds the functions of `COPIED`, and the code of the model
beside its weights in spaces/offseg/tiny-street-scenes. The second writes nothing: it names the files that differ from
the package's and exits with 1 where there are any.
"""

import argparse
import ast
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "spaces" / "offseg"
MODEL = SPACE / "tiny-street-scenes"
COPIED = {  # module of the package → what the Space calls of it
    "offseg_hf.model_types": ("auto_model_class", "predicted_labels"),
    "offseg_hf.models.image_reading": ("read_image",),
    "offseg_hf.pictures.overlays": ("overlay",),
    "offseg_hf.pictures.palettes": ("default_palette",),
    "offseg_hf.prediction.scores": ("label_maps",),
}
HEADING = '''"""Functions of the package `offseg_hf`, written here by its scripts/sync_space.py: change them there."""

# ruff: noqa: I001
'''


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Write nothing; exit with 1 where a copy differs.")
    args = parser.parse_args(argv)
    copies = {SPACE / "package_copies.py": copied_functions(COPIED), **model_code()}
    present = [SPACE / "package_copies.py", *MODEL.glob("*.py")]
    found = {path: path.read_text(encoding="utf-8") for path in present if path.exists()}
    differing = sorted(path for path in found.keys() | copies.keys() if found.get(path) != copies.get(path))
    for path in differing:
        print(path.relative_to(ROOT))
        if not args.check:
            if path in copies:
                path.write_text(copies[path], encoding="utf-8")
            else:
                path.unlink()
    if args.check and differing:
        sys.exit("These files differ from the package's code: run python scripts/sync_space.py")


def model_code():
    """The files, path → text, that the model's configuration names, and those that they import."""
    configurations = [json.loads(path.read_text()) for path in MODEL.glob("*config.json")]
    waiting = [name.split(".")[0] for each in configurations for name in each.get("auto_map", {}).values()]
    code = {}
    while waiting:
        name = waiting.pop()
        if MODEL / f"{name}.py" not in code:
            text = (ROOT / "offseg_hf" / "models" / f"{name}.py").read_text(encoding="utf-8")
            code[MODEL / f"{name}.py"] = text
            waiting += re.findall(r"^from \.(\w+) import", text, re.MULTILINE)
    return code


def copied_functions(wanted):
    """The text of a module that holds some functions, and all that they use, of other modules of the package.

    Args:
        wanted (`dict[str, tuple[str, ...]]`): name of a module → names that are defined at its top level.

    Returns:
        `str`: the module: its imports, then the definitions as they are in their own modules.

    Raises:
        ValueError: where a name is not defined there, is imported in a way that cannot be followed, or is defined
            twice, in different ways.
    """
    imports, definitions = set(), {}  # statements; name → text
    for module, names in wanted.items():
        _collect(module, names, imports, definitions)
    return HEADING + "\n".join(sorted(imports)) + "\n\n\n" + "\n\n\n".join(definitions.values()) + "\n"


def _collect(module, names, imports, definitions):
    """Adds the definitions of some names of a module, in the module's order, after all that they use."""
    source = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8")
    defined, imported = _top_level(ast.parse(source), module)
    needed, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in defined and name not in needed:
            used = {node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)}
            waiting += used & (defined.keys() | imported.keys())
        elif name not in defined and name not in imported:
            raise ValueError(f"`{name}` must be defined in {module}, and is not: correct `COPIED`.")
        needed.add(name)

    for name in sorted(needed & imported.keys()):
        origin, statement = imported[name]
        if not origin.startswith("offseg_hf"):
            imports.add(statement)
        elif statement == f"from {origin} import {name}":
            _collect(origin, [name], imports, definitions)
        else:
            raise ValueError(f"`{name}` must be imported by its own name in {module}, not by `{statement}`.")
    lines = source.splitlines()
    for name in filter(needed.__contains__, defined):
        text = _text(lines, defined[name])
        if definitions.setdefault(name, text) != text:
            raise ValueError(f"`{name}` must mean the same in all copied modules, and {module} differs: rename it.")


def _top_level(tree, module):
    """What a module defines, name → node, and imports, name → (module that it is from, statement)."""
    defined, imported = {}, {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            defined[node.targets[0].id] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined[node.target.id] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            origin = getattr(node, "module", None)
            if getattr(node, "level", 0):
                origin = ".".join([*module.split(".")[: -node.level], *filter(None, [origin])])
            for alias in node.names:
                end = alias.name + (f" as {alias.asname}" if alias.asname else "")
                statement = f"from {origin} import {end}" if origin else f"import {end}"
                imported[alias.asname or alias.name.split(".")[0]] = (origin or alias.name, statement)
    return defined, imported


def _text(lines, node):
    """The lines of a definition, with its decorators and the comment above it."""
    start = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))]) - 1
    while start and lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start : node.end_lineno])


if __name__ == "__main__":
    main()
