"""The stream: images and their stored logits, batch after batch, from any step on.

    stream = join(images, store, image_size=(160, 160), batch_size=128, seed=1)
    for pixels, targets, weights in stream.dataset():
        targets["teacher_logits"]

A batch is `(images, targets, sample_weight)` with
  images          float32 `[batch, height, width, channels]`, 0 to 255
  labels          int32   `[batch, 2]`, the image's and its mixing partner's; -1 is no label
  label_shares    float32 `[batch, 2]`, how much of the label loss each of them gets
  teacher_logits  float32 `[batch, num_classes]`; absent in a stream without a store
  rows            int64   `[batch]`, rows of the store; -1 where there is none
  sample_weight   float32 `[batch]`
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import StreamkdError
from streamkd.images.decode import decode_batch
from streamkd.images.files import read_files
from streamkd.images.manifest import Manifest
from streamkd.images.pipeline import read_pipeline
from streamkd.options import ImageOptions
from streamkd.store.collection import StoreCollection
from streamkd.store.reader import LogitStore
from streamkd.stream import batches, order


class Stream:
    """Joined images in an order that is a pure function of seed and step; made by `join`.

    Attributes:
      images: the manifest.
      store: the logit store, or None in a stream of labels alone.
      class_names: the classes in the order of the logits, or None.
      num_classes: their number.
      options: how files become pixels.
      batch_size, seed, shuffle: as given to `join`.
    """

    def __init__(
        self,
        images: Manifest,
        store: LogitStore | StoreCollection | None,
        *,
        rows: np.ndarray,
        labels: np.ndarray,
        class_names: list[str] | None,
        num_classes: int,
        options: ImageOptions,
        batch_size: int,
        seed: int,
        shuffle: bool,
    ) -> None:
        self.images = images
        self.store = store
        self.rows = rows
        self.labels = labels
        self.class_names = class_names
        self.num_classes = num_classes
        self.options = options
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._refusal: StreamkdError | None = None

    @property
    def num_images(self) -> int:
        return len(self.images)

    def end_of_epoch(self, epoch: int) -> int:
        """Returns the number of steps after which every image was seen `epoch` times."""
        return order.end_of_epoch(epoch, num_images=self.num_images, batch_size=self.batch_size)

    def dataset(self, start: int = 0, stop: int | None = None) -> tf.data.Dataset:
        """Returns the batches of the steps `start` to `stop` (without end where None)."""
        self._refusal = None
        last = np.iinfo(np.int64).max if stop is None else stop
        return read_pipeline(tf.data.Dataset.range(start, last), self._look_up, self._decode)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """Yields the batches of `dataset`; a file that fails is named in the error.

        Raises:
          ChangedImageError: a file is not the one the teacher answered.
          BadImageError: a file cannot be decoded.
        """
        return batches.named_errors(
            iter(self.dataset(start, stop)),
            lambda error, number: self.refuse(error, range(start + number, start + number + 1)),
        )

    def refuse(self, error: tf.errors.OpError, steps: range) -> None:
        """Raises the refusal that an error of TensorFlow in some steps stands for, if any.

        Raises:
          ChangedImageError: a file is not the one the teacher answered.
          BadImageError: a file cannot be decoded.
          StoreError, MissingLogitsError: what the store said.
        """
        if self._refusal is not None:
            raise self._refusal from error
        indices = np.concatenate([self.indices(step) for step in steps])
        batches.raise_named(error, self.images, self.options, indices)

    def indices(self, step: int) -> np.ndarray:
        """Returns the images of one step, int64 `[batch]`, as positions in the manifest."""
        return self._indices(tf.constant(step, tf.int64)).numpy()

    def _indices(self, step: tf.Tensor) -> tf.Tensor:
        return order.indices_of_batch(
            step,
            num_images=self.num_images,
            batch_size=self.batch_size,
            seed=self.seed,
            shuffle=self.shuffle,
        )

    def _look_up(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what a batch is made of: the bytes of its files, labels and stored rows."""
        types = {"paths": tf.string, "files": tf.string, "one_size": tf.bool}
        types |= {"labels": tf.int32, "rows": tf.int64}
        if self.store is not None:
            types |= {"contents": tf.uint64, "teacher_logits": tf.float32}
        values = tf.numpy_function(self._gather, [self._indices(step)], list(types.values()))
        found = dict(zip(types, values, strict=True))
        for name, value in found.items():
            width = [self.num_classes] if name == "teacher_logits" else []
            value.set_shape([] if name == "one_size" else [self.batch_size, *width])
        return found

    def _gather(self, indices: np.ndarray) -> list[np.ndarray]:
        try:
            return self._gathered(indices)
        except StreamkdError as refusal:
            # TensorFlow keeps the words of an exception and loses its class; see `refuse`.
            self._refusal = refusal
            raise

    def _gathered(self, indices: np.ndarray) -> list[np.ndarray]:
        rows = self.rows[indices]
        paths = self.images.paths(indices)
        found = [np.array(paths, object), *read_files(paths), self.labels[indices], rows]
        if self.store is not None:
            contents = self.store.content_of(rows // self.store.num_views)
            found += [contents, self.store.gather(rows)]
        return found

    def _decode(self, found: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict, tf.Tensor]:
        pixels, contents = decode_batch(found["files"], found["one_size"], self.options)
        if self.store is not None:
            check = batches.check_contents(
                self.images, found["paths"], contents, found["contents"], found["rows"]
            )
            with tf.control_dependencies([check]):
                pixels = tf.identity(pixels)
        labels = found["labels"]
        whole = tf.ones([self.batch_size], tf.float32)
        targets = {
            "labels": tf.stack([labels, labels], axis=1),
            "label_shares": tf.stack([whole, tf.zeros_like(whole)], axis=1),
            "rows": found["rows"],
        }
        if self.store is not None:
            targets["teacher_logits"] = found["teacher_logits"]
        return pixels, targets, whole
