"""Files whose header gives levels or alpha another meaning are shown as they look.

The TIFF files are written here byte by byte: Pillow writes none of these kinds. NumPy is the oracle
for grey levels, which Pillow leaves as they are in the file.
"""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from streamkd import scan
from streamkd.image_options import ImageOptions
from streamkd.pixels.bad_images import why_bad_bytes
from streamkd.pixels.check_images import check_images
from streamkd.pixels.decode import decode
from streamkd.pixels.header import is_transparent_webp
from streamkd.pixels.pillow_fallback import UndecodableError, decodable

COLOR_MODES = {1: "grayscale", 3: "rgb", 4: "rgba"}
BLACK_IS_ZERO, WHITE_IS_ZERO = 1, 0
HEIGHT, WIDTH = 6, 8
LEVELS = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.uint16).reshape(HEIGHT, WIDTH)


def tiff(bits, photometric, strip, order="<"):
    """Returns a grey TIFF of one strip without compression."""
    tags = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1}
    tags |= {278: HEIGHT, 279: len(strip)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack(f"{order}HHIHH", tag, 3, 1, tags[tag], 0) for tag in sorted(tags)]
    head = struct.pack(f"{order}HIH", 42, 8, len(tags))
    return (b"II" if order == "<" else b"MM") + head + b"".join(entries) + bytes(4) + strip


def packed(levels):
    """Returns numbers of 12 bits, two of them in three bytes."""
    first, second = levels.reshape(-1, 2).astype(int).T
    triples = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1)
    return triples.astype(np.uint8).tobytes()


def shown(data, num_channels):
    options = ImageOptions(image_size=(HEIGHT, WIDTH), color_mode=COLOR_MODES[num_channels])
    return decode(tf.constant(decodable(data, num_channels=num_channels)), options).numpy()


def compressed(levels, photometric):
    data = io.BytesIO()
    tags = {262: photometric}
    Image.fromarray(levels).save(data, "TIFF", compression="tiff_lzw", tiffinfo=tags)
    return data.getvalue()


TIFFS = {
    "16 bits, white is 0": tiff(16, WHITE_IS_ZERO, (65535 - LEVELS).astype("<u2").tobytes()),
    "16 bits, black is 0": tiff(16, BLACK_IS_ZERO, LEVELS.astype("<u2").tobytes()),
    "16 bits, big-endian": tiff(16, BLACK_IS_ZERO, LEVELS.astype(">u2").tobytes(), ">"),
    "12 bits, black is 0": tiff(12, BLACK_IS_ZERO, packed(LEVELS >> 4)),
    "8 bits, white is 0": tiff(8, WHITE_IS_ZERO, (255 - (LEVELS >> 8)).astype("u1").tobytes()),
    "8 bits, black is 0": tiff(8, BLACK_IS_ZERO, (LEVELS >> 8).astype("u1").tobytes()),
    "16 bits, compressed": compressed(LEVELS, BLACK_IS_ZERO),
}


@pytest.mark.parametrize("num_channels", COLOR_MODES)
@pytest.mark.parametrize("kind", TIFFS)
def test_grey_levels_go_from_black_to_white(kind, num_channels):
    pixels = shown(TIFFS[kind], num_channels)
    colours = pixels[..., : min(num_channels, 3)]
    np.testing.assert_array_equal(colours, np.broadcast_to(LEVELS[..., None] >> 8, colours.shape))
    assert num_channels < 4 or (pixels[..., 3] == 255).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_16_bits_where_white_is_zero_is_never_shown_as_its_negative(order):
    data = tiff(16, WHITE_IS_ZERO, (65535 - LEVELS).astype(f"{order}u2").tobytes(), order)
    if why_bad_bytes(data) is None:  # Pillow does not know the big-endian kind
        np.testing.assert_array_equal(shown(data, 1)[..., 0], LEVELS >> 8)


def extended_webp(flags, *parts):
    """Returns a WebP with an extended header in front of its frame."""
    size = struct.pack("<I", WIDTH - 1)[:3] + struct.pack("<I", HEIGHT - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<II", 10, flags) + size + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def lossless_frame(mode):
    image = Image.fromarray((LEVELS >> 8).astype(np.uint8)).convert("RGB")
    if mode == "RGBA":
        image.putalpha(100)
    data = io.BytesIO()
    image.save(data, "WEBP", lossless=True, exact=True)
    return data.getvalue()[12:]


ODD_PART = b"ICCP" + struct.pack("<I", 3) + b"abc\0"  # parts have an even number of bytes
WEBPS = {
    "transparent frame, header without a word": (0, "RGBA"),
    "transparent frame, header says so": (0x10, "RGBA"),
    "opaque frame, header says transparent": (0x10, "RGB"),
    "opaque frame": (0, "RGB"),
}


@pytest.mark.parametrize("num_channels", COLOR_MODES)
@pytest.mark.parametrize("parts", [(), (ODD_PART,)], ids=["frame", "profile and frame"])
@pytest.mark.parametrize("kind", WEBPS)
def test_a_webp_with_an_extended_header_is_decoded_by_its_frame(kind, parts, num_channels):
    flags, mode = WEBPS[kind]
    data = extended_webp(flags | (0x20 if parts else 0), *parts, lossless_frame(mode))
    pixels = shown(data, num_channels)
    colours = pixels[..., : min(num_channels, 3)]
    np.testing.assert_array_equal(colours, np.broadcast_to(LEVELS[..., None] >> 8, colours.shape))


def test_a_webp_that_is_cut_short_has_no_frame_to_be_transparent():
    whole = extended_webp(0, ODD_PART, lossless_frame("RGBA"))
    assert is_transparent_webp(whole)
    assert not any(is_transparent_webp(whole[:length]) for length in range(12, 42))


def gif_with_a_colour_too_many():
    """Returns a GIF of four colours with a palette of two: only Pillow decodes it."""
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) % 4, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    data = io.BytesIO()
    image.save(data, "GIF", optimize=False)
    packed = bytearray(data.getvalue())
    assert packed[10] & 7 == 1
    packed[10] &= 0xF8
    return bytes(packed[:19] + packed[25:])


def bmp_with_a_header_beyond_its_end():
    """Returns a BMP whose header claims 2,000 bytes: only TensorFlow decodes it."""
    data = io.BytesIO()
    Image.fromarray((LEVELS >> 8).astype(np.uint8)).convert("RGB").save(data, "BMP")
    return data.getvalue()[:14] + struct.pack("<I", 2000) + data.getvalue()[18:]


@pytest.mark.parametrize("num_channels", COLOR_MODES)
@pytest.mark.parametrize(
    ("name", "data", "good_channels"),
    [
        ("a.gif", gif_with_a_colour_too_many(), (1, 4)),
        ("a.bmp", bmp_with_a_header_beyond_its_end(), (3,)),
        ("a.tif", TIFFS["12 bits, black is 0"], (1, 3, 4)),
        ("a.webp", extended_webp(0, lossless_frame("RGBA")), (1, 3, 4)),
        ("a.jpg", b"\xff\xd8\xff\xe0 no image", ()),
    ],
)
def test_the_check_refuses_what_the_decoder_refuses_in_each_color_mode(
    tmp_path, name, data, good_channels, num_channels
):
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / name).write_bytes(data)
    color_mode = COLOR_MODES[num_channels]
    report = check_images(scan(tmp_path), color_mode=color_mode, progress=False)
    try:
        shown(data, num_channels)
        is_good = True
    except (UndecodableError, tf.errors.InvalidArgumentError):
        is_good = False
    assert is_good == (report.bad == []) == (num_channels in good_channels)
