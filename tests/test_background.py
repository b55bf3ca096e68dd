"""Transparent images on a background: Pillow's `alpha_composite` is the oracle, to the level."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from streamkd.errors import OptionError
from streamkd.image_options import ImageOptions, parse_background
from streamkd.pixels.decode import decode
from streamkd.pixels.file_batch import read_files
from streamkd.pixels.pillow_fallback import decodable

GROUND = (10, 200, 30)


def transparent(mode="RGBA", height=9, width=13):
    """Returns a picture whose alpha rises from 0 to 255, with colours behind all of it."""
    y, x = np.mgrid[0:height, 0:width] / width
    channels = [250 * x, 250 * y, 120 * (1 + np.sin(9 * x * y)), np.minimum(x * 280, 255)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8)).convert(mode)


def with_palette():
    return transparent().convert("RGB").quantize(8)


def saved(image, file_format, **options):
    data = io.BytesIO()
    image.save(data, file_format, **options)
    return data.getvalue()


def png(color_type, depth, width, height, rows, transparency=b""):
    """Returns a PNG of raw rows, each without its filter, and the content of its tRNS chunk."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))]
    parts += [(b"tRNS", transparency)] if transparency else []
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


FILES = {
    "PNG": saved(transparent(), "PNG"),
    "PNG of grey": saved(transparent("LA"), "PNG"),
    "PNG with a palette": saved(with_palette(), "PNG", transparency=bytes([0, 90, 180])),
    "PNG with a transparent colour": saved(
        transparent("RGB"), "PNG", transparency=transparent("RGB").getpixel((3, 3))
    ),
    "PNG with a transparent grey": saved(
        transparent("L"), "PNG", transparency=transparent("L").getpixel((3, 3))
    ),
    "PNG of one bit": saved(transparent().convert("1"), "PNG", transparency=0),
    "WebP": saved(transparent(), "WEBP", lossless=True, exact=True),
    "WebP with losses": saved(transparent(), "WEBP", quality=90),
    "GIF": saved(with_palette(), "GIF", transparency=2),
    "TIFF": saved(transparent(), "TIFF"),
    "TIFF of grey": saved(transparent("LA"), "TIFF"),
    "AVIF": saved(transparent(), "AVIF"),
    "JPEG 2000": saved(transparent(), "JPEG2000"),
}
OPAQUE = {
    "PNG": saved(transparent("RGB"), "PNG"),
    "WebP": saved(transparent("RGB"), "WEBP", lossless=True),
    "GIF": saved(with_palette(), "GIF"),
    "JPEG": saved(transparent("RGB"), "JPEG"),
    "BMP": saved(transparent("RGB"), "BMP"),
    "TIFF of 16 bits": saved(Image.fromarray(np.full((9, 13), 40_000, np.uint16)), "TIFF"),
    "PNG of 16 bits": saved(Image.fromarray(np.full((9, 13), 40_000, np.uint16)), "PNG"),
}


def on_ground(data, ground=GROUND):
    """Returns what Pillow shows."""
    with Image.open(io.BytesIO(data)) as image:
        below = Image.new("RGBA", image.size, (*ground, 255))
        return Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")


def shown(data, **options):
    with Image.open(io.BytesIO(data)) as image:
        options = ImageOptions(image_size=image.size[::-1], **options)
    return decode(tf.constant(decodable(data, **options.for_files())), options).numpy()


@pytest.mark.parametrize("kind", FILES)
def test_transparent_pixels_are_laid_on_the_background(kind):
    expected = on_ground(FILES[kind])
    np.testing.assert_array_equal(shown(FILES[kind], background=GROUND), np.asarray(expected))
    grey = shown(FILES[kind], background=GROUND, color_mode="grayscale")[..., 0]
    np.testing.assert_array_equal(grey, np.asarray(expected.convert("L")))


@pytest.mark.parametrize("kind", OPAQUE)
def test_opaque_images_are_shown_as_without_a_background(kind):
    np.testing.assert_array_equal(shown(OPAQUE[kind], background=GROUND), shown(OPAQUE[kind]))


SIXTEEN = struct.pack(">4H", 0xC8FF, 0x7F01, 0xC8FE, 0)
DEEP = {
    "a grey": png(0, 16, 4, 1, [SIXTEEN], struct.pack(">H", 0xC8FF)),
    "a colour": png(
        2,
        16,
        2,
        1,
        [SIXTEEN[:6] + b"\xc8\xff\x7f\x01\xc8\xff"],
        struct.pack(">3H", 0xC8FF, 0x7F01, 0xC8FE),
    ),
}


@pytest.mark.parametrize("kind", DEEP)
def test_a_transparent_colour_of_16_bits_is_compared_with_all_its_bits(kind):
    """The second light pixel differs from the transparent one in its lower byte alone."""
    pixels = shown(DEEP[kind], background=GROUND)[0]
    assert pixels[0].tolist() == list(GROUND)
    last = pixels[2] if kind == "a grey" else pixels[1]
    assert last.tolist() == ([200] * 3 if kind == "a grey" else [200, 127, 200])


def test_alpha_of_16_bits_is_laid_on_the_background():
    data = png(6, 16, 1, 1, [struct.pack(">4H", 0xFFFF, 0, 0, 0x8000)])
    expected = np.asarray(on_ground(data))
    np.testing.assert_array_equal(shown(data, background=GROUND), expected)


def test_the_hidden_colours_are_shown_by_default():
    pixels = np.asarray(transparent())[..., :3]
    np.testing.assert_array_equal(shown(FILES["PNG"]), pixels)


def test_a_turned_image_is_laid_on_the_background():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(transparent(), "PNG", exif=exif)
    options = ImageOptions(image_size=(13, 9), exif="apply", background=GROUND)
    got = decode(tf.constant(decodable(data, **options.for_files())), options)
    expected = on_ground(FILES["PNG"]).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(got, np.asarray(expected))


def test_a_batch_says_which_files_were_laid_on_it(tmp_path):
    paths = []
    for number, data in enumerate((FILES["PNG"], OPAQUE["PNG"], FILES["WebP"])):
        path = tmp_path / f"{number}.png"
        path.write_bytes(data)
        paths.append(str(path).encode())
    options = ImageOptions(image_size=(9, 13), background=GROUND)
    files = read_files(paths, **options.for_files())
    assert (files.known_digests != 0).tolist() == [True, False, True]
    assert not files.one_size
    assert files.file_bytes[1] == OPAQUE["PNG"]


def test_a_background_is_kept_in_the_specification():
    options = ImageOptions(image_size=(8, 8), background=[255, 0, 7])
    assert options.to_dict()["background"] == [255, 0, 7]
    assert ImageOptions.from_dict(options.to_dict()) == options
    assert "background" not in ImageOptions(image_size=(8, 8)).to_dict()


@pytest.mark.parametrize(
    "value", [(1, 2), (1, 2, 256), (1, 2, -1), (1.0, 2, 3), (True, 2, 3), "white", 5, {1, 2, 3}]
)
def test_another_background_is_refused(value):
    with pytest.raises(OptionError, match=r"three whole numbers from 0 to 255|must be 3 numbers"):
        ImageOptions(image_size=(8, 8), background=value)


@pytest.mark.parametrize(
    "text", ["", "white", "1,2", "1,2,3,4", "1,2,256", "-1,2,3", "1,2,٣", "1,2,"]
)
def test_another_background_flag_is_refused(text):
    with pytest.raises(OptionError, match="write it as R,G,B"):
        parse_background(text)
    assert parse_background("255, 0,7") == (255, 0, 7)


def test_rgba_and_a_background_exclude_each_other():
    with pytest.raises(OptionError, match="'rgba', which keeps the transparency"):
        ImageOptions(image_size=(8, 8), color_mode="rgba", background=(0, 0, 0))
