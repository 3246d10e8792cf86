"""Efficient semantic segmentation with offset learning: from photos and masks to a published model."""

import argparse
import difflib
import importlib
import sys

from offseg_hf import __version__
from offseg_hf.commands.parser import exit_code

COMMANDS = ("quickstart", "train", "evaluate", "predict", "prepare", "convert", "export", "publish", "variants")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `offseg` itself, whose help lists the sub-commands with the first line of each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {_module(name).__doc__.splitlines()[0]}" for name in COMMANDS]
    parser = argparse.ArgumentParser(
        prog="offseg",
        usage="offseg COMMAND …",
        description=__doc__,
        epilog="\n".join(["commands:", *lines, "\n`offseg COMMAND --help` says more of each."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"offseg-hf {__version__}")
    return parser


@exit_code
def main(argv: list[str] | None = None) -> int:
    """Runs a sub-command.

    Args:
        argv (`list[str]`, *optional*): its name and its arguments; the process's own if left out.

    Returns:
        `int`: the exit code: 0; 1 where part of the work failed; 2 after a mistake in the arguments; 130 after Ctrl-C.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        return _module(name).main(arguments)
    if name.startswith("-"):
        build_parser().parse_args([name])  # ends here for --help and --version
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    meant = f" Did you mean `offseg {close[0]}`?" if close else ""
    print(
        f"usage: offseg COMMAND … (--help lists all)\n"
        f"offseg: error: the command must be one of {', '.join(COMMANDS)}, got {name!r}.{meant}",
        file=sys.stderr,
    )
    return 2


def _module(name):
    return importlib.import_module(f"offseg_hf.commands.{name}")


if __name__ == "__main__":
    sys.exit(main())
