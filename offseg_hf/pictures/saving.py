"""Pictures whose files appear whole or not at all."""

import os
from typing import Any

from PIL import Image

from offseg_hf.files import whole_file


def save_picture(picture: Image.Image, path: str | os.PathLike, **options: Any) -> None:
    """Saves a picture so that its file appears whole or not at all.

    Args:
        picture (`PIL.Image.Image`): the picture.
        path (`str` or `os.PathLike`): the file, replaced where it exists; its suffix tells the format.
        **options: passed on to `PIL.Image.Image.save`.
    """
    with whole_file(path) as unfinished:
        picture.save(unfinished, **options)
