"""The command itself: its help, its exit codes, and what is loaded for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import offseg_hf
from offseg_hf.commands.main import COMMANDS, main
from offseg_hf.commands.parser import CommandParser, exit_code

ROOT = Path(__file__).parents[2]
OTHER_SCRIPTS = {ROOT / "scripts" / name for name in ("build_space_model.py", "sync_space.py")}
DOORS = sorted(set(ROOT.glob("scripts/*.py")) - OTHER_SCRIPTS)
HEAVY = ("torch", "transformers", "datasets", "numpy")
# As the console script calls it, on Windows too, and as `python -m offseg_hf` does; what is loaded stands at the end.
CALL = """
import sys
sys.argv = {argv!r}
from offseg_hf.commands.main import main
code = main()
print(*{heavy!r} & sys.modules.keys())
sys.exit(code)
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_commands_are_listed_with_a_line_each(capsys):
    assert main([]) == main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name in COMMANDS:
        assert printed.count(f"\n  {name:<10}  ") == 2
    assert all(len(line) < 120 for line in printed.splitlines())


def test_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"offseg-hf {offseg_hf.__version__}\n"


@pytest.mark.parametrize(("name", "meant"), [("trian", " Did you mean `offseg train`?"), ("sing", "")])
def test_unknown_command_is_told_the_known_ones(capsys, name, meant):
    assert main([name]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "usage: offseg COMMAND … (--help lists all)"
    assert printed[1:] == [f"offseg: error: the command must be one of {', '.join(COMMANDS)}, got '{name}'.{meant}"]


@pytest.mark.parametrize("program", ["offseg", "/usr/bin/offseg", "Scripts/OFFSEG.exe"])
def test_help_loads_nothing_heavy(program):
    words = [program, "train", "--help"]
    printed = run(CALL.format(argv=words, heavy=set(HEAVY)))
    assert "--model_name_or_path" in printed
    assert printed.splitlines()[-1] == ""


def test_help_loads_nothing_heavy_when_the_package_is_run_as_a_module():
    command = [sys.executable, "-X", "importtime", "-m", "offseg_hf", "train", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "offseg_hf.training.options" in loaded and not loaded & set(HEAVY)
    assert "--model_name_or_path" in result.stdout


def test_help_of_all_commands_loads_nothing_heavy_and_has_two_command_lines_each():
    code = f"""
import sys, time
sys.argv = ["offseg"]
from offseg_hf.commands.main import COMMANDS, main
for name in COMMANDS:
    assert main([name, "--help"]) == 0
print(time.process_time(), *{set(HEAVY)!r} & sys.modules.keys())
"""
    printed = run(code)
    seconds, *loaded = printed.splitlines()[-1].split()
    assert not loaded
    assert float(seconds) < 3  # of the processor, for nine; measured 0.2
    for name in COMMANDS:
        assert printed.count(f"\n    offseg {name}") + printed.count(f"-m offseg_hf {name} ") >= 2


def test_models_are_registered_by_what_the_commands_work_goes_through():
    code = """
import sys
sys.argv = ["offseg"]
import offseg_hf
assert "transformers" not in sys.modules
import offseg_hf.model_types
from transformers import AutoConfig
print(AutoConfig.for_model("offseg").model_type)
"""
    assert run(code) == "offseg\n"


@pytest.mark.parametrize("program", ["offseg.py", "train.py", ""])
def test_models_are_registered_by_an_import_in_other_programs(program):
    code = f"""
import sys
sys.argv = [{program!r}]
class Finder:
    def find_spec(name, path, target=None):
        if name == "offseg_hf.registration":
            sys.exit(print("registers"))
sys.meta_path.insert(0, Finder)
import offseg_hf
"""
    assert run(code) == "registers\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("quickstart", "variants")])
def test_missing_arguments_are_a_line_of_usage_and_a_sentence(capsys, name):
    assert main([name]) == 2
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith(f"usage: offseg {name} --") and usage.endswith(" … (--help lists all)")
    assert error.startswith(f"offseg {name}: error: the following arguments are required: --")


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "\nstopped by Ctrl-C\n"),
        (ValueError("`x` must be\n  1, got 2."), 2, "usage: offseg test … (--help lists all)\n"
         "offseg test: error: `x` must be 1, got 2.\n"),
        (FileNotFoundError("no file"), 2, "usage: offseg test … (--help lists all)\noffseg test: error: no file\n"),
    ],
)  # fmt: skip
def test_what_ends_a_command_is_an_exit_code_and_one_line(capsys, raised, code, message):
    @exit_code
    def command(argv):
        with CommandParser("test", "").mistakes():
            raise raised

    assert command() == code
    assert capsys.readouterr().err == message


def test_command_leaves_the_process_group_that_it_joined(tmp_path):
    @exit_code
    def command(argv):
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)

    assert command() == 0 and not torch.distributed.is_initialized()


def test_faults_that_are_nobodys_mistake_keep_their_trace():
    with pytest.raises(KeyError), CommandParser("test", "").mistakes():
        raise KeyError


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.stem)
def test_doors_of_a_clone_are_the_commands(door, capsys, monkeypatch):
    """In this process, since what a door adds is its import of `main`."""
    namespace = {"__name__": "__main__", "__file__": str(door)}
    monkeypatch.setattr(sys, "argv", [str(door), "--help"])
    with pytest.raises(SystemExit) as end:
        exec(compile(door.read_text(), door, "exec"), namespace)
    assert not end.value.code
    assert namespace["__doc__"].split("`")[1] in capsys.readouterr().out


def test_there_is_a_door_for_each_command():
    assert len(DOORS) == len(COMMANDS)


def test_door_that_is_called_like_a_library_hides_nothing(scenes, shared_model, tmp_path):
    words = ["--model", shared_model, "--dataset", scenes, "--output", tmp_path / "results.json", "--pictures", "0"]
    command = [sys.executable, ROOT / "scripts" / "evaluate.py", *map(str, words)]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (tmp_path / "results.json").is_file()
