"""Text in any script: the first font that has all of its characters."""

from functools import cache
from pathlib import Path

from PIL import ImageFont

ELLIPSIS = "…"


def font_of(text: str, size: float, is_bold: bool = False) -> ImageFont.FreeTypeFont | None:
    """A font in which a text can be read.

    Args:
        text (`str`): the text.
        size (`float`): in pixels.
        is_bold (`bool`): whether to take bold letters, where DejaVu Sans has the text.

    Returns:
        `PIL.ImageFont.FreeTypeFont` or `None`: DejaVu Sans, which comes with matplotlib and has Latin, Greek,
        Cyrillic, Arabic and more; else the first font of this machine that has all characters, such as Chinese ones;
        `None` where there is none.
    """
    wanted = {ord(character) for character in text if not character.isspace()}
    path = _dejavu(is_bold) if wanted <= _characters(_dejavu(is_bold)) else _system_font(frozenset(wanted))
    return path and ImageFont.truetype(path, size)


def default_font(size: float, is_bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, for text that every font has.

    Args:
        size (`float`): in pixels.
        is_bold (`bool`): whether to take bold letters.

    Returns:
        `PIL.ImageFont.FreeTypeFont`
    """
    return ImageFont.truetype(_dejavu(is_bold), size)


def fitting_text(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of its beginning as fits, and an ellipsis.

    Args:
        text (`str`): the text.
        font (`PIL.ImageFont.FreeTypeFont`): see [`font_of`].
        width (`float`): in pixels.

    Returns:
        `str`
    """
    if font.getlength(text) <= width:
        return text
    end = ELLIPSIS if ord(ELLIPSIS) in _characters(str(font.path)) else "..."
    while text and font.getlength(text.rstrip() + end) > width:
        text = text[:-1]
    return text.rstrip() + end


@cache
def _dejavu(is_bold):
    """The font's file."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if is_bold else "DejaVuSans.ttf"
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", name))


@cache
def _system_font(wanted):
    """The first font of this machine that has these characters."""
    from matplotlib.font_manager import findSystemFonts

    return next((path for path in sorted(findSystemFonts()) if wanted <= _characters(path)), None)


@cache
def _characters(path):
    """The characters that a font's file has outlines of."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (RuntimeError, OSError):  # a damaged one, or of a format that FreeType does not know
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
