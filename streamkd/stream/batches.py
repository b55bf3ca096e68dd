"""Datasets of batches: paths and stored rows looked up by the batch, pixels read in parallel.

Two maps, on purpose. The first holds the Python function that looks paths, labels and logits up
(a few microseconds an image); the second is TensorFlow alone and decodes several batches at once.
Were they one, op determinism would make the decoding serial too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import ChangedImageError
from streamkd.images.decode import read_batch, refuse_bad_image
from streamkd.images.manifest import Manifest
from streamkd.options import ImageOptions

# Stands at the head of messages made inside the graph, where the class of an error is lost.
CHANGED = "streamkd: a changed image"


def check_contents(
    images: Manifest, paths: tf.Tensor, contents: tf.Tensor, stored: tf.Tensor, rows: tf.Tensor
) -> tf.Operation:
    """Returns an operation that fails where a file is not the one the teacher answered.

    Args:
      images: for the root, which the message leaves out.
      paths: string `[batch]`.
      contents: uint64 `[batch]`, digests of the bytes just read.
      stored: uint64 `[batch]`, digests of the bytes the teacher saw.
      rows: int64 `[batch]`; an image without logits (-1) is not compared.
    """
    changed = tf.logical_and(tf.not_equal(contents, stored), rows >= 0)

    def message() -> tf.Tensor:
        first = tf.argmax(changed)
        key = tf.strings.substr(paths[first], len(images.root) + 1, -1)
        return tf.strings.join(
            [
                CHANGED + ": '",
                key,
                "' is not the file that the teacher answered.\n  content digest now:   ",
                tf.strings.as_string(contents[first]),
                "\n  content digest taught: ",
                tf.strings.as_string(stored[first]),
                "\nPut the old file back, or teach a new store: `streamkd teach`.",
            ]
        )

    any_changed = tf.reduce_any(changed)
    return tf.debugging.Assert(
        tf.logical_not(any_changed), [tf.cond(any_changed, message, lambda: "")], summarize=-1
    )


def evaluation_batches(images: Manifest, options: ImageOptions, batch_size: int) -> tf.data.Dataset:
    """Returns every image once, in order, in batches of one static shape.

    Yields (images float32 `[batch, height, width, channels]`, indices int64 `[batch]`, weights
    float32 `[batch]`); the last batch is filled up with its first image at weight 0.
    """
    num_images = len(images)

    def paths_of(indices: np.ndarray) -> np.ndarray:
        return np.array(images.paths(indices), object)

    def look_up(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        inside = positions < num_images
        indices = tf.where(inside, positions, step * batch_size)
        paths = tf.numpy_function(paths_of, [indices], tf.string)
        paths.set_shape((batch_size,))
        return paths, indices, tf.cast(inside, tf.float32)

    def read(
        paths: tf.Tensor, indices: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return read_batch(paths, options)[0], indices, weights

    num_batches = -(-num_images // batch_size)
    dataset = tf.data.Dataset.range(num_batches).map(look_up)
    return dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def named_errors(
    batches: Iterator[Any],
    images: Manifest,
    options: ImageOptions,
    indices_of: Callable[[int], np.ndarray],
) -> Iterator[Any]:
    """Yields the batches; an error of TensorFlow becomes a refusal that names the file.

    Args:
      batches: what is iterated.
      indices_of: gives the images of the n-th batch that was asked for.
    """
    number = 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            raise_named(error, images, options, indices_of(number))
            raise
        yield batch
        number += 1


def raise_named(
    error: tf.errors.OpError, images: Manifest, options: ImageOptions, indices: Any
) -> None:
    """Raises the refusal that a TensorFlow error stands for, if it is one of the input's."""
    text = str(error.message or error)
    if CHANGED in text:
        found = re.search(re.escape(CHANGED) + r".*?`streamkd teach`\.", text, re.DOTALL)
        sentence = found.group(0) if found else text
        sentence = sentence[len(CHANGED) + 2 :].replace("\\n", "\n").replace("\\'", "'")
        raise ChangedImageError(f"The image {sentence}") from error
    refuse_bad_image(error, images, indices, options)
