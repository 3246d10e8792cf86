"""The photos that a path names."""

import os
from pathlib import Path

from offseg_hf.data.layouts import IMAGE_SUFFIXES


def find_images(source: str | os.PathLike) -> list[Path]:
    """The image files that a path names.

    Args:
        source (`str` or `os.PathLike`): an image file, whatever its suffix, or a folder, of which the files with a
            suffix of an image format are taken, sub-folders and hidden files left out.

    Returns:
        `list[Path]`: at least one file, in the order of their names.

    Raises:
        FileNotFoundError: if there is nothing at `source`, or no image in it.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(
            f"The photos must be an image file or a folder of them, and there is no {source}; check the path."
        )
    images = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    images = [path for path in images if not path.name.startswith(".")]
    if not images:
        raise FileNotFoundError(
            f"A folder of photos must hold image files ({', '.join(IMAGE_SUFFIXES)}), and {source} has none: name the "
            "folder that has them, since sub-folders are not searched."
        )
    return images
