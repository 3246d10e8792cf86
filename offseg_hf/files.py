"""Files and folders that appear whole or not at all, whatever stops the program that writes them."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished-"  # what the names of files and folders begin with that are being written


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write to; the file appears under its own name when the block ends, and not at all where it fails.

    What appears is whole also where the machine loses power.

    Args:
        path (`str` or `os.PathLike`): the file, replaced where it exists; its folder is made if need be.

    Yields:
        `Path`: a file beside it that does not exist yet, with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name[-50:]}")  # names have at most 255 bytes
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill; it appears under its own name when the block ends, and not at all where it fails.

    Args:
        path (`str` or `os.PathLike`): the folder, new or empty; the folder around it is made if need be.

    Yields:
        `Path`: an empty folder beside it.

    Raises:
        OSError: where `path` is a file, or a folder that is not empty any more.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{path.name[:50]}-", dir=path.parent))
    # mkdtemp makes folders for their owner alone; a folder that is there already keeps who may read it.
    unfinished.chmod(path.stat().st_mode & 0o777 if path.is_dir() else 0o777 & ~_umask())
    try:
        yield unfinished
        if path.is_dir():
            path.rmdir()
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_output(path: str | os.PathLike, argument: str = "output") -> None:
    """Checks, before any work, that a file or folder can be written.

    Args:
        path (`str` or `os.PathLike`): what is to be written; its folder need not exist yet.
        argument (`str`, *optional*, defaults to `"output"`): what errors call it.

    Raises:
        NotADirectoryError: a folder of the path is a file.
        PermissionError: nothing may be written there.
    """
    folder = Path(path).absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"`{argument}` must lie in a folder, and {folder} is a file: name another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"`{argument}` must lie where files may be written, and {folder} is none: name another.")


def read_text(path: str | os.PathLike) -> str:
    """The content of a text file in UTF-8, without the byte-order mark that some editors and spreadsheets begin with.

    Args:
        path (`str` or `os.PathLike`): the file.

    Returns:
        `str`

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text in UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`{path}` must be a text file, but there is no such file; check the path.")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"`{path}` must be text in UTF-8, but {error}; save it in that encoding.") from error


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file, see [`read_text`].

    Args:
        path (`str` or `os.PathLike`): the file.

    Returns:
        What it holds: a dictionary, a list, a text or a number.

    Raises:
        FileNotFoundError, ValueError: as [`read_text`], and ValueError where it is no JSON, with the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"`{path}` must be JSON, but {error}; correct it there.") from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8 that appears whole or not at all.

    Args:
        path (`str` or `os.PathLike`): the file, replaced where it exists.
        text (`str`): its content.
    """
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: dict | list) -> None:
    """Writes a JSON file that appears whole or not at all.

    Args:
        path (`str` or `os.PathLike`): the file, replaced where it exists.
        content (`dict` or `list`): what it holds.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _umask():
    """The bits that new files and folders lack; they can be read only by setting them."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
