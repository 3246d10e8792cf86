"""Photos that the Space reads within limits, and the pictures that it makes."""

import struct
import zlib

import numpy as np
import pictures
import pytest
from package_copies import default_palette, overlay
from PIL import Image


def written(path, picture, **options):
    picture.save(path, **options)
    return path


# Photos


def test_photo_is_upright_rgb_when_it_has_an_orientation(tmp_path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :20] = 255  # the upper left corner
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    photo = pictures.read_photo(written(tmp_path / "photo.png", Image.fromarray(pixels), exif=exif))
    assert (photo.mode, photo.size) == ("RGB", (40, 60))
    assert photo.getpixel((39, 0)) == (255, 255, 255) and photo.getpixel((0, 0)) == (0, 0, 0)


def test_photo_is_scaled_to_8_bits_when_it_has_16(tmp_path):
    grey = Image.fromarray(np.full((40, 40), 257 * 100, np.uint16))
    assert pictures.read_photo(written(tmp_path / "photo.png", grey)).getpixel((0, 0)) == (100, 100, 100)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_photo_is_rgb_when_its_file_has_another_mode(mode, tmp_path):
    path = written(tmp_path / "photo.tif", Image.new("L", (40, 40), 255).convert(mode))
    photo = pictures.read_photo(path)
    assert (photo.mode, photo.getpixel((5, 5))) == ("RGB", (255, 255, 255))


def test_text_is_refused(tmp_path):
    path = tmp_path / "photo.png"
    path.write_text("no picture")
    with pytest.raises(pictures.PhotoError, match="no picture that can be read here: send a JPEG"):
        pictures.read_photo(path)


def test_damaged_photo_is_refused(tmp_path, photo):
    path = written(tmp_path / "photo.jpg", photo)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(pictures.PhotoError, match="damaged and cannot be read to its end"):
        pictures.read_photo(path)


def test_photo_is_refused_when_its_values_are_no_colours(tmp_path):
    path = written(tmp_path / "photo.tif", Image.fromarray(np.full((40, 40), -3.5, np.float32)))
    with pytest.raises(pictures.PhotoError, match="its values are no colours: save it as a JPEG or PNG file"):
        pictures.read_photo(path)


def bomb(path, width, height):
    """A PNG file of a few bytes that claims to have these sides."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
    return path


@pytest.mark.parametrize(
    "width, height, message",
    [
        (10_000, 6_000, "up to 50 megapixels, this one has 60: scale it down"),
        (60_000, 60_000, "up to 50 megapixels: scale this one down"),
        (1_000, 20, "at least 32 pixels high and wide.*this one is 1000 × 20"),
        (9_000, 1_000, "at most 8 times as long as wide, this one is 9000 × 1000"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_photo_is_refused_before_it_is_decoded_when_its_sides_are_beyond_the_limits(width, height, message, tmp_path):
    with pytest.raises(pictures.PhotoError, match=message):
        pictures.read_photo(bomb(tmp_path / "photo.png", width, height))


def test_photo_is_refused_when_its_file_is_too_large(tmp_path):
    path = tmp_path / "photo.png"
    with path.open("wb") as file:
        file.truncate(21 * 1024**2)
    with pytest.raises(pictures.PhotoError, match="up to 20 MB, this file has 21 MB: save it smaller"):
        pictures.read_photo(path)


# Pictures


@pytest.mark.parametrize("dtype, num_classes", [(np.uint8, 256), (np.uint16, 300)])
def test_label_picture_keeps_every_id(dtype, num_classes, tmp_path):
    labels = np.arange(num_classes, dtype=dtype).reshape(-1, 4)
    path = written(tmp_path / "labels.png", pictures.label_picture(labels, default_palette(num_classes)))
    with Image.open(path) as file:
        assert np.array_equal(np.asarray(file), labels)


def test_label_picture_looks_like_its_classes():
    colours = default_palette(3)
    picture = pictures.label_picture(np.array([[2, 0]], np.uint8), colours)
    assert np.array_equal(np.asarray(picture.convert("RGB")), [[colours[2], colours[0]]])


def test_overlay_mixes_photo_and_colours():
    photo = Image.new("RGB", (1, 1), (100, 200, 0))
    mixed = overlay(photo, np.array([[1]]), np.array([(0, 0, 0), (200, 100, 40)], np.uint8), 0.25)
    assert mixed.getpixel((0, 0)) == (125, 175, 10)


def test_heat_map_is_bright_where_values_are_high():
    heat = np.asarray(pictures.heat_map(np.array([[0.1, 0.3]]), Image.new("RGB", (20, 10))))
    assert heat[:, -1].sum() > 2 * heat[:, 0].sum()
    assert heat.shape == (10, 20, 3)


@pytest.mark.parametrize("size, expected", [((3000, 1500), (1200, 600)), ((10, 2400), (5, 1200)), ((7, 9), (7, 9))])
def test_fitted_size_keeps_the_ratio(size, expected):
    assert pictures.fitted_size(size, 1200) == expected
