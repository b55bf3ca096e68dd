"""Turns files into pixels inside a TensorFlow graph, a whole batch at a time.

    images, contents = read_batch(paths, options)      # paths: string [batch]

One map call decodes a whole batch: for small files that is about 2.5 times faster than one call
an image, since tf.data's own work for each element dominates there.

Pixels are those of `image_dataset_from_directory`: `tf.io.decode_image`, then `tf.image.resize`
without antialiasing, float32 from 0 to 255. EXIF rotation is ignored, as Keras ignores it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import tensorflow as tf

from streamkd.errors import BadImageError, readable_key
from streamkd.images.manifest import Manifest
from streamkd.options import ImageOptions


def read_batch(paths: tf.Tensor, options: ImageOptions) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the pixels and the content digests of some files.

    Args:
      paths: string `[batch]`.
      options: how bytes become pixels.

    Returns:
      images, float32 `[batch, height, width, channels]`, 0 to 255; and content digests,
      uint64 `[batch]`, FarmHash64 of each file's bytes.

    Raises (when run):
      tf.errors.InvalidArgumentError: a file cannot be decoded. TensorFlow does not name it;
        `refuse_bad_image` does.
    """

    def read_one(path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        data = tf.io.read_file(path)
        return decode(data, options), data

    images, contents = tf.map_fn(
        read_one,
        paths,
        fn_output_signature=(
            tf.TensorSpec(options.shape, tf.float32),
            tf.TensorSpec((), tf.string),
        ),
    )
    return images, content_digests(contents)


def content_digests(contents: tf.Tensor) -> tf.Tensor:
    """Returns FarmHash64 of each string, uint64 `[batch]`, for string `[batch]`."""
    return tf.bitcast(tf.fingerprint(contents, method="farmhash64"), tf.uint64)


def decode(data: tf.Tensor, options: ImageOptions) -> tf.Tensor:
    """Returns float32 `[height, width, channels]`, 0 to 255, for the bytes of one file."""
    image = tf.io.decode_image(data, channels=options.num_channels, expand_animations=False)
    image.set_shape((None, None, options.num_channels))
    if options.crop_to_aspect_ratio:
        image = _crop_to_aspect_ratio(image, options.image_size)
    elif options.pad_to_aspect_ratio:
        image = _pad_to_aspect_ratio(image, options.image_size)
    image = tf.image.resize(image, options.image_size, method=options.interpolation)
    image = tf.cast(image, tf.float32)  # 'nearest' keeps uint8
    image.set_shape(options.shape)
    return image


def _crop_to_aspect_ratio(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """Returns the largest central window of the target's shape, rounded as Keras rounds."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    window_height = tf.minimum(height, _floor_ratio(width * image_size[0], image_size[1]))
    window_width = tf.minimum(width, _floor_ratio(height * image_size[1], image_size[0]))
    top, left = (height - window_height) // 2, (width - window_width) // 2
    return image[top : top + window_height, left : left + window_width]


def _pad_to_aspect_ratio(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """Returns the image on the smallest black canvas of the target's shape."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    canvas_height = tf.maximum(height, _floor_ratio(width * image_size[0], image_size[1]))
    canvas_width = tf.maximum(width, _floor_ratio(height * image_size[1], image_size[0]))
    top, left = (canvas_height - height) // 2, (canvas_width - width) // 2
    return tf.image.pad_to_bounding_box(image, top, left, canvas_height, canvas_width)


def _floor_ratio(numerator: tf.Tensor, denominator: int) -> tf.Tensor:
    return tf.cast(tf.cast(numerator, tf.float32) / denominator, tf.int32)


def find_bad_image(
    manifest: Manifest, indices: Iterable[int], options: ImageOptions
) -> tuple[int, str] | None:
    """Returns the first image that cannot be read, as (index, reason); None where all can."""
    for index in indices:
        reason = why_bad(manifest.path(index), options)
        if reason is not None:
            return index, reason
    return None


def why_bad(path: bytes, options: ImageOptions | None = None) -> str | None:
    """Returns why one file cannot be decoded, or None where it can."""
    try:
        if os.stat(path).st_size == 0:
            return "the file is empty"
        data = tf.io.read_file(path)
        if options is None:
            tf.io.decode_image(data, expand_animations=False)
        else:
            decode(data, options)
    except FileNotFoundError:
        return "the file is gone"
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    except tf.errors.OpError as error:
        return _first_line(error)
    return None


def _first_line(error: tf.errors.OpError) -> str:
    """Returns the sentence of a TensorFlow error, without the name of the operation."""
    text = (error.message or str(error)).splitlines()[0]
    text = text.partition("}} ")[2] or text
    return text.partition(" [Op:")[0].strip().rstrip(".")


def refuse_bad_image(
    error: tf.errors.OpError, manifest: Manifest, indices: Iterable[int], options: ImageOptions
) -> None:
    """Raises `BadImageError` naming the file that made a batch fail; else returns.

    Args:
      error: what TensorFlow raised for the batch, kept as the cause.
      indices: the images of the batch.
    """
    bad = find_bad_image(manifest, indices, options)
    if bad is None:
        return
    index, reason = bad
    key = manifest.keys[index]
    raise BadImageError(
        f"The image {readable_key(key)!r} cannot be decoded: {reason}.\n"
        f"  file: {os.fsdecode(manifest.path(index))}\n"
        "Replace or remove the file; `streamkd scan --check` lists every bad file.",
        key=key,
    ) from error
