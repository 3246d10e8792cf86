"""Labels that are damaged: one sentence that names the file, whatever is wrong in it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def naming(source: str | Path, what: str = "what is in it") -> Iterator[None]:
    """Has errors of code that reads labels name these, where a key lacks or a value is not as the tool writes it.

    Args:
        source (`str` or `Path`): what errors call the labels.
        what (`str`, *optional*): what of them is read.

    Raises:
        ValueError: the code met what it cannot understand. Errors of files, and those that name a file already, which
            begin with a backtick, stay as they are.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith("`"):
            raise
        found = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be understood ({error})"
        raise ValueError(
            f"`{source}` must be as the labelling tool writes it, but {what} {found}; correct it in the tool and "
            "export it again."
        ) from error


def read_text(file: Path) -> str:
    """The text of a file, with or without a byte order mark.

    Args:
        file (`Path`): the file.

    Returns:
        `str`

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no UTF-8.
    """
    if not file.is_file():
        raise FileNotFoundError(f"`{file}` must say what the labels mean, and is not there; export it with them.")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"`{file}` must be text in UTF-8, but is not ({error}); save it as UTF-8.") from error


def read_json(file: Path) -> Any:
    """What a JSON file says.

    Args:
        file (`Path`): the file.

    Returns:
        `Any`

    Raises:
        ValueError: it is no JSON.
    """
    text = read_text(file)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{file}` must be JSON, but cannot be read ({error}); export it again.") from error
