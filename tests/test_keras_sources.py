"""Keras' own tests of `image_dataset_from_directory`, asked of `scan` and `join`.

Each test of `keras/src/utils/image_dataset_utils_test.py` stands here under its own subject, with
Keras 3's loader as the oracle in the same test: same files, same order, same labels, same splits,
and pixels within 1/255 of the range. What differs on purpose is said in words by a test of its own.
"""

import gc
import os
import warnings

import keras
import numpy as np
import pytest
import tf_keras
from PIL import Image

from streamkd.errors import ClassNamesError, ImagesNotFoundError, OptionError
from streamkd.image_options import INTERPOLATIONS
from streamkd.manifest.manifest import scan
from streamkd.stream.join import join

TOLERANCE = 1.0  # of 255
# Keras 3 documents eight ways to resample, and refuses two of them together with this option.
# tf_keras has them all.
KERAS_3_CROPS = ("bilinear", "nearest", "lanczos3", "lanczos5", "bicubic", "area")


def noise(number, color_mode="rgb", size=(24, 24)):
    """Returns an image of random pixels, another one for each number."""
    channels = {"rgb": (3,), "rgba": (4,), "grayscale": ()}[color_mode]
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (*size, *channels), np.uint8))


def prepare(
    root, num_classes=2, *, count=16, color_mode="rgb", nested=False, size=(24, 24), ending=None
):
    """Draws a directory as Keras' tests do: the images go round the folders, JPEG where they can.

    Returns:
      root, with `num_classes` folders, in each of them three more where `nested`.
    """
    below = ["", "subfolder_1", "subfolder_2", "subfolder_1/sub-subfolder"] if nested else [""]
    folders = [root / f"class_{number}" / name for number in range(num_classes) for name in below]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    ending = ending or ("jpg" if color_mode == "rgb" else "png")
    for number in range(count):
        path = folders[number % len(folders)] / f"image_{number}.{ending}"
        noise(number, color_mode, size).save(path)
    return root


def keras_dataset(root, family=keras, **arguments):
    """Returns Keras' dataset, by default that of Keras 3 in the order of the directory."""
    arguments = {"image_size": (18, 18), "shuffle": False, "verbose": False, **arguments}
    if arguments.get("crop_to_aspect_ratio"):
        interpolation = arguments.get("interpolation", "bilinear")
        family = keras if interpolation in KERAS_3_CROPS else tf_keras
    if family is tf_keras:
        del arguments["verbose"]
    return family.utils.image_dataset_from_directory(str(root), batch_size=None, **arguments)


def assert_keras_refuses(root, words, **arguments):
    """Asserts that Keras raises a ValueError of these words."""
    with warnings.catch_warnings():
        # Where Keras refuses it leaves its thread pool open, which Python notes when it is freed.
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(ValueError, match=words):
            keras_dataset(root, **arguments)
        gc.collect()


def keras_pixels(dataset, *, labelled=True):
    """Returns pixels, float32 `[num_images, …]`, and labels, or None, of a dataset of Keras."""
    elements = list(dataset.as_numpy_iterator())
    if not labelled:
        return np.stack(elements), None
    return np.stack([image for image, _ in elements]), [int(label) for _, label in elements]


def keras_keys(dataset, root):
    """Returns the keys of a dataset of Keras, in its order."""
    return [os.fsencode(os.path.relpath(path, root)) for path in dataset.file_paths]


def streamed(images, **options):
    """Returns the pixels and labels of one epoch of a stream in the order of the manifest."""
    options = {"image_size": (18, 18), **options}
    stream = join(images, None, shuffle=False, batch_size=1, progress=False, **options)
    pixels, labels = [], []
    for batch, targets, _ in stream.batches(0, stream.end_of_epoch(1)):
        pixels.append(batch.numpy())
        labels += targets["labels"].numpy()[:, 0].tolist()
    return np.concatenate(pixels), labels


def assert_same(images, dataset, root, **options):
    """Compares keys, classes, labels and pixels of a manifest with a dataset of Keras."""
    pixels, labels = keras_pixels(dataset)
    assert images.keys.tolist() == keras_keys(dataset, root)
    assert images.class_names == dataset.class_names
    assert images.labels.tolist() == labels
    ours, our_labels = streamed(images, **options)
    assert our_labels == labels
    assert ours.dtype == np.float32 and ours.shape == pixels.shape
    assert np.abs(ours - pixels.astype(np.float32)).max() <= TOLERANCE


# test_image_dataset_from_directory_no_labels, test_sample_count


def test_no_labels(tmp_path):
    root = prepare(tmp_path, count=7)
    for number in range(3):
        noise(100 + number).save(root / f"image_{number}.jpg")
    dataset = keras_dataset(root, labels=None)
    images = scan(root, labels=None)
    assert images.keys.tolist() == keras_keys(dataset, root)
    assert images.num_images == 10
    assert images.class_names is None is dataset.class_names


# test_image_dataset_from_directory_binary, _multiclass, test_static_shape_in_graph


@pytest.mark.parametrize(("num_classes", "count"), [(2, 16), (4, 15)], ids=["binary", "multiclass"])
def test_int_labels(tmp_path, num_classes, count):
    root = prepare(tmp_path, num_classes, count=count)
    assert_same(scan(root), keras_dataset(root), root)


def test_static_shape(tmp_path):
    stream = join(scan(prepare(tmp_path)), None, image_size=(18, 18), batch_size=8)
    pixels, targets, weights = stream.dataset().element_spec
    assert pixels.shape.as_list() == [8, 18, 18, 3] and pixels.dtype == "float32"
    assert targets["labels"].shape.as_list() == [8, 2] and targets["labels"].dtype == "int32"
    assert weights.shape.as_list() == [8]


# test_image_dataset_from_directory_color_modes


@pytest.mark.parametrize("color_mode", ["rgba", "grayscale", "rgb"])
@pytest.mark.parametrize("drawn", ["rgba", "grayscale", "rgb"])
def test_color_modes(tmp_path, drawn, color_mode):
    root = prepare(tmp_path, 4, count=5, color_mode=drawn, ending="png")
    dataset = keras_dataset(root, color_mode=color_mode)
    assert_same(scan(root), dataset, root, color_mode=color_mode)


# test_image_dataset_from_directory_validation_split


@pytest.mark.parametrize("labels", ["inferred", [2, 0, 1, 1, 0, 2, 0, 0, 1, 2]], ids=["", "list"])
@pytest.mark.parametrize(("seed", "family"), [(0, keras), (1337, tf_keras)], ids=["0", "1337"])
@pytest.mark.parametrize(("fraction", "sizes"), [(0.2, (8, 2)), (0.33, (7, 3))])
def test_validation_split(tmp_path, fraction, sizes, seed, family, labels):
    root = prepare(tmp_path, count=10)
    split = {"validation_split": fraction, "seed": seed}
    # A copy, since Keras shuffles the list that it is given.
    given = labels if labels == "inferred" else list(labels)
    both = keras_dataset(root, family, labels=given, subset="both", shuffle=True, **split)
    for subset, dataset, size in zip(["training", "validation"], both, sizes, strict=True):
        images = scan(root, labels=labels, subset=subset, **split)
        assert len(images) == size
        assert set(images.keys) == set(keras_keys(dataset, root))
        # tf_keras leaves the labels of a list as numbers.
        assert images.class_names == list(map(str, dataset.class_names))
        whole = scan(root, labels=labels).keys.tolist()
        assert images.keys.tolist() == [key for key in whole if key in set(images.keys)]
    # Keras shuffles the training side again while reading; its labels are no list in order.
    in_keras = zip(keras_keys(dataset, root), keras_pixels(dataset)[1], strict=True)
    assert dict(zip(images.keys, images.labels.tolist(), strict=True)) == dict(in_keras)


# test_image_dataset_from_directory_manual_labels


@pytest.mark.parametrize(
    ("num_classes", "labels"),
    [(1, [0, 1, 0, 1]), (3, [0, 1, 0, 1, 1, 1]), (2, list(range(11)))],
    ids=["one folder", "several folders", "more than ten classes"],
)
def test_manual_labels(tmp_path, num_classes, labels):
    root = prepare(tmp_path, num_classes, count=len(labels))
    assert_same(scan(root, labels=labels), keras_dataset(root, labels=labels), root)


@pytest.mark.parametrize("labels", [[0, 1, 0], [0, 1, 0, 1, 1]], ids=["too few", "too many"])
def test_a_list_of_labels_of_another_length_is_refused(tmp_path, labels):
    root = prepare(tmp_path, 1, count=4)
    assert_keras_refuses(root, "match the number of files", labels=labels)
    with pytest.raises(OptionError, match=rf"labels: {len(labels)}\n  .*: 4 images"):
        scan(root, labels=labels)


# test_image_dataset_from_directory_follow_links, _shuffle


def test_nested_folders_and_links(tmp_path):
    root = prepare(tmp_path / "root", count=25, nested=True)
    other = prepare(tmp_path / "other", 1, count=3)
    (root / "class_1" / "more").symlink_to(other / "class_0")
    for follow_links, num_images in ((False, 25), (True, 28)):
        dataset = keras_dataset(root, follow_links=follow_links)
        images = scan(root, follow_links=follow_links)
        assert len(images) == num_images
        assert_same(images, dataset, root)


def test_shuffled_streams_repeat_themselves_and_hold_every_image_once(tmp_path):
    images = scan(prepare(tmp_path, count=25, nested=True))
    epochs = []
    for _ in range(2):
        stream = join(images, None, image_size=(18, 18), batch_size=5, seed=1337)
        pixels = [batch[0].numpy() for batch in stream.batches(0, stream.end_of_epoch(2))]
        epochs.append(np.concatenate(pixels))
    first, second = epochs[0][:25], epochs[0][25:]
    assert np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(first, second)
    sums = [np.sort(part.sum((1, 2, 3))) for part in (first, second)]
    np.testing.assert_allclose(*sums, rtol=1e-6)


# test_image_dataset_from_directory_no_images


def test_no_images(tmp_path):
    root = prepare(tmp_path, count=0)
    assert_keras_refuses(root, "No images found")
    with pytest.raises(ImagesNotFoundError, match="There are no images in"):
        scan(root)


# test_image_dataset_from_directory_crop_to_aspect_ratio, _pad_to_aspect_ratio


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", ["plain", "crop_to_aspect_ratio", "pad_to_aspect_ratio"])
def test_pixels(tmp_path, shape, interpolation):
    arguments = {"interpolation": interpolation}
    if shape != "plain":
        arguments[shape] = True
    for number, size in enumerate([(24, 24), (31, 17), (13, 40), (9, 11)]):
        prepare(tmp_path / "a" / str(number), 1, count=1, size=size)
        prepare(tmp_path / "b" / str(number), 1, count=1, size=size, color_mode="rgba")
    dataset = keras_dataset(tmp_path, image_size=(18, 14), **arguments)
    assert_same(scan(tmp_path), dataset, tmp_path, image_size=(18, 14), **arguments)


# test_image_dataset_from_directory_errors


@pytest.mark.parametrize(
    ("arguments", "keras_words", "error", "words"),
    [
        ({"labels": "other"}, "`labels` argument should be", OptionError, "labels is 'other'"),
        (
            {"labels": [0, 0, 1, 1, 1], "class_names": ["class_0", "class_1", "class_2"]},
            "only pass `class_names` if",
            OptionError,
            "class_names goes with labels='inferred'",
        ),
        (
            {"labels": None, "class_names": ["class_0"]},
            "`class_names` cannot be specified",
            OptionError,
            "class_names needs labels",
        ),
        (
            {"labels": [0, 0, 1, 1]},
            "Expected the lengths of `labels` to match",
            OptionError,
            "one label for each image, in the order of the paths",
        ),
        (
            {"class_names": ["class_0", "wrong_class", "another"]},
            "`class_names` passed did not match",
            ClassNamesError,
            "first of 2 without a folder: 'wrong_class'",
        ),
        (
            {"validation_split": 2, "subset": "training", "seed": 1},
            "must be between 0 and 1",
            OptionError,
            "validation_split is 2; it must lie between",
        ),
        (
            {"validation_split": 0.2, "subset": "other", "seed": 1},
            "`subset` must be either",
            OptionError,
            "subset is 'other'; choose one of",
        ),
        ({"subset": "training"}, "must be set", OptionError, "subset needs validation_split"),
        (
            {"validation_split": 0.2, "subset": "training", "shuffle": True},
            "must provide a `seed`",
            OptionError,
            "validation_split needs a seed",
        ),
    ],
    ids=[
        *["labels", "class names beside a list", "class names without labels", "length"],
        *["class names", "fraction", "subset", "no fraction", "no seed"],
    ],
)
def test_arguments_that_keras_refuses_are_refused(tmp_path, arguments, keras_words, error, words):
    root = prepare(tmp_path, 3, count=5)
    assert_keras_refuses(root, keras_words, **arguments)
    arguments.pop("shuffle", None)
    with pytest.raises(error, match=words):
        scan(root, **arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"color_mode": "other"}, "color_mode is 'other'"),
        ({"interpolation": "other"}, "interpolation is 'other'"),
        ({"image_size": 18.5}, "image_size is 18.5"),
        ({"crop_to_aspect_ratio": True, "pad_to_aspect_ratio": True}, "exclude each other"),
    ],
    ids=["color mode", "interpolation", "image size", "crop and pad"],
)
def test_pixel_options_that_keras_refuses_are_refused(tmp_path, options, words):
    root = prepare(tmp_path, count=2)
    with pytest.raises((ValueError, TypeError)):
        keras_pixels(keras_dataset(root, **options))
    with pytest.raises(OptionError, match=words):
        join(scan(root), None, **{"image_size": (18, 18), **options})


# test_image_dataset_from_directory_not_batched


def test_a_stream_can_be_unbatched(tmp_path):
    root = prepare(tmp_path, count=2)
    stream = join(scan(root), None, image_size=(18, 18), batch_size=2, shuffle=False)
    pixels = [image.numpy() for image, _, _ in stream.dataset(0, 1).unbatch()]
    expected, _ = keras_pixels(keras_dataset(root))
    assert [image.shape for image in pixels] == [(18, 18, 3)] * 2
    assert np.abs(np.stack(pixels) - expected).max() <= TOLERANCE


# What differs on purpose, besides hidden files, WebP and names that are not UTF-8 (test_listing).


def test_nearest_pixels_are_float32_like_all_others(tmp_path):
    root = prepare(tmp_path, count=2)
    assert keras_dataset(root, interpolation="nearest").element_spec[0].dtype == "uint8"
    stream = join(scan(root), None, image_size=(18, 18), interpolation="nearest", batch_size=2)
    assert stream.dataset().element_spec[0].dtype == "float32"


def test_a_split_without_shuffle_is_not_offered(tmp_path):
    # Keras takes the last images: all of validation is of the last classes.
    root = prepare(tmp_path, 2, count=10)
    split = {"validation_split": 0.2, "subset": "validation"}
    dataset = keras_dataset(root, **split, seed=1)
    assert set(keras_pixels(dataset)[1]) == {1}
    with pytest.raises(TypeError, match="shuffle"):
        scan(root, **split, seed=1, shuffle=False)


def test_labels_with_gaps_are_numbered_as_their_names_are(tmp_path):
    # Keras keeps the label 7 beside two class names, so that `class_names[label]` fails.
    root = prepare(tmp_path, 1, count=3)
    dataset = keras_dataset(root, labels=[7, 2, 7])
    assert keras_pixels(dataset)[1] == [7, 2, 7] and dataset.class_names == ["2", "7"]
    images = scan(root, labels=[7, 2, 7])
    assert images.labels.tolist() == [1, 0, 1] and images.class_names == ["2", "7"]


def test_the_label_minus_one_is_no_label(tmp_path):
    root = prepare(tmp_path, 1, count=3)
    assert keras_dataset(root, labels=[-1, 0, 1]).class_names == ["-1", "0", "1"]
    images = scan(root, labels=[-1, 0, 1])
    assert images.labels.tolist() == [-1, 0, 1] and images.class_names == ["0", "1"]


def test_train_and_test_folders_are_not_taken_for_classes(tmp_path):
    for part in ("train", "test"):
        prepare(tmp_path / part, count=2)
    assert keras_dataset(tmp_path).class_names == ["test", "train"]
    with pytest.raises(ImagesNotFoundError, match="parts of a data set, not classes"):
        scan(tmp_path)


def test_a_class_named_twice_is_refused(tmp_path):
    root = prepare(tmp_path, count=4)
    assert len(keras_dataset(root, class_names=["class_0", "class_0"]).file_paths) == 4
    words = r"class_names holds 'class_0' twice\.\nName every class once\."
    with pytest.raises(ClassNamesError, match=words):
        scan(root, class_names=["class_0", "class_0"])
