"""Pictures whose files appear whole or not at all."""

from offseg_hf.files import whole_file


def save_picture(picture, path, **options):
    """Saves a picture so that its file appears whole or not at all.

    Args:
        picture (`PIL.Image.Image`): the picture.
        path (`str` or `Path`): the file, replaced where it exists; its suffix tells the format.
        **options: passed on to `PIL.Image.Image.save`.
    """
    with whole_file(path) as unfinished:
        picture.save(unfinished, **options)
