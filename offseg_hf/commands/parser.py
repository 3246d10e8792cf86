"""What all commands share: a parser that says a mistake in one sentence, and exit codes that a shell understands."""

import argparse
import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, NoReturn, get_args, get_origin

MAX_LENGTH = 1200  # characters of a message: what a terminal shows at once


class CommandParser(argparse.ArgumentParser):
    """The parser of `offseg NAME`. A mistake is one line of usage and one sentence, not a page.

    Args:
        name (`str`): the sub-command's.
        description (`str`): what its help says, as it stands; a module's docstring.
        usage (`str`, *optional*): the line of usage; that of the required arguments if left out.
        names (`dict[str, str]`, *optional*): what the package calls an argument, where that differs → its name here.
    """

    def __init__(
        self, name: str, description: str | None, usage: str | None = None, names: dict[str, str] | None = None
    ):
        self.names = names or {}
        super().__init__(
            prog=f"offseg {name}",
            usage=usage,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's, for words none of which is empty: an empty path would mean the current folder."""
        words = list(sys.argv[1:] if args is None else args)
        for position, word in enumerate(words):
            name, is_joined, value = word.partition("=")
            if not word.strip() or (name.startswith("--") and is_joined and not value.strip()):
                flag = name if is_joined else next((each for each in words[position::-1] if each[:2] == "--"), "words")
                self.error(f"`{flag}` must not be empty: write its value, or leave `{flag}` out.")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Ends the command with exit code 2; arguments are called as they are typed."""
        flags = {action.dest: action.option_strings[-1] for action in self._actions if action.option_strings}

        def as_typed(found):
            name = self.names.get(found[1], found[1])
            return f"`{flags[name]}`" if name in flags else found[0]

        message = re.sub(r"(?<!Python )`(\w+)`", as_typed, " ".join(message.split()))
        if len(message) > MAX_LENGTH:  # some list all that is wrong
            message = f"{message[:MAX_LENGTH]} …"
        required = [action for action in self._actions if action.required and action.option_strings]
        words = [f"{action.option_strings[0]} {action.dest.upper()}" for action in required]
        usage = self.usage or " ".join([self.prog, *words])
        self.exit(2, f"usage: {usage} … (--help lists all)\n{self.prog}: error: {message}\n")

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

            from offseg_hf.model_types import innermost

            if not isinstance(error, (ImportError, OSError, ValueError, StrictDataclassError, SafetensorError, *more)):
                raise
            cause = innermost(error)
            self.error(str(cause) or type(cause).__name__)


class _MaxPixels(argparse.Action):
    """Sets Pillow's limit when the argument is read, for this process and those that it starts by forking."""

    def __call__(self, parser, namespace, values, option_string=None):
        from offseg_hf.models.image_reading import limit_pixels

        try:
            limit_pixels(values)
        except ValueError as error:
            parser.error(str(error))
        setattr(namespace, self.dest, values)


def _white(word):
    """A number of `--max_value`."""
    if not word.isdecimal() or not 1 <= int(word) <= 65535:
        raise argparse.ArgumentTypeError(f"it must be a whole number from 1 to 65535, got {word}")
    return int(word)


def add_photo_arguments(parser: argparse.ArgumentParser, with_max_value: bool = True) -> None:
    """Adds what says how photos are read: `--max_pixels` and `--max_value`.

    Args:
        parser (`argparse.ArgumentParser`): of a command that reads photos.
        with_max_value (`bool`, *optional*, defaults to `True`): whether the second is added.
    """
    parser.add_argument(
        "--max_pixels",
        type=int,
        action=_MaxPixels,
        help="Pixels that a photo may have, against files that fill the memory (default: 178956970).",
    )
    if with_max_value:
        parser.add_argument(
            "--max_value",
            type=_white,
            help="White in photos of more than 8 bits, such as 4095 for 12; by default the model's, or 65535.",
        )


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
