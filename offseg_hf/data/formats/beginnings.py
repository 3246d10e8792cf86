"""How annotation files begin, from which a format is recognised without reading them."""

from collections.abc import Iterator
from pathlib import Path

NUM_CHARACTERS = 1 << 16  # of a file; labels of a large data set are hundreds of megabytes
NUM_FILES = 8


def read_beginnings(place: Path, suffix: str) -> Iterator[str]:
    """How the first annotation files begin, those of the folder itself before those in its sub-folders.

    Args:
        place (`Path`): a folder, or one file.
        suffix (`str`): what the files' names end with, such as `".json"`.

    Yields:
        `str`: up to 65,536 characters; what is no UTF-8 is replaced.
    """
    for file in annotation_files(place, suffix)[:NUM_FILES]:
        with file.open(encoding="utf-8-sig", errors="replace") as opened:
            yield opened.read(NUM_CHARACTERS)


def annotation_files(place: Path, suffix: str) -> list[Path]:
    """The annotation files of a folder and its sub-folders, hidden ones left out.

    Args:
        place (`Path`): a folder, or one file, which is given back if its name ends so.
        suffix (`str`): what the files' names end with, in small letters, such as `".json"`.

    Returns:
        `list[Path]`: sorted, those of the folder itself first.
    """
    files = [place] if place.is_file() else place.rglob("*")
    found = [file for file in files if file.suffix.lower() == suffix and file.is_file()]
    if place.is_dir():
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(place).parts)]
    return sorted(found, key=lambda file: (len(file.parts) > len(place.parts) + 1, file))
