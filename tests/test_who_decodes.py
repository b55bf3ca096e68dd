"""Every format in every mode is decoded to the pixels that Pillow shows, or refused by name.

Pillow is the oracle. JPEG is left out where TensorFlow decodes it: the two decoders differ by a few
levels. `scan --check` and the teacher must agree on every file.
"""

import io
import itertools
import struct
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from streamkd.image_options import ImageOptions
from streamkd.pixels import pillow_fallback
from streamkd.pixels.bad_images import why_bad_bytes
from streamkd.pixels.decode import decode
from streamkd.pixels.file_batch import BadFileError, read_files
from streamkd.pixels.header import gif_frames
from streamkd.pixels.pillow_fallback import UndecodableError, decodable
from streamkd.pixels.who_decodes import needs_pillow

COLOR_MODES = {1: "grayscale", 3: "rgb", 4: "rgba"}
PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Formats with the modes that Pillow writes them in; WebP and AVIF without loss.
FORMATS = {
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "WEBP": ("L", "RGB", "RGBA"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA"),
    "JPEG": ("CMYK",),
}


def picture(seed, height, width):
    """Returns smooth colours, uint8 `[height, width, 3]`."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    phases = np.random.default_rng(seed).uniform(0, 6, 3)
    return np.stack([127 + 120 * np.sin(3 * x + 2 * y + p) for p in phases], -1).astype(np.uint8)


def encoded(file_format, mode, seed=0, height=9, width=13):
    image = Image.fromarray(picture(seed, height, width))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(picture(seed + 1, height, width)[..., 0] // 2 + 40))
    image = image.convert(mode) if image.mode != mode else image
    data = io.BytesIO()
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    image.save(data, file_format, **options)
    return data.getvalue()


def shown(data, num_channels, max_pixels=10**6):
    """Returns the pixels that a model is shown, uint8, at the file's own size."""
    with Image.open(io.BytesIO(data)) as image:
        size = (image.height, image.width)
    options = ImageOptions(image_size=size, color_mode=COLOR_MODES[num_channels])
    return decode(tf.constant(decodable(data, max_pixels, num_channels)), options).numpy()


def expected(data, num_channels):
    with Image.open(io.BytesIO(data)) as image:
        if num_channels == 3 and image.mode in ("RGBA", "LA", "P"):
            image = image.convert("RGBA")  # alpha is left out, as TensorFlow does with a PNG
            return np.asarray(image)[..., :3].astype(np.float32)
        pixels = np.asarray(image.convert(PILLOW_MODES[num_channels]), np.float32)
    return pixels.reshape(*pixels.shape[:2], num_channels)


CASES = [
    (file_format, mode, num_channels)
    for file_format, modes in FORMATS.items()
    for mode, num_channels in itertools.product(modes, COLOR_MODES)
]


def tolerance(file_format, mode, num_channels):
    """Returns the largest difference in levels.

    libpng cuts off the sum of weighed colours where Pillow rounds it; TensorFlow decodes JPEG with
    a less exact transform.
    """
    to_grey = num_channels == 1 and mode not in ("1", "L", "LA")
    if to_grey and file_format in ("PNG", "TIFF"):
        return 1
    return 8 if file_format == "JPEG" and num_channels == 3 else 0


@pytest.mark.parametrize(("file_format", "mode", "num_channels"), CASES)
def test_pixels_are_those_of_pillow(file_format, mode, num_channels):
    data = encoded(file_format, mode)
    difference = np.abs(shown(data, num_channels) - expected(data, num_channels)).max()
    assert difference <= tolerance(file_format, mode, num_channels)


@pytest.mark.parametrize(("file_format", "mode", "num_channels"), CASES)
def test_the_check_agrees_with_the_decoder(file_format, mode, num_channels):
    options = ImageOptions(image_size=(8, 8), color_mode=COLOR_MODES[num_channels])
    assert why_bad_bytes(encoded(file_format, mode), options) is None
    assert why_bad_bytes(encoded(file_format, mode)) is None


@pytest.mark.parametrize("num_channels", COLOR_MODES)
def test_a_batch_of_all_formats_is_read_for_its_channels(tmp_path, num_channels):
    paths = []
    for number, (file_format, mode, _) in enumerate(CASES[::3]):
        path = tmp_path / str(number)
        path.write_bytes(encoded(file_format, mode))
        paths.append(bytes(path))
    files = read_files(paths, num_channels=num_channels)
    options = ImageOptions(image_size=(9, 13), color_mode=COLOR_MODES[num_channels])
    for data, (file_format, mode, _) in zip(files.file_bytes, CASES[::3], strict=True):
        original = expected(encoded(file_format, mode), num_channels)
        difference = np.abs(decode(tf.constant(data), options).numpy() - original).max()
        assert difference <= tolerance(file_format, mode, num_channels)


@pytest.mark.parametrize("num_channels", COLOR_MODES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_16_bits_has_its_pixels_in_either_byte_order(order, num_channels):
    levels = np.linspace(0, 65535, 12 * 16).round().astype(f"{order}u2").reshape(12, 16)
    data = io.BytesIO()
    Image.fromarray(levels).save(data, "TIFF")
    assert data.getvalue()[:2] == (b"II" if order == "<" else b"MM")
    pixels = shown(data.getvalue(), num_channels)
    np.testing.assert_allclose(pixels[..., 0], levels.astype(np.float64) / 257, atol=1)


def gif(screen, *frames):
    """Returns a GIF whose frames have one pixel's data; each is left, top, width, height."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x81, 0, 0) + bytes(12)
    body = b"".join(
        b"," + struct.pack("<HHHHB", *frame, 0) + b"\x02\x02\x4c\x01\x00" for frame in frames
    )
    return head + body + b";"


def test_the_frames_of_a_gif_are_read_from_its_header():
    data = io.BytesIO()
    images = [Image.fromarray(picture(n, 6, 5)) for n in range(4)]
    images[0].save(data, "GIF", save_all=True, append_images=images[1:], duration=50)
    frames = gif_frames(data.getvalue())
    assert len(frames) == 4 and frames[0] == (0, 0, 5, 6)
    assert gif_frames(gif((9, 9), (0, 0, 9, 9), (1, 2, 3, 4)))[1] == (1, 2, 3, 4)
    assert gif_frames(b"GIF89a") == []


def test_the_limit_of_pixels_holds_for_every_frame_of_a_gif():
    with pytest.raises(UndecodableError, match="it has 20,000 x 20,000 pixels, and at most"):
        decodable(gif((10, 10), (0, 0, 10, 10), (0, 0, 20000, 20000)))
    # TensorFlow would decode all of them; Pillow takes the first.
    many = gif((3000, 3000), *[(0, 0, 3000, 3000)] * 150)
    assert needs_pillow(many, 3, 89_478_485)
    with pytest.raises(UndecodableError, match="Pillow cannot decode it"):
        decodable(many)


def test_a_gif_whose_first_frame_is_smaller_than_its_screen_is_decoded_by_pillow():
    data = io.BytesIO()
    Image.fromarray(picture(0, 6, 5)).save(data, "GIF")
    small = bytearray(data.getvalue())
    small[6:10] = struct.pack("<HH", 9, 8)
    pixels = shown(bytes(small), 3)
    assert pixels.shape == (8, 9, 3)
    np.testing.assert_array_equal(pixels, expected(bytes(small), 3))


def test_a_jpeg_with_a_filling_byte_before_a_marker_has_its_own_size():
    packed = io.BytesIO()
    Image.new("L", (400, 300)).save(packed, "JPEG")
    hidden = bytearray(0xFFF0 - 2)
    at = 2 + 2 + 0xEE00 + 0xFF - 7
    hidden[at : at + 13] = bytes([0xFF, 0xC0, 0, 17, 8, 0, 10, 0, 10, 1, 1, 17, 0])
    segment = b"\xff\xff\xee" + struct.pack(">H", 0xFFF0) + bytes(hidden)
    with pytest.raises(UndecodableError, match="it has 400 x 300 pixels"):
        decodable(b"\xff\xd8" + segment + packed.getvalue()[2:], max_pixels=1000)


def test_a_tiff_with_a_tile_larger_than_the_limit_is_refused():
    image = types.SimpleNamespace(tag_v2={322: 65536, 323: 65536})
    with pytest.raises(UndecodableError, match="it has 65,536 x 65,536 pixels"):
        pillow_fallback._check_tiles(image, 10**6)
    pillow_fallback._check_tiles(types.SimpleNamespace(tag_v2={322: 256, 323: 256}), 10**6)
    pillow_fallback._check_tiles(types.SimpleNamespace(), 10**6)


def test_an_enormous_file_is_refused_without_being_read(tmp_path):
    path = tmp_path / "disk.jpg"
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff" + bytes(1 << 16))
        file.truncate(1 << 40)
    with pytest.raises(BadFileError, match="it is larger than an image of 2 GiB"):
        read_files([bytes(path)])
