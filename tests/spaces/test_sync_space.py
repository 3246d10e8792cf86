"""What the Space's folder repeats of the package is what scripts/sync_space.py writes."""

import importlib.util
import shutil

import numpy as np
import package_copies
import pytest
from running_space import SPACE

from offseg_hf.pictures.palettes import default_palette

SCRIPT = SPACE.parents[1] / "scripts" / "sync_space.py"


@pytest.fixture
def sync_space():
    specification = importlib.util.spec_from_file_location("sync_space", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def clone(sync_space, tmp_path, monkeypatch):
    """A folder with the Space and the package's code, of which the script takes itself to be a part."""
    for name in ("spaces/offseg", "offseg_hf"):
        shutil.copytree(SPACE.parents[1] / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    space = tmp_path / "spaces" / "offseg"
    for name, value in {"ROOT": tmp_path, "SPACE": space, "MODEL": space / "tiny-street-scenes"}.items():
        monkeypatch.setattr(sync_space, name, value)
    return tmp_path


def test_copies_are_those_that_the_script_writes(sync_space, capsys):
    sync_space.main(["--check"])
    assert capsys.readouterr().out == ""  # the files that differ


@pytest.mark.parametrize("num_colours", [1, 8, 300])
def test_palette_is_the_packages_own(num_colours):
    assert np.array_equal(package_copies.default_palette(num_colours), default_palette(num_colours))


def test_check_names_what_differs_and_the_script_repairs_it(sync_space, clone, capsys):
    space = clone / "spaces" / "offseg"
    before = {path: path.read_bytes() for path in space.rglob("*") if path.is_file()}
    (space / "package_copies.py").write_text("old = True\n")
    (space / "tiny-street-scenes" / "label_map.py").unlink()
    (space / "tiny-street-scenes" / "left_over.py").write_text("old = True\n")
    with pytest.raises(SystemExit, match=r"differ from the package's code: run python scripts/sync_space.py"):
        sync_space.main(["--check"])
    names = ["package_copies.py", "tiny-street-scenes/label_map.py", "tiny-street-scenes/left_over.py"]
    assert capsys.readouterr().out.split() == [f"spaces/offseg/{name}" for name in names]
    sync_space.main([])
    sync_space.main(["--check"])
    assert {path: path.read_bytes() for path in space.rglob("*") if path.is_file()} == before


def written(clone, name, text):
    (clone / "offseg_hf" / f"{name}.py").write_text(text)
    return f"offseg_hf.{name}"


def test_functions_come_with_all_that_they_use(sync_space, clone):
    written(clone, "lengths", "import math\n\n# In metres.\nUNIT = 2  # or so\n\n\ndef unused():\n    return UNIT\n")
    source = """
from functools import cache

import numpy as np

from offseg_hf.lengths import UNIT


def unused():
    return np.ones(2)


@cache
def area(size):
    return _squared(size) * UNIT**2


def _squared(size):
    return size * size
"""
    text = sync_space.copied_functions({written(clone, "areas", source): ("area",)})
    copied = {}
    exec(text, copied)
    assert copied["area"](3) == 36
    assert "# In metres.\nUNIT = 2  # or so\n" in text
    assert "unused" not in copied and "np" not in copied and "math" not in copied


@pytest.mark.parametrize(
    "source, message",
    [
        ("", "`area` must be defined in offseg_hf.areas, and is not: correct `COPIED`"),
        ("from offseg_hf.variants import VARIANTS as area\n", "must be imported by its own name in offseg_hf.areas"),
    ],
)
def test_a_name_that_cannot_be_followed_is_refused(source, message, sync_space, clone):
    with pytest.raises(ValueError, match=message):
        sync_space.copied_functions({written(clone, "areas", source): ("area",)})


def test_a_name_of_two_meanings_is_refused(sync_space, clone):
    wanted = {written(clone, name, f"UNIT = {name!r}\n"): ("UNIT",) for name in ("first", "second")}
    with pytest.raises(ValueError, match=r"`UNIT` must mean the same .* and offseg_hf.second differs: rename it"):
        sync_space.copied_functions(wanted)
