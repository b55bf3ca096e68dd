"""Sizes read from headers, and the two ways of decoding that they choose between."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from streamkd.image_options import ImageOptions
from streamkd.pixels.decode import decode_batch
from streamkd.pixels.header import dimensions, have_one_size, look_at, size_in_header


def image_file(width: int, height: int, kind: str, **options) -> bytes:
    """Returns a file of random pixels, in which every size has bytes of its own."""
    pixels = np.random.RandomState(width * 1000 + height).randint(0, 256, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


JPEG_OPTIONS = ({}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"exif": b"x" * 999})


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_the_size_is_that_which_pillow_reads(kind):
    for width, height in [(1, 1), (32, 32), (500, 375), (375, 500), (300, 65)]:
        size = size_in_header(image_file(width, height, kind))
        half = len(size) // 2
        found = int.from_bytes(size[:half], "big"), int.from_bytes(size[half:], "big")
        assert found == ((width, height) if kind == "png" else (height, width))


@pytest.mark.parametrize("options", JPEG_OPTIONS, ids=["plain", "progressive", "4:4:4", "exif"])
def test_every_kind_of_jpeg_gives_its_size(options):
    size = size_in_header(image_file(40, 30, "jpeg", **options))
    assert (int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big")) == (30, 40)


NOT_FOLLOWED = (b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\x00", b"GIF89a", b"text")


@pytest.mark.parametrize("data", NOT_FOLLOWED)
def test_what_cannot_be_followed_has_no_size(data):
    assert size_in_header(data) is None
    assert not have_one_size([data, data])


def test_a_jpeg_cut_anywhere_never_raises():
    data = image_file(40, 30, "jpeg")
    for length in range(len(data)):
        size_in_header(data[:length])


def test_files_have_one_size_only_if_all_of_them_do():
    small, large = image_file(8, 8, "png"), image_file(9, 8, "png")
    assert have_one_size([small, small])
    assert not have_one_size([small, large])
    assert not have_one_size([small, image_file(8, 8, "webp")])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "area", "lanczos3"])
@pytest.mark.parametrize("aspect", ["stretched", "cropped", "padded"])
def test_decoding_together_gives_the_pixels_of_decoding_each(interpolation, aspect):
    options = ImageOptions(
        image_size=(12, 20),
        interpolation=interpolation,
        crop_to_aspect_ratio=aspect == "cropped",
        pad_to_aspect_ratio=aspect == "padded",
    )
    files = tf.constant([image_file(33, 17, kind) for kind in ("png", "jpeg", "bmp")])
    together, digests = decode_batch(files, tf.constant(True), options)
    each, same_digests = decode_batch(files, tf.constant(False), options)
    np.testing.assert_array_equal(together, each)
    np.testing.assert_array_equal(digests, same_digests)


def test_a_batch_too_large_to_unroll_is_decoded_in_a_loop(monkeypatch):
    monkeypatch.setattr("streamkd.pixels.exact_decode.MAX_UNROLLED_FILES", 1)
    files = tf.constant([image_file(8, 8, "png"), image_file(16, 8, "png")])
    images, _ = decode_batch(files, tf.constant(True), ImageOptions(image_size=(8, 8)))
    assert images.shape == (2, 8, 8, 3)


SIZED = [
    *(("png", {}), ("jpeg", {}), ("jpeg", {"progressive": True}), ("gif", {}), ("bmp", {})),
    *(("webp", {}), ("webp", {"lossless": True}), ("webp", {"exif": b"Exif\0\0" + b"x" * 9})),
]


@pytest.mark.parametrize(("kind", "options"), SIZED, ids=str)
def test_dimensions_are_those_that_pillow_reads(kind, options):
    for width, height in [(1, 1), (32, 20), (300, 65)]:
        data = image_file(width, height, kind, **options)
        assert dimensions(data) == (width, height)
        for length in range(0, len(data), 7):
            dimensions(data[:length])  # never raises


def test_dimensions_are_found_behind_what_libjpeg_skips():
    data = image_file(40, 30, "jpeg")
    for between in (b"\xff\xff\xff", b"garbage", b"\xff\x01", b"\xff\xd0"):
        assert dimensions(data[:2] + between + data[2:]) in ((40, 30), None)
    assert dimensions(data[:2] + b"\xff\xff" + data[2:]) == (40, 30)


def test_files_out_of_the_ordinary_are_picked_out():
    small, large = image_file(8, 8, "png"), image_file(20, 10, "jpeg")
    assert look_at([small, small]) == (True, [])
    assert look_at([small, large]) == (False, [])
    assert look_at([small, b"text", large, image_file(8, 8, "gif")]) == (False, [1, 3])
    assert look_at([small, large], 199) == (False, [1])
    assert look_at([large, large], 199) == (False, [0, 1])
    assert look_at([large, large], 200) == (True, [])
