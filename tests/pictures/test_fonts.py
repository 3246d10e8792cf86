import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from offseg_hf.pictures.fonts import fitting_text, font_of


def write_font(path, characters):
    """A font that has a square for each of the characters."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", *(f"u{ord(character):x}" for character in characters)]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): f"u{ord(character):x}" for character in characters})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.mark.parametrize("text", ["road", "café", "дорога", "δρόμος", "شارع", "train · photo …", ""])
def test_font_has_what_most_names_need(text):
    assert font_of(text, 14).getname() == ("DejaVu Sans", "Book")
    assert font_of(text, 14).size == 14


def test_bold_font_is_bold():
    assert font_of("road", 14, is_bold=True).getname() == ("DejaVu Sans", "Bold")


def test_font_of_other_scripts_is_found_on_the_machine(tmp_path, monkeypatch):
    write_font(tmp_path / "squares.ttf", "\ue123ab")  # of the private use area, which no other font has
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(font_manager, "X11FontDirectories", [str(tmp_path)])
    assert font_of("\ue123 ab", 14).getname() == ("Squares", "Regular")
    assert font_of("\ue123 z", 14) is None


def test_text_that_fits_is_left_as_it_is():
    assert fitting_text("road", font_of("road", 14), 100) == "road"


def test_text_that_does_not_fit_ends_in_an_ellipsis():
    font = font_of("road", 14)
    text = fitting_text("a rather long road", font, 70)
    assert text.endswith("…")
    assert "a rather long road".startswith(text[:-1])
    assert font.getlength(text) <= 70 < font.getlength("a rather long road")
