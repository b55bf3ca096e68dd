"""Every image once, in order: the batches of validation and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.decode import decode_batch
from streamkd.pixels.file_batch import read_files
from streamkd.stream.content_check import named_errors, raise_named
from streamkd.stream.order.worker_slice import WHOLE, WorkerSlice
from streamkd.tf_support.iterators import CollectableDataset
from streamkd.tf_support.read_pipeline import read_pipeline


def evaluation_batches(
    images: Manifest, options: ImageOptions, batch_size: int, share: WorkerSlice = WHOLE
) -> tf.data.Dataset:
    """Returns every image once, in order, in batches of one static shape.

    Yields (images float32 `[batch, height, width, channels]`, content digests uint64 `[batch]`,
    indices int64 `[batch]`, weights float32 `[batch]`); the last batch is filled up with black
    images at weight 0.

    Args:
      batch_size: images an element.
      share: of one of several workers, which take turns; all have as many elements, the last of
        which may be all black.
    """
    num_images = len(images)

    def files_of(indices: np.ndarray, inside: np.ndarray) -> tuple[Any, ...]:
        paths = images.paths(indices)
        if inside.all():
            return read_files(paths, max_pixels=options.max_pixels)[:3]
        return read_files(paths, known_bad=~inside, max_pixels=options.max_pixels)[:3]

    def look_up(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        positions = share.pieces(number) * batch_size + tf.range(batch_size, dtype=tf.int64)
        inside = positions < num_images
        indices = tf.where(inside, positions, 0)
        kinds = [tf.string, tf.bool, tf.uint64]
        files, one_size, digests = tf.numpy_function(files_of, [indices, inside], kinds)
        files, digests = (tf.ensure_shape(part, (batch_size,)) for part in (files, digests))
        one_size = tf.ensure_shape(one_size, ())
        return files, one_size, digests, indices, tf.cast(inside, tf.float32)

    def decode(
        files: tf.Tensor,
        one_size: tf.Tensor,
        digests: tf.Tensor,
        indices: tf.Tensor,
        weights: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        return *decode_batch(files, one_size, options, digests), indices, weights

    num_own = -(-num_images // (batch_size * share.num_pieces)) * share.num_replicas
    dataset = read_pipeline(tf.data.Dataset.range(num_own), look_up, decode)
    return CollectableDataset(dataset)


def each_once(
    dataset: tf.data.Dataset,
    images: Manifest,
    options: ImageOptions,
    batch_size: int,
    share: WorkerSlice = WHOLE,
) -> Iterator[Any]:
    """Yields the batches of an `evaluation_batches` dataset; a file that fails is named.

    Args:
      dataset: what `evaluation_batches` returned for the other arguments.
    """

    def refuse(error: tf.errors.OpError, number: int) -> None:
        first = share.pieces(number) * batch_size
        indices = range(first, min(first + batch_size, len(images)))
        raise_named(error, images, options, indices)

    return named_errors(iter(dataset), refuse)
