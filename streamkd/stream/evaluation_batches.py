"""Every image once, in order: the batches of validation and evaluation.

dataset = evaluation_batches(images, options, batch_size=64)
for pixels, content_digests, indices, weights in each_once(dataset, images, options, 64): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.decode import decode_batch
from streamkd.pixels.file_batch import read_files
from streamkd.pixels.refusals import naming
from streamkd.stream.content_check import named_errors, raise_named
from streamkd.stream.order.worker_slice import WHOLE, WorkerSlice
from streamkd.tf_support.iterators import CollectableDataset
from streamkd.tf_support.python_calls import python_call
from streamkd.tf_support.read_pipeline import read_pipeline


def evaluation_batches(
    images: Manifest, options: ImageOptions, batch_size: int, worker_slice: WorkerSlice = WHOLE
) -> tf.data.Dataset:
    """Returns every image once, in order, in batches of one static shape.

    Yields (images float32 `[batch, height, width, channels]`, content digests uint64 `[batch]`,
    indices int64 `[batch]`, weights float32 `[batch]`); the last batch is filled up with black
    images at weight 0.

    Args:
      batch_size: images an element.
      worker_slice: the slice of one of several workers, which take turns; all have the same number
        of elements, the last of which may be all black.
    """
    num_images = len(images)
    spec = {
        "file_bytes": tf.TensorSpec((batch_size,), tf.string),
        "one_size": tf.TensorSpec((), tf.bool),
        "known_digests": tf.TensorSpec((batch_size,), tf.uint64),
    }

    def read(indices: np.ndarray, inside: np.ndarray) -> dict[str, Any]:
        known_bad = None if inside.all() else ~inside
        paths = images.paths(indices)
        with naming(images):
            files = read_files(
                paths,
                known_bad=known_bad,
                **options.for_files(),
            )
        return files._asdict()

    def fetch(number: tf.Tensor) -> dict[str, tf.Tensor]:
        own_pieces = worker_slice.pieces(number)
        positions = own_pieces * batch_size + tf.range(batch_size, dtype=tf.int64)
        inside = positions < num_images
        indices = tf.where(inside, positions, 0)
        files = python_call(read, [indices, inside], spec)
        return {**files, "indices": indices, "weights": tf.cast(inside, tf.float32)}

    def decode(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        file_bytes, known_digests = batch["file_bytes"], batch["known_digests"]
        pixels, digests = decode_batch(file_bytes, batch["one_size"], options, known_digests)
        return pixels, digests, batch["indices"], batch["weights"]

    num_rounds = -(-num_images // (batch_size * worker_slice.num_pieces))
    own_pieces = tf.data.Dataset.range(num_rounds * worker_slice.num_replicas)
    return CollectableDataset(read_pipeline(own_pieces, fetch, decode))


def each_once(
    dataset: tf.data.Dataset,
    images: Manifest,
    options: ImageOptions,
    batch_size: int,
    worker_slice: WorkerSlice = WHOLE,
) -> Iterator[Any]:
    """Yields the batches of `evaluation_batches` for the same arguments; a bad file is named."""

    def refuse(error: tf.errors.OpError, number: int) -> None:
        first = worker_slice.pieces(number) * batch_size
        indices = range(first, min(first + batch_size, len(images)))
        raise_named(error, images, options, indices)

    return named_errors(iter(dataset), refuse)
