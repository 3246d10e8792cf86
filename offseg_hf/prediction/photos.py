"""The photos that a path names."""

import os
from pathlib import Path

from PIL import Image


def find_images(source: str | os.PathLike, name: str = "input") -> tuple[list[Path], list[Path]]:
    """The image files that a path names, and what else lies beside them.

    Args:
        source (`str` or `os.PathLike`): an image file, whatever its suffix, or a folder, of which the files are taken
            whose suffix is one of an image format that Pillow opens; sub-folders and hidden files are passed over.
        name (`str`, *optional*, defaults to `"input"`): what errors call the argument.

    Returns:
        `tuple[list[Path], list[Path]]`: the images, at least one, and the other files of the folder, both in the order
        of their names.

    Raises:
        FileNotFoundError: if there is nothing at `source`, or no image in it.
    """
    if not str(source):
        raise FileNotFoundError(f"`{name}` must be an image file or a folder of them, got an empty path; name one.")
    source = Path(source)
    if source.is_file():
        return [source], []
    if not source.is_dir():
        raise FileNotFoundError(
            f"`{name}` must be an image file or a folder of them, and there is no {source}; check the path."
        )
    suffixes = image_suffixes()
    files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in suffixes]
    others = [path for path in files if path.suffix.lower() not in suffixes]
    if not images:
        lies = f", but {', '.join(path.name for path in others[:5])} there" if others else ""
        raise FileNotFoundError(
            f"`{name}` must be a folder with images that Pillow opens, such as .jpg and .png, and {source} has none"
            f"{lies}: name the folder that has them, since sub-folders are not searched."
        )
    return images, others


def image_suffixes() -> set[str]:
    """The suffixes of the formats that Pillow, with the plug-ins that are loaded, can open and calls images."""
    of_suffix = Image.registered_extensions()  # which loads all of Pillow's own
    formats = {name for name in Image.OPEN if Image.MIME.get(name, "").startswith("image/")}
    return {suffix for suffix, name in of_suffix.items() if name in formats}
