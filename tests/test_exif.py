"""Photographs with a tag that says how they are turned: `exif='apply'` shows them upright.

Pillow's `ImageOps.exif_transpose` is the oracle, in every orientation and format.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from streamkd.errors import OptionError
from streamkd.image_options import ImageOptions
from streamkd.pixels.bad_images import why_bad_bytes
from streamkd.pixels.content_digest import digest_each
from streamkd.pixels.decode import decode, decode_batch, decode_canonical, decoder_of
from streamkd.pixels.file_batch import read_files
from streamkd.pixels.orientation import MARK, MAX_PARTS, marked, orientation
from streamkd.pixels.pillow_fallback import UndecodableError, decodable

SAVED_WITH = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def picture(height=24, width=37):
    y, x = np.mgrid[0:height, 0:width] / width
    return np.stack([250 * y, 250 * x, 125 + 120 * np.sin(7 * x * y)], -1).astype(np.uint8)


def tag(number, order="<", kind=3):
    """Returns an EXIF block with an orientation of a TIFF type."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], number)
    return head + struct.pack(f"{order}IHHHI", 8, 1, 0x0112, kind, 1) + value + b"\0\0\0\0"


def encoded(file_format="JPEG", number=6, pixels=None, **others):
    data = io.BytesIO()
    image = Image.fromarray(picture() if pixels is None else pixels)
    exif = Image.Exif()
    exif[0x0112] = number
    image.save(data, file_format, exif=exif, **{**SAVED_WITH[file_format], **others})
    return data.getvalue()


def turned(pixels, number):
    """Returns an array as Pillow turns it."""
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = number
    return np.asarray(ImageOps.exif_transpose(image))


def options_of(pixels, **others):
    return ImageOptions(image_size=pixels.shape[:2], exif="apply", **others)


def shown(data, options):
    return decode(tf.constant(decodable(data, **options.for_files())), options).numpy()


@pytest.mark.parametrize("file_format", SAVED_WITH)
@pytest.mark.parametrize("number", range(1, 9))
def test_an_image_is_shown_upright(file_format, number):
    data = encoded(file_format, number)
    if file_format == "JPEG":
        expected = turned(tf.io.decode_jpeg(data).numpy(), number)
    else:
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(shown(data, options_of(expected)), expected)


@pytest.mark.parametrize("color_mode", ["grayscale", "rgba"])
@pytest.mark.parametrize("file_format", SAVED_WITH)
def test_other_channels_are_turned_as_well(file_format, color_mode):
    own = ImageOptions(image_size=(24, 37), color_mode=color_mode)
    ignored = decode(tf.constant(decodable(encoded(file_format, 1), **own.for_files())), own)
    expected = turned(ignored.numpy().astype(np.uint8).squeeze(), 7)
    got = shown(encoded(file_format, 7), options_of(expected, color_mode=color_mode))
    np.testing.assert_array_equal(got.squeeze(), expected)


def test_the_tag_is_ignored_by_default():
    data = encoded("PNG", 6)
    options = ImageOptions(image_size=(24, 37))
    assert decodable(data, **options.for_files()) is data
    np.testing.assert_array_equal(shown(data, options), picture())


def jpeg_with(*segments):
    """Returns a JPEG with more segments: marker and content of each."""
    plain = io.BytesIO()
    Image.fromarray(picture()).save(plain, "JPEG")
    more = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in segments
    )
    return b"\xff\xd8" + more + plain.getvalue()[2:]


def png_with(*chunks, behind=()):
    plain = io.BytesIO()
    Image.fromarray(picture()).save(plain, "PNG")
    before, after = (
        b"".join(
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
            for kind, content in some
        )
        for some in (chunks, behind)
    )
    data = plain.getvalue()
    return data[:33] + before + data[33:-12] + after + data[-12:]


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
XMP_ELEMENT = b"<x:xmpmeta><tiff:Orientation>8</tiff:Orientation></x:xmpmeta>"
ADOBE = b"http://ns.adobe.com/xap/1.0/\0"
PROFILE = b"\nexif\n      38\n" + (b"Exif\0\0" + tag(8)).hex().encode() + b"\n"
KEPT_ELSEWHERE = {
    "big-endian": jpeg_with((0xE1, b"Exif\0\0" + tag(8, ">"))),
    "of 32 bits": jpeg_with((0xE1, b"Exif\0\0" + tag(8, kind=4))),
    "behind others": jpeg_with(
        (0xFE, b"a comment"), (0xE2, b"other"), (0xE1, b"Exif\0\0" + tag(8))
    ),
    "XMP": jpeg_with((0xE1, ADOBE + XMP)),
    "EXIF wins over XMP": jpeg_with((0xE1, ADOBE + XMP), (0xE1, b"Exif\0\0" + tag(3))),
    "upright wins over XMP": jpeg_with((0xE1, ADOBE + XMP), (0xE1, b"Exif\0\0" + tag(1))),
    "PNG": png_with((b"eXIf", tag(8))),
    "PNG, behind its pixels": png_with(behind=[(b"eXIf", tag(8, ">"))]),
    "PNG, XMP": png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0en\0x\0" + XMP_ELEMENT)),
    "PNG, XMP packed": png_with(
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0x-default\0\0" + zlib.compress(XMP))
    ),
    "ImageMagick": png_with((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE))),
    "of ImageMagick, in letters": png_with((b"tEXt", b"Raw profile type exif\0" + PROFILE)),
}


@pytest.mark.parametrize("where", KEPT_ELSEWHERE)
def test_the_tag_is_found_where_pillow_finds_it(where):
    data = KEPT_ELSEWHERE[where]
    with Image.open(io.BytesIO(data)) as image:
        expected = image.getexif().get(0x0112, 1)
    assert orientation(data) == expected


EXIF = b"Exif\0\0"
DAMAGED = {
    "no tag": jpeg_with((0xE1, EXIF + b"II*\0\x08\0\0\0\0\0")),
    "an empty block": jpeg_with((0xE1, EXIF)),
    "another order of bytes": jpeg_with((0xE1, EXIF + b"XX*\0" + tag(6)[4:])),
    "a directory beyond the block": jpeg_with((0xE1, EXIF + b"II*\0\xff\xff\xff\xff" + b"0" * 9)),
    "more entries than bytes": jpeg_with((0xE1, EXIF + b"II*\0\x08\0\0\0\xff\xff" + b"1" * 30)),
    "nine": jpeg_with((0xE1, EXIF + tag(9))),
    "none": jpeg_with((0xE1, EXIF + tag(0))),
    "a byte": jpeg_with((0xE1, EXIF + tag(6, kind=1))),
    "cut": jpeg_with((0xE1, EXIF + tag(6)))[:20],
    "after the pixels": jpeg_with() + b"\xff\xe1\x00\x22" + EXIF + tag(6),
    "a damaged stream": png_with((b"zTXt", b"Raw profile type exif\0\0" + b"nothing")),
    "no hexadecimal": png_with((b"tEXt", b"Raw profile type exif\0\n\n\nxyz")),
    "only a signature": b"\x89PNG",
    "no chunks": b"RIFF\x10\0\0\0WEBPVP8X",
    "a WebP that does not announce it": encoded("WEBP", 6)[:20] + b"\0" + encoded("WEBP", 6)[21:],
    "another format": b"GIF89a" + tag(6),
    "nothing": b"",
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_tag_turns_nothing(fault):
    assert orientation(DAMAGED[fault]) == 1


def test_a_hostile_header_is_not_walked_for_long():
    assert orientation(b"\xff\xd8\xff" + b"\xff\xd0" * (20 * MAX_PARTS) + jpeg_with()) == 1
    assert orientation(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0aBcd\0\0\0\0" * (MAX_PARTS + 9)) == 1
    bomb = zlib.compress(bytes(30_000_000), 9)
    assert orientation(png_with((b"zTXt", b"Raw profile type exif\0\0" + bomb))) == 1


def test_no_file_can_carry_the_mark_itself():
    """A large image behind the mark would be decoded without a look at its size."""
    png = encoded("PNG", 1)
    for options in (options_of(picture()), ImageOptions(image_size=(24, 37))):
        with pytest.raises(UndecodableError, match="neither TensorFlow nor Pillow"):
            decodable(MARK + b"6" + png, **options.for_files())
    assert marked(png, 1) is png


def written(folder, files):
    paths = []
    for name, data in files.items():
        (folder / name).write_bytes(data)
        paths.append(str(folder / name).encode())
    return paths


def batch_of(paths, options):
    """Returns a batch as it is read and decoded, and its digests."""
    files = read_files(paths, **options.for_files())
    file_bytes = tf.constant(files.file_bytes.tolist())
    pixels, digests = decode_batch(file_bytes, files.one_size, options, files.known_digests)
    return pixels.numpy(), digests.numpy()


@pytest.mark.parametrize("how", ["exact", "scaled"])
def test_a_batch_of_turned_and_upright_files(tmp_path, how):
    """The upright pixels, saved without a tag, are the oracle; digests are those of the files."""
    tagged = {f"{n}.png": encoded("PNG", n) for n in (1, 6, 3)}
    upright = {f"u{n}.png": encoded("PNG", 1, turned(picture(), n)) for n in (1, 6, 3)}
    options = ImageOptions(image_size=(10, 12), decode=how, crop_to_aspect_ratio=True)
    expected, _ = batch_of(written(tmp_path, upright), options)
    apply = ImageOptions(image_size=(10, 12), decode=how, crop_to_aspect_ratio=True, exif="apply")
    got, digests = batch_of(written(tmp_path, tagged), apply)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(digests, digest_each(list(tagged.values())))


# The box of the file that shows the box (0, 0.5, 0.5, 1) of the upright image.
BOXES = {2: (0, 0, 0.5, 0.5), 3: (0.5, 0, 1, 0.5), 6: (0, 0, 0.5, 0.5), 8: (0.5, 0.5, 1, 1)}


@pytest.mark.parametrize("number", BOXES)
def test_scaled_decoding_sees_the_upright_image(number):
    """Of 203×97 pixels, 26×13 are decoded at 1/8: a part of the last row and column is cut off.

    The oracle is what is shown of the image as it lies in the file, turned afterwards.
    """
    size, own_size = ((12, 6) if number in (6, 8) else (6, 12)), (6, 12)
    apply = ImageOptions(image_size=size, decode="scaled", exif="apply")
    ignore = ImageOptions(image_size=own_size, decode="scaled")
    boxes = tf.constant([[[0.0, 0.5, 0.5, 1.0]]]), tf.constant([[BOXES[number]]], tf.float32)
    data = encoded("JPEG", number, picture(97, 203))
    for options in (apply, ignore):
        assert b"Exif" in decodable(data, **options.for_files())
    upright, own = (shown(data, options) for options in (apply, ignore))
    np.testing.assert_allclose(upright, turned_floats(own, number), atol=0.01)
    crops = []
    for options, box in zip((apply, ignore), boxes, strict=True):
        file_bytes = tf.constant([decodable(data, **options.for_files())])
        crop = decoder_of(options).crops(file_bytes, tf.constant(False), box)
        crops.append(crop[0, 0].numpy())
    np.testing.assert_allclose(crops[0], turned_floats(crops[1], number), atol=0.01)


def turned_floats(pixels, number):
    """Returns float pixels turned as Pillow turns their positions."""
    rows, columns = pixels.shape[:2]
    positions = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    return pixels.reshape(rows * columns, -1)[turned(positions, number)]


def test_crops_and_the_pixel_cache_see_the_upright_image():
    upright = turned(picture(), 6)
    options = options_of(upright)
    file_bytes = tf.constant([decodable(encoded("PNG", 6), **options.for_files())])
    boxes = tf.constant([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.25]]], tf.float32)
    crops = decoder_of(options).crops(file_bytes, tf.constant(False), boxes, plain_first=True)
    np.testing.assert_array_equal(crops[0, 0], upright)
    plain = ImageOptions(image_size=upright.shape[:2])
    as_png = tf.constant([encoded("PNG", 1, upright)])
    expected = decoder_of(plain).crops(as_png, tf.constant(True), boxes)
    np.testing.assert_array_equal(crops[0, 1], expected[0, 1])
    kept = decode_canonical(file_bytes, tf.constant(False), options)
    np.testing.assert_array_equal(kept[0], upright)


def test_a_bad_file_is_named_with_and_without_the_tag():
    options = ImageOptions(image_size=(8, 8), exif="apply")
    assert why_bad_bytes(encoded("JPEG", 6), options) is None
    assert why_bad_bytes(encoded("JPEG", 6)[:-300], options)
    reason = why_bad_bytes(encoded("PNG", 6), ImageOptions(image_size=(8, 8), max_pixels=9))
    assert reason == "it has 37 x 24 pixels, and at most 9 are decoded (--max-pixels)"


def test_only_another_way_is_kept():
    assert "exif" not in ImageOptions(image_size=(8, 8)).to_dict()
    apply = ImageOptions(image_size=(8, 8), exif="apply")
    assert apply.to_dict()["exif"] == "apply"
    assert ImageOptions.from_dict(apply.to_dict()) == apply
    with pytest.raises(OptionError, match="exif is 'turn'"):
        ImageOptions(image_size=(8, 8), exif="turn")
