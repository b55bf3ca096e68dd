"""Pixels against Keras' own loaders, and files that cannot be decoded."""

import functools
import os

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from PIL import Image

from streamkd.errors import BadImageError
from streamkd.image_options import INTERPOLATIONS, ImageOptions
from streamkd.manifest.manifest import scan
from streamkd.pixels.bad_images import find_bad_image, refuse_bad_image, why_bad
from streamkd.pixels.check_images import check_images
from streamkd.pixels.decode import _graph_of, decode_batch, decoder_of
from streamkd.pixels.file_batch import read_files
from streamkd.pixels.files import read_file
from streamkd.tf_support.autograph import unconverted

SIZES = {"wide": (9, 20), "tall": (21, 8), "small": (3, 4), "square": (12, 12)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Random pixels of several sizes, shapes, formats and colour modes, in one class folder."""
    root = tmp_path_factory.mktemp("photos")
    (root / "a").mkdir()
    for number, (name, size) in enumerate(SIZES.items()):
        helpers.draw_noise(root / "a" / f"{name}.png", size, number)
        helpers.draw_noise(root / "a" / f"{name}.jpg", size, number)
    helpers.draw_noise(root / "a" / "grey.png", (7, 9), 10, "L")
    helpers.draw_noise(root / "a" / "grey.jpg", (7, 9), 11, "L")
    helpers.draw_noise(root / "a" / "alpha.png", (7, 9), 12, "RGBA")
    helpers.draw_noise(root / "a" / "bitmap.bmp", (7, 9), 13)
    frames = [Image.new("RGB", (6, 5), color) for color in ("red", "green", "blue")]
    frames[0].save(root / "a" / "moving.gif", save_all=True, append_images=frames[1:])
    return root


BOTH = ({"plain_first": False}, {"plain_first": True})


def read(images, options):
    """Returns the pixels of all images of a manifest."""
    files, one_size, *_ = read_files(images.paths(range(len(images))))
    decoding = tf.function(lambda files: decode_batch(files, one_size, options))
    pixels, _ = decoding(tf.constant(files))
    assert pixels.shape == (len(images), *options.shape) and pixels.dtype == tf.float32
    return pixels.numpy()


def test_the_graph_of_a_decoder_is_made_once_for_all_datasets_of_one_shape(photos):
    """And another one for other options, other boxes and views whose first is plain."""
    data, one_size, *_ = map(tf.constant, read_files(scan(photos).paths(range(4))))
    boxes = tf.constant(np.tile(np.float32([0.1, 0.2, 0.8, 0.9]), (4, 2, 1)))

    def shown(options, **more):
        decoder = decoder_of(options)
        dataset = tf.data.Dataset.from_tensors((data, one_size))
        if more:
            decode = functools.partial(decoder.crops, boxes=boxes, **more)
        else:
            decode = decoder.whole
        in_graph = next(iter(dataset.map(unconverted(decode))))
        return in_graph.numpy(), decode(data, one_size).numpy()

    size = {"image_size": (8, 11)}
    kinds = [(ImageOptions(**size), more) for more in ({}, *BOTH)]
    kinds += [(ImageOptions(**size, interpolation="nearest"), {})]
    first = [shown(options, **more) for options, more in kinds]
    for number, (in_graph, eagerly) in enumerate(first):
        np.testing.assert_allclose(in_graph, eagerly, atol=1e-3)
        assert all(not np.array_equal(in_graph, other) for other, _ in first[:number])
    made = _graph_of.cache_info().misses
    again = [shown(options, **more) for options, more in kinds]
    assert _graph_of.cache_info().misses == made
    for (one, _), (other, _) in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def keras_pixels(family, root, color_mode="rgb", **arguments):
    loader = family.utils.image_dataset_from_directory
    arguments = {"color_mode": color_mode, "batch_size": 100, "shuffle": False, **arguments}
    return next(iter(loader(str(root), **arguments)))[0].numpy()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_pixels_are_those_of_keras_loader(photos, interpolation):
    options = ImageOptions(image_size=(8, 11), interpolation=interpolation)
    expected = keras_pixels(tf_keras, photos, image_size=(8, 11), interpolation=interpolation)
    np.testing.assert_array_equal(read(scan(photos), options), expected)


@pytest.mark.parametrize(
    ("family", "image_size"),
    # tf_keras' own loader fails on the last size: the window of a 3×4 image would be empty.
    [(tf_keras, (8, 11)), (tf_keras, (16, 7)), (tf_keras, (30, 30)), (keras, (16, 5))],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_cropped_pixels_are_those_of_keras_loader(photos, family, image_size):
    options = ImageOptions(image_size=image_size, crop_to_aspect_ratio=True)
    expected = keras_pixels(family, photos, image_size=image_size, crop_to_aspect_ratio=True)
    np.testing.assert_array_equal(read(scan(photos), options), expected)


@pytest.mark.parametrize("image_size", [(8, 11), (16, 5), (32, 32)], ids=str)
def test_padded_pixels_are_those_of_keras_3s_loader(photos, image_size):
    options = ImageOptions(image_size=image_size, pad_to_aspect_ratio=True)
    expected = keras_pixels(keras, photos, image_size=image_size, pad_to_aspect_ratio=True)
    np.testing.assert_array_equal(read(scan(photos), options), expected)


def test_the_longer_side_has_no_border_where_keras_rounding_leaves_one(tmp_path):
    # 9 / (9 / 30) is 29.999… in Keras' float32, so that its image is 29 pixels wide.
    helpers.draw_directory(tmp_path, {"a": 1}, size=(9, 9), first=200)
    options = ImageOptions(image_size=(30, 30), pad_to_aspect_ratio=True)
    expected = keras_pixels(keras, tmp_path, image_size=(30, 30), pad_to_aspect_ratio=True)
    assert (expected[0, 29] == 0).all()
    assert (read(scan(tmp_path), options) == [200, 0, 0]).all()


@pytest.mark.parametrize("size", [(1, 40), (40, 1)], ids=str)
@pytest.mark.parametrize("shape", ["crop_to_aspect_ratio", "pad_to_aspect_ratio"])
def test_a_very_narrow_image_keeps_one_row_of_pixels(tmp_path, size, shape):
    helpers.draw_directory(tmp_path, {"a": 1}, size=size, first=200)
    options = ImageOptions(image_size=(4, 4), **{shape: True})
    assert read(scan(tmp_path), options)[0, :, :, 0].max() == 200


@pytest.mark.parametrize("color_mode", ["grayscale", "rgba"])
def test_colour_modes_are_those_of_keras_loader(tmp_path, color_mode):
    (tmp_path / "a").mkdir()
    for number, mode in enumerate(["L", "RGB", "RGBA"]):
        helpers.draw_noise(tmp_path / "a" / f"{mode}.png", (5, 6), number, mode)
    options = ImageOptions(image_size=(5, 6), color_mode=color_mode)
    expected = keras_pixels(tf_keras, tmp_path, color_mode, image_size=(5, 6))
    np.testing.assert_array_equal(read(scan(tmp_path), options), expected)


def test_pixels_are_raw_and_the_alpha_channel_is_dropped(tmp_path):
    (tmp_path / "a").mkdir()
    helpers.draw_noise(tmp_path / "a" / "1.png", (5, 6), 1, "RGBA")
    pixels = read(scan(tmp_path), ImageOptions(image_size=(5, 6)))
    with Image.open(tmp_path / "a" / "1.png") as image:
        np.testing.assert_array_equal(pixels[0], np.asarray(image)[:, :, :3])


def test_webp_is_decoded(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (6, 5), (10, 20, 30)).save(tmp_path / "a" / "1.webp", lossless=True)
    pixels = read(scan(tmp_path), ImageOptions(image_size=(5, 6)))
    assert (pixels == [10, 20, 30]).all()


def test_the_number_in_an_image_survives_any_resizing(tmp_path):
    helpers.draw_directory(tmp_path, {"a": 2, "b": 2}, size=(7, 9), first=1000)
    for interpolation in ("bilinear", "area", "lanczos5"):
        options = ImageOptions(image_size=(5, 4), interpolation=interpolation)
        numbers = helpers.pixel_numbers(read(scan(tmp_path), options))
        assert numbers.tolist() == [[1000, 0], [1001, 0], [1002, 1], [1003, 1]]


@pytest.mark.parametrize("num_bytes", [0, 1, 65535, 65536, 65537, 200_001])
def test_files_are_read_whole(tmp_path, num_bytes):
    content = np.random.default_rng(0).bytes(num_bytes)
    (tmp_path / "file").write_bytes(content)
    assert read_file(bytes(tmp_path / "file")) == content
    if content:  # an empty file is refused
        contents, *_ = read_files([bytes(tmp_path / "file")] * 2)
        assert contents.tolist() == [content] * 2


# Bad files.


def spoil(path, kind):
    """Makes a good image a bad one."""
    if kind == "truncated":
        helpers.truncate(path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "zeros":
        path.write_bytes(bytes(500))
    elif kind == "text":
        path.write_text("no image at all\n")
    elif kind == "gone":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()


BAD = {
    "truncated": r"cannot be decoded: .*(Invalid|JPEG|jpeg)",
    "empty": r"cannot be decoded: the file is empty",
    "zeros": r"cannot be decoded: Unknown image file format",
    "text": r"cannot be decoded: Unknown image file format",
    "gone": r"is not there: No such file or directory\.",
    "folder": r"cannot be decoded: the file cannot be read: Is a directory",
}


@pytest.fixture
def pictures(tmp_path):
    """A manifest of five JPEG images, one with a name that is not UTF-8."""
    (tmp_path / "a").mkdir()
    for number in range(4):
        helpers.draw_noise(tmp_path / "a" / f"{number}.jpg", (16, 16), number)
    helpers.draw_noise(tmp_path / "a" / "x.jpg", (16, 16), 9)
    os.rename(tmp_path / "a" / "x.jpg", os.path.join(bytes(tmp_path), b"a/\xff.jpg"))
    return scan(tmp_path)


@pytest.mark.parametrize("kind", list(BAD))
def test_a_bad_image_is_refused_by_name(pictures, tmp_path, kind):
    spoil(tmp_path / "a" / "2.jpg", kind)
    options = ImageOptions(image_size=(8, 8))
    error = tf.errors.InvalidArgumentError(None, None, "as raised for a batch")
    with pytest.raises(BadImageError, match=r"The image 'a/2\.jpg' " + BAD[kind]) as refusal:
        refuse_bad_image(error, pictures, range(5), options)
    assert refusal.value.key == b"a/2.jpg"
    assert kind == "gone" or refusal.value.__cause__ is error
    assert f"file: {tmp_path}/a/2.jpg" in str(refusal.value)


def test_a_bad_image_whose_name_is_no_utf8_is_refused_by_name(pictures, tmp_path):
    with open(os.path.join(bytes(tmp_path), b"a/\xff.jpg"), "wb"):
        pass
    options = ImageOptions(image_size=(8, 8))
    with pytest.raises(BadImageError, match=r"'a/\\xff.jpg' cannot be decoded") as refusal:
        refuse_bad_image(tf.errors.UnknownError(None, None, ""), pictures, range(5), options)
    assert refusal.value.key == b"a/\xff.jpg"


def test_good_images_are_not_refused(pictures):
    options = ImageOptions(image_size=(8, 8))
    assert find_bad_image(pictures, range(5), options) is None
    assert refuse_bad_image(tf.errors.UnknownError(None, None, ""), pictures, [1], options) is None


def test_an_image_without_the_channels_asked_for_gets_them(pictures):
    options = ImageOptions(image_size=(8, 8), color_mode="rgba")
    assert why_bad(pictures.path(0), options) is None
    assert why_bad(pictures.path(0)) is None


def test_checking_counts_formats_and_lists_the_bad_files(pictures, tmp_path):
    helpers.draw_noise(tmp_path / "a" / "named.jpg", (4, 4))
    os.rename(tmp_path / "a" / "named.jpg", tmp_path / "a" / "4.png")
    spoil(tmp_path / "a" / "1.jpg", "text")
    spoil(tmp_path / "a" / "2.jpg", "gone")
    with open(os.path.join(bytes(tmp_path), b"a/\xff.jpg"), "r+b") as file:
        file.truncate(100)
    (tmp_path / "a" / "2.jpg").symlink_to("nowhere")
    report = check_images(scan(tmp_path), progress=False)
    assert report.formats == {"jpeg": 4, "other": 1, "unreadable": 1}
    assert [entry["key"] for entry in report.bad] == ["a/1.jpg", "a/2.jpg", "a/\\xff.jpg"]
    assert report.bad[1]["reason"] == "the file is gone"
    assert report.bad[2]["key_base64"] == "YS//LmpwZw=="
    sizes = [os.path.getsize(path) for path in scan(tmp_path).paths([0, 1, 3, 4, 5])]
    assert report.num_bytes == sum(sizes)
