"""Sizes read from headers, and the two ways of decoding between which they choose."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from streamkd.image_options import ImageOptions
from streamkd.pixels.decode import decode_batch
from streamkd.pixels.header import dimensions, inspect_headers, size_in_header


def image_file(width: int, height: int, kind: str, **options) -> bytes:
    """Returns a file of random pixels; no two sizes share their pixels."""
    pixels = np.random.RandomState(width * 1000 + height).randint(0, 256, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


JPEG_OPTIONS = ({}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"exif": b"x" * 999})


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_the_size_is_that_of_the_image(kind):
    for width, height in [(1, 1), (32, 32), (500, 375), (375, 500), (300, 65)]:
        size = size_in_header(image_file(width, height, kind))
        half = len(size) // 2
        numbers = int.from_bytes(size[:half], "big"), int.from_bytes(size[half:], "big")
        assert numbers == ((width, height) if kind == "png" else (height, width))


@pytest.mark.parametrize("options", JPEG_OPTIONS, ids=["plain", "progressive", "4:4:4", "exif"])
def test_every_kind_of_jpeg_gives_its_size(options):
    size = size_in_header(image_file(40, 30, "jpeg", **options))
    assert (int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big")) == (30, 40)


NOT_FOLLOWED = (b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\x00", b"GIF89a", b"text")


@pytest.mark.parametrize("data", NOT_FOLLOWED)
def test_a_header_that_cannot_be_followed_has_no_size(data):
    assert size_in_header(data) is None
    assert inspect_headers([data, data]) == (False, [0, 1])


def test_a_jpeg_cut_anywhere_has_its_size_or_none():
    data = image_file(40, 30, "jpeg")
    sizes = {size_in_header(data[:length]) for length in range(len(data))}
    assert sizes == {None, size_in_header(data)}


def test_files_have_one_size_only_if_all_of_them_do():
    small, large = image_file(8, 8, "png"), image_file(9, 8, "png")
    assert inspect_headers([small, small]) == (True, [])
    assert inspect_headers([small, large]) == (False, [])
    assert inspect_headers([small, image_file(8, 8, "webp")]) == (False, [1])


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
    decode = tf.function(lambda one_size: decode_batch(files, one_size, options))
    together, digests = decode(tf.constant(True))
    each, same_digests = decode(tf.constant(False))
    np.testing.assert_array_equal(together, each)
    np.testing.assert_array_equal(digests, same_digests)


def test_a_batch_too_large_to_unroll_is_decoded_in_a_loop(monkeypatch):
    monkeypatch.setattr("streamkd.pixels.exact_decode.MAX_UNROLLED_FILES", 1)
    files = tf.constant([image_file(8, 8, "png"), image_file(16, 8, "png")])
    images, _ = decode_batch(files, tf.constant(True), ImageOptions(image_size=(8, 8)))
    assert images.shape == (2, 8, 8, 3)
    # The files have two sizes: had they been decoded together, as `one_size` says, it would fail.
    each, _ = decode_batch(files, tf.constant(False), ImageOptions(image_size=(8, 8)))
    np.testing.assert_array_equal(images, each)
    monkeypatch.undo()
    with pytest.raises(tf.errors.InvalidArgumentError, match="Shapes of all inputs must match"):
        decode_batch(files, tf.constant(True), ImageOptions(image_size=(8, 8)))


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


@pytest.mark.parametrize(
    "skipped",
    [b"\xff", b"\xff\xff\xff", b"garbage", b"\xff\x00", b"\xff\x01", b"\xff\xd0"],
    ids=["filling", "more filling", "garbage", "data", "TEM", "restart"],
)
@pytest.mark.parametrize("segment", [0, 1], ids=["at the start", "between segments"])
def test_dimensions_are_found_behind_bytes_that_libjpeg_skips(skipped, segment):
    data = image_file(40, 30, "jpeg")
    start = 2 + segment * (2 + int.from_bytes(data[4:6], "big"))
    changed = data[:start] + skipped + data[start:]
    # TensorFlow, too, takes a file for a JPEG only if it begins with ff d8 ff.
    is_jpeg = changed.startswith(b"\xff\xd8\xff")
    assert is_jpeg == (skipped != b"garbage" or segment == 1)
    assert dimensions(changed) == ((40, 30) if is_jpeg else None)
    # Such a header is not followed on the fast path: the file is odd, and looked at once more.
    assert inspect_headers([changed]) == (False, [0])


def test_odd_files_are_picked_out():
    small, large = image_file(8, 8, "png"), image_file(20, 10, "jpeg")
    assert inspect_headers([small, small]) == (True, [])
    assert inspect_headers([small, large]) == (False, [])
    odd = [small, b"text", large, image_file(8, 8, "gif")]
    assert inspect_headers(odd) == (False, [1, 3])
    assert inspect_headers([small, large], 199) == (False, [1])
    assert inspect_headers([large, large], 199) == (False, [0, 1])
    assert inspect_headers([large, large], 200) == (True, [])
