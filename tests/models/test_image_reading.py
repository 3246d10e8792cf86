import io
import struct
import zlib

import numpy as np
import pytest
import torch
from drawn_pictures import encoded, random_ids, random_pixels
from PIL import Image, ImageOps

from offseg_hf.models.image_reading import open_image, read_image, read_mask


def with_mode(mode, value):
    """A 2 x 3 picture of one value."""
    return Image.new(mode, (3, 2), value)


# Reading photos


@pytest.mark.parametrize("kind", ["str", "path", "bytes", "dict of bytes", "dict of path", "pil", "array", "tensor"])
def test_read_image_gives_the_same_picture_whatever_the_source(tmp_path, kind):
    pixels = random_pixels(6, 9)
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(Image.fromarray(pixels)))
    source = {
        "str": str(path),
        "path": path,
        "bytes": path.read_bytes(),
        "dict of bytes": {"bytes": path.read_bytes(), "path": "photo.png"},
        "dict of path": {"bytes": None, "path": str(path)},
        "pil": Image.open(path),
        "array": pixels,
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
    }[kind]
    image = read_image(source)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize(
    ("stored", "rgb"),
    [
        (with_mode("L", 7), (7, 7, 7)),
        (with_mode("LA", (7, 0)), (7, 7, 7)),
        (with_mode("1", 1), (255, 255, 255)),
        (with_mode("RGBA", (10, 20, 30, 0)), (10, 20, 30)),  # the colour under a transparent pixel is kept
        (with_mode("CMYK", (255, 0, 0, 0)), (0, 255, 255)),
        (with_mode("I;16", 257 * 40), (40, 40, 40)),
        (with_mode("I;16", 65535), (255, 255, 255)),
        (with_mode("I", 200), (200, 200, 200)),
        (with_mode("F", 0.2), (51, 51, 51)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_read_image_gives_rgb_when_the_mode_is(stored, rgb):
    image = read_image(stored)
    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert image.getpixel((1, 1)) == rgb


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80"])
def test_read_image_gives_the_colours_when_the_file_has_a_palette(transparency):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([1, 2, 3, 40, 50, 60])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **({} if transparency is None else {"transparency": transparency}))
    assert read_image(buffer.getvalue()).getpixel((0, 0)) == (40, 50, 60)


@pytest.mark.parametrize("bits", [8, 16])
def test_read_image_scales_grey_files_to_8_bits_when_stored_in(bits):
    grey = random_pixels(5, 7, channels=1)
    stored = Image.fromarray(grey if bits == 8 else grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(np.asarray(read_image(encoded(stored)))[..., 2], grey)


@pytest.mark.parametrize(
    "array",
    [
        random_pixels(5, 7),
        random_pixels(5, 7).astype(np.int64),
        random_pixels(5, 7) / 255,
        (random_pixels(5, 7) / 255).astype(np.float32),
        random_pixels(5, 7).astype(np.uint16) * 257,
        np.moveaxis(random_pixels(5, 7), -1, 0),
        np.concatenate([random_pixels(5, 7), random_pixels(5, 7, channels=1)[..., None]], axis=-1),
        torch.from_numpy(random_pixels(5, 7) / 255).float(),
    ],
    ids=["uint8", "int64", "float64", "float32", "uint16", "channels first", "four channels", "tensor"],
)
def test_read_image_takes_arrays_of(array):
    np.testing.assert_array_equal(read_image(array), random_pixels(5, 7))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (1, 5, 7)])
def test_read_image_takes_grey_arrays_shaped(shape):
    grey = random_pixels(5, 7, channels=1)
    np.testing.assert_array_equal(np.asarray(read_image(grey.reshape(shape)))[..., 1], grey)


def test_read_image_takes_bfloat16_tensors():
    assert read_image(torch.full((3, 2, 2), 1.0, dtype=torch.bfloat16)).getpixel((0, 0)) == (255, 255, 255)


def test_read_image_returns_the_picture_itself_when_it_is_upright_rgb():
    image = Image.fromarray(random_pixels(4, 4))
    assert read_image(image) is image


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_is_upright_when_the_photo_carries_an_orientation(orientation, image_format):
    photo = Image.open(io.BytesIO(encoded(Image.fromarray(random_pixels(16, 24)), image_format, orientation)))
    image = read_image(photo)
    assert image.size == ((24, 16) if orientation < 5 else (16, 24))
    np.testing.assert_array_equal(image, ImageOps.exif_transpose(photo))
    np.testing.assert_array_equal(read_image(image), image)  # what is upright is not turned again


def test_read_image_names_the_file_when_it_is_missing(tmp_path):
    message = r"`images\[3\]: .*none.png` must be an image file, but there is no such file; check the path."
    with pytest.raises(FileNotFoundError, match=message):
        read_image(tmp_path / "none.png", "images[3]")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be an image file, but Pillow finds it empty; replace"),
        (
            b"no image at all",
            r"must be an image file, but Pillow raises \w+ on it \(it starts with b'no image'\); rep",
        ),
        (
            encoded(Image.fromarray(random_pixels(64, 64)))[:2000],
            "must be a whole image, but decoding it stopped with '",
        ),
        (
            encoded(Image.fromarray(random_pixels(64, 64)), "TIFF")[:2000],
            "must be a whole image, but decoding .*; replace it or",
        ),
    ],
    ids=["empty", "text", "truncated PNG", "truncated TIFF"],
)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_reading_names_the_file_when_it_is(tmp_path, content, message, read):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    for source in (path, {"bytes": content, "path": "folder/broken.png"}):
        with pytest.raises(ValueError, match=f"^`.*broken.png` {message}"):
            read(source)
    with pytest.raises(ValueError, match=r"^`images\[3\]` must"):
        read(content, "images[3]") if read is read_image else read(content, name="images[3]")
    with pytest.raises(ValueError, match=r"^`source` must"):
        read(content)


def test_read_image_reports_a_picture_without_pixels():
    with pytest.raises(ValueError, match=r"`source` must be a whole image, but .* 'it has no pixels'"):
        read_image(Image.new("RGB", (0, 4)))


@pytest.mark.parametrize("source", [None, 3, ["photo.png"], {"bytes": None, "path": None}, {}])
def test_read_image_names_the_type_when_it_is_none_it_takes(source):
    with pytest.raises(
        TypeError, match=r"`source` must be a path, bytes, .* but is a (NoneType|int|list); convert it"
    ):
        read_image(source)


@pytest.mark.parametrize("shape", [(4,), (2, 4, 4, 3), (5, 7, 2), (5, 6, 7), (0, 4), (2, 0, 3)])
def test_read_image_names_the_shape_when_it_is_none_of_an_image(shape):
    with pytest.raises(ValueError, match=r"`source` must be \(H, W\), .* but is \([\d, ]*\); reshape it"):
        read_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("array", [np.full((4, 4), 1.5), np.full((4, 4), -1), np.full((4, 4), 256)])
def test_read_image_names_the_range_when_values_do_not_fit(array):
    with pytest.raises(
        ValueError, match=r"must hold integers in \[0, 255\], .* but holds (float|int)64 from .*; rescale"
    ):
        read_image(array)


# Reading masks


@pytest.mark.parametrize("mode", ["L", "P", "LA", "1", "RGB", "RGBA", "I;16"])
def test_read_mask_keeps_the_ids_when_the_file_is(mode):
    ids = random_ids(6, 9, num_labels=2 if mode == "1" else 256)
    if mode == "P":
        mask = Image.fromarray(ids)
        mask.putpalette(random_pixels(256, 1, seed=5).tobytes())  # colours that say nothing of the ids
        assert mask.mode == "P"
    elif mode == "I;16":
        ids = ids.astype(np.uint16) * 200
        mask = Image.fromarray(ids)
    elif mode == "1":
        mask = Image.fromarray(ids * 255).convert("1")
    else:
        mask = Image.fromarray(ids).convert(mode)
    read = read_mask(encoded(mask))
    np.testing.assert_array_equal(read, ids)
    assert read.dtype == ids.dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, bool])
@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1), (1, 6, 9)])
def test_read_mask_takes_arrays_of(dtype, shape):
    ids = random_ids(6, 9, num_labels=2).astype(dtype)
    for source in (ids.reshape(shape), torch.from_numpy(ids.reshape(shape).astype(np.int64))):
        np.testing.assert_array_equal(read_mask(source), ids.astype(np.int64))


def test_read_mask_returns_an_array_of_its_own():
    ids = random_ids(6, 9)
    read_mask(ids)[:] = 0
    np.testing.assert_array_equal(ids, random_ids(6, 9))


@pytest.mark.parametrize("kind", ["file", "array", "CMYK"])
def test_read_mask_names_the_remedy_when_it_holds_colours(kind):
    colours = random_pixels(6, 9)
    source = colours if kind == "array" else Image.fromarray(colours).convert("CMYK" if kind == "CMYK" else "RGB")
    with pytest.raises(
        ValueError, match=r"`masks\[7\]` must hold one class id .* holds colours; map each colour to its cl"
    ):
        read_mask(source, name="masks[7]")


def test_read_mask_names_the_dtype_when_it_holds_floats():
    with pytest.raises(
        ValueError, match="`source` must hold integer class ids, but holds float32; convert it to uint8"
    ):
        read_mask(np.zeros((6, 9), np.float32))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(5, 9))
def test_read_mask_turns_with_its_photo_when_it_has_the_stored_size(orientation, image_format):
    ids = random_ids(16, 24)
    photo = encoded(Image.fromarray(random_pixels(16, 24)), image_format, orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(Image.fromarray(ids), "PNG", orientation))))
    np.testing.assert_array_equal(read_mask(ids, photo=photo), upright)
    np.testing.assert_array_equal(read_mask(encoded(Image.fromarray(ids)), photo=photo), upright)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_mask_stays_when_it_has_the_upright_size(orientation, image_format):
    photo = encoded(Image.fromarray(random_pixels(16, 24)), image_format, orientation)
    ids = random_ids(16, 24) if orientation < 5 else random_ids(24, 16)
    np.testing.assert_array_equal(read_mask(ids, photo=photo), ids)


def test_read_mask_stays_when_its_photo_is_square():
    ids = random_ids(16, 16)
    np.testing.assert_array_equal(
        read_mask(ids, photo=encoded(Image.fromarray(random_pixels(16, 16)), "JPEG", 6)), ids
    )


def test_read_mask_is_turned_once_when_it_carries_the_orientation_too():
    ids = random_ids(16, 24)
    photo = encoded(Image.fromarray(random_pixels(16, 24)), "JPEG", 6)
    mask = encoded(Image.fromarray(ids), "PNG", 6)
    np.testing.assert_array_equal(read_mask(mask, photo=photo), np.rot90(ids, -1))


@pytest.mark.parametrize("orientation", [1, 6])
def test_read_mask_names_both_sizes_when_its_photo_has_another(orientation):
    photo = encoded(Image.fromarray(random_pixels(16, 24)), "JPEG", orientation)
    expected = "16 x 24" if orientation == 1 else "24 x 16"
    with pytest.raises(
        ValueError, match=rf"`mask` .* size of its image, {expected} pixels .* but has 9 x 24; pair each"
    ):
        read_mask(random_ids(9, 24), photo=photo, name="mask")


def test_open_image_decodes_nothing_yet():
    content = encoded(Image.fromarray(random_pixels(64, 64)), "JPEG")
    assert open_image(content[:2000]).size == (64, 64)  # truncated: decoding it would fail


# Ranges of photos


def png_of_16_bits(values):
    """A PNG file of 16-bit grey or RGB, which Pillow cannot write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def values_of(bits, channels=3):
    values = np.random.default_rng(0).integers(0, 2**bits, (5, 7, channels), dtype=np.uint16)
    values[0, 0] = 2**bits - 1
    return values


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("kind", ["array", "grey array", "tensor", "grey PNG", "RGB PNG", "RGBA PNG"])
def test_read_image_refuses_16_bit_photos_whose_values_are_of(bits, kind):
    values = values_of(bits, {"grey array": 1, "grey PNG": 1, "RGBA PNG": 4}.get(kind, 3))
    source = {"tensor": torch.from_numpy(values)}.get(kind, png_of_16_bits(values) if "PNG" in kind else values)
    message = rf"`photo` must use the range of its 16 bits, but no value is above {2**bits - 1}.*4095.*`--max_value`"
    with pytest.raises(ValueError, match=message):
        read_image(source, "photo")
    expected = np.round(values[..., :3] / (2**bits - 1) * 255)
    found = np.asarray(read_image(source, "photo", max_value=2**bits - 1))
    np.testing.assert_array_equal(found[..., : expected.shape[-1]], expected)


@pytest.mark.parametrize("channels", [3, 4])
def test_read_image_rounds_16_bit_colours_of_files(channels):
    values = values_of(16, channels)
    found = read_image(png_of_16_bits(values))
    np.testing.assert_array_equal(found, np.round(values[..., :3] / 257))


def test_read_image_takes_a_dark_16_bit_photo_when_its_white_is_said():
    assert read_image(np.full((4, 4), 257 * 3, np.uint16), max_value=65535).getpixel((0, 0)) == (3, 3, 3)
    assert read_image(np.zeros((4, 4), np.uint16)).getpixel((0, 0)) == (0, 0, 0)  # black in any range


def test_read_image_names_the_values_above_the_white_that_was_said():
    message = r"`max_value` must be the value of white .* got 1023, but `x` has 5 to 2000; pass a larger one"
    with pytest.raises(ValueError, match=message):
        read_image(np.array([[5, 2000]], np.uint16), "x", max_value=1023)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_read_image_refuses_a_value_that_is_no_number(value):
    pixels = np.full((4, 4, 3), 0.5, np.float32)
    pixels[1, 2, 0] = value
    for source in (pixels, Image.fromarray(pixels[..., 0])):
        with pytest.raises(ValueError, match="`x` must hold numbers, but 1 of its values are NaN or infinite; re"):
            read_image(source, "x")


def test_open_image_says_the_limit_when_there_are_too_many_pixels(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    content = encoded(Image.fromarray(random_pixels(8, 9)))
    with pytest.raises(ValueError, match=r"`x` must have at most 60 pixels.*72 pixels.*`--max_pixels`"):
        read_image(content, "x")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # the remedy in Python
    with pytest.warns(Image.DecompressionBombWarning):
        assert read_image(content).size == (9, 8)


# Masks that are not what they seem


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {"quality": 100}),
        ("WEBP", {}),
        ("AVIF", {}),
        ("JPEG2000", {}),
        ("TIFF", {"compression": "jpeg"}),
    ],
)
def test_read_mask_refuses_lossy_files(image_format, options):
    buffer = io.BytesIO()
    Image.fromarray(random_ids(16, 24, 5)).convert("RGB").save(buffer, image_format, **options)
    with pytest.raises(ValueError, match=f"`m` must keep each class id .* lossy {image_format} file.*save the masks"):
        read_mask(buffer.getvalue(), name="m")


def test_read_mask_takes_lossless_webp():
    ids = random_ids(16, 24)
    buffer = io.BytesIO()
    Image.fromarray(ids).convert("RGB").save(buffer, "WEBP", lossless=True)
    np.testing.assert_array_equal(read_mask(buffer.getvalue()), ids)
    np.testing.assert_array_equal(read_mask(Image.open(buffer)), ids)


@pytest.mark.parametrize(
    "ids",
    [
        np.array([[1, 2**32 + 3]]),
        np.array([[1, 2**31]], np.uint32),
        np.array([[1, 2**64 - 100]], np.uint64),
        np.array([[1, -(2**40)]]),
        torch.tensor([[1, 2**32 + 255]]),
    ],
    ids=["int64", "uint32", "uint64", "negative", "tensor"],
)
def test_read_mask_refuses_ids_that_would_wrap_around(ids):
    with pytest.raises(ValueError, match=r"`m` must hold class ids that fit into 32 bits, but holds u?int\d+ from .*"):
        read_mask(ids, name="m")


@pytest.mark.parametrize("bits", [2, 4])
def test_read_mask_keeps_the_ids_of_grey_files_of_few_bits(bits):
    ids = random_ids(6, 8, 2**bits)
    packed = np.packbits(np.unpackbits(ids[..., None], axis=-1)[..., -bits:].reshape(6, -1), axis=-1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 6, bits, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(read_mask(content), ids)


def test_read_mask_keeps_the_ids_of_16_bit_rgb_files():
    ids = np.repeat(values_of(9, 1), 3, axis=-1)
    np.testing.assert_array_equal(read_mask(png_of_16_bits(ids)), ids[..., 0])


@pytest.mark.parametrize(
    "content",
    [b"P5 3 1 15\n\0\1\2", b"P2 3 1 15\n0 1 2\n", b"P5 1 1 1023\n\0\1", png_of_16_bits(values_of(9, 2))],
    ids=["PGM", "plain PGM", "PGM of 10 bits", "16-bit grey with alpha"],
)
def test_read_mask_refuses_files_whose_ids_pillow_scales(content):
    with pytest.raises(ValueError, match=r"`m` must hold ids that Pillow gives as they are stored, .* save the m"):
        read_mask(content, name="m")


@pytest.mark.parametrize("content", [b"P5 3 1 255\n\0\1\2", b"P2 3 1 255\n0 1 2\n", b"P2 3 1 65535\n0 1 2\n"])
def test_read_mask_keeps_the_ids_of_pgm_files_of_full_range(content):
    assert read_mask(content).tolist() == [[0, 1, 2]]
