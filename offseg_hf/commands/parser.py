"""What all commands share: a parser that says a mistake in one sentence, and exit codes that a shell understands."""

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, NoReturn, get_args, get_origin


class CommandParser(argparse.ArgumentParser):
    """The parser of `offseg NAME`. A mistake is one line of usage and one sentence, not a page.

    Args:
        name (`str`): the sub-command's.
        description (`str`): what its help says, as it stands; a module's docstring.
        usage (`str`, *optional*): the line of usage; that of the required arguments if left out.
    """

    def __init__(self, name: str, description: str | None, usage: str | None = None):
        super().__init__(
            prog=f"offseg {name}",
            usage=usage,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Ends the command with exit code 2."""
        required = [action for action in self._actions if action.required and action.option_strings]
        words = [f"{action.option_strings[0]} {action.dest.upper()}" for action in required]
        usage = self.usage or " ".join([self.prog, *words])
        self.exit(2, f"usage: {usage} … (--help lists all)\n{self.prog}: error: {' '.join(message.split())}\n")

    @contextlib.contextmanager
    def mistakes(self, *more: type[Exception]) -> Iterator[None]:
        """What wrong arguments raise inside, whoever raises it, ends the command with that sentence and exit code 2.

        Args:
            more (`type`): classes of exceptions besides `ImportError` (an extra is missing), `OSError`, `ValueError`,
                and those about configurations and weights that do not hold together.
        """
        try:
            yield
        except Exception as error:
            from huggingface_hub.errors import StrictDataclassError
            from safetensors import SafetensorError

            if not isinstance(error, (ImportError, OSError, ValueError, StrictDataclassError, SafetensorError, *more)):
                raise
            self.error(str(error) or type(error).__name__)


def exit_code(main: Callable[..., int | None]) -> Callable[..., int]:
    """Makes a command's `main` return its exit code, whichever way it ends.

    Args:
        main (`Callable`): of a list of words, or `None` for the process's own; returns 1 where part of the work
            failed, else 0 or nothing.

    Returns:
        `Callable`: the same, which returns 0 or 1, 2 after a mistake in the arguments, 130 after Ctrl-C.
    """

    @functools.wraps(main)
    def command(argv: list[str] | None = None) -> int:
        was_in_group = _process_group() is not None
        try:
            code = main(argv) or 0
            if not was_in_group and (group := _process_group()) is not None:
                # Its threads do not survive Python's end, which could abort the process.
                group.destroy_process_group()
            return code
        except SystemExit as end:  # argparse's, after its help or a mistake
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
                return 1
            return int(end.code or 0)
        except KeyboardInterrupt as error:
            print(f"\n{error}" if str(error) else "\nstopped by Ctrl-C", file=sys.stderr)
            return 130

    return command


def _process_group():
    """torch's module of process groups, where this process is in one."""
    distributed = sys.modules.get("torch.distributed")  # not loaded by every command
    is_in_one = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if is_in_one else None


def add_fields(parser: argparse.ArgumentParser, heading: str, dataclass: type) -> None:
    """Adds a group of arguments, one for each field of a dataclass, as `transformers.HfArgumentParser` would.

    Args:
        parser (`argparse.ArgumentParser`): for its help, which names each argument's type and default.
        heading (`str`): the group's.
        dataclass (`type`): whose fields have `help`, and what else `add_argument` takes, as their metadata.
    """
    group = parser.add_argument_group(heading)
    for field in fields(dataclass):
        kind: Any = field.type
        if isinstance(kind, UnionType):  # of `None | str | list[str]` the parser takes str
            kind = next(each for each in get_args(kind) if each is not type(None))
        if is_list := get_origin(kind) is list:
            (kind,) = get_args(kind)
        options = {"metavar": kind.__name__.upper(), "required": False, "default": field.default, **field.metadata}
        if options.get("choices"):
            del options["metavar"]
        if is_list:
            options["nargs"] = "+"
        elif field.type is bool:
            options |= {"nargs": "?", "const": True}
        if field.default_factory is not MISSING:
            options["default"] = field.default_factory()
        elif field.default is MISSING:
            options |= {"default": None, "required": True}
        if options["default"] is not None and options["default"] is not False and options["default"] != []:
            shown = " ".join(map(str, options["default"])) if is_list else options["default"]
            options["help"] += f" (default: {shown})"
        group.add_argument(f"--{field.name}", **options)
