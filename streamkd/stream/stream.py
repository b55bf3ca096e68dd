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

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import StreamkdError
from streamkd.images.decode import content_digests, decode_batch
from streamkd.images.files import read_files
from streamkd.images.manifest import Manifest
from streamkd.images.pipeline import read_pipeline
from streamkd.images.rendering import canonical_options, change, decode_views, erase, mix
from streamkd.images.views import Views
from streamkd.keys import Keys, hash_keys
from streamkd.options import ImageOptions
from streamkd.store.collection import StoreCollection
from streamkd.store.reader import LogitStore
from streamkd.stream import batches, order
from streamkd.stream.pairs import Pairs


class Stream:
    """Joined images in an order that is a pure function of seed and step; made by `join`.

    Attributes:
      images: the manifest.
      store: the logit store, or None in a stream of labels alone.
      class_names: the classes in the order of the logits, or None.
      num_classes: their number.
      options: how files become pixels.
      batch_size, seed, shuffle: as given to `join`.
      views: those that the teacher answered; epoch e shows view 1 + e mod V of every image, or the
        plain image where there is no other.
      independent: views that are drawn anew for every epoch instead, while the logits stay those
        of the plain image; for comparison.
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
        independent: Views | None = None,
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
        self.independent = independent
        self.views = Views(0) if store is None else Views.from_dict(store.header.views)
        self._pairs: Pairs | None = None
        if store is not None and self.views.mixes and independent is None:
            self._pairs = Pairs(store, rows // store.num_views)
        self._refusal: StreamkdError | None = None

    @property
    def num_images(self) -> int:
        return len(self.images)

    def end_of_epoch(self, epoch: int) -> int:
        """Returns the number of steps after which every image was seen `epoch` times."""
        num_units, units_per_batch = self._units()
        return order.end_of_epoch(epoch, num_images=num_units, batch_size=units_per_batch)

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
        return self._places(*(part.numpy() for part in self._order(tf.constant(step, tf.int64))))[0]

    def _units(self) -> tuple[int, int]:
        """Returns how many units an epoch and a batch have: images, or pairs of them."""
        if self._pairs is not None:
            return self._pairs.num_units, self.batch_size // 2
        return self.num_images, self.batch_size

    def _order(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the units of a batch and their epochs, both int64."""
        num_units, units_per_batch = self._units()
        units = order.indices_of_batch(
            step,
            num_images=num_units,
            batch_size=units_per_batch,
            seed=self.seed,
            shuffle=self.shuffle,
        )
        return units, order.epochs_of_batch(step, num_images=num_units, batch_size=units_per_batch)

    def _places(self, units: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images of a batch and their views, both int64 `[batch]`."""
        if not self.views.count or self.independent is not None:
            return units, np.zeros_like(units)
        views = 1 + epochs % self.views.count
        if self._pairs is None:
            return units, views
        found = np.empty((2, len(units), 2), np.int64)
        for view in np.unique(views).tolist():
            images, shown = self._pairs.of(view)
            mine = views == view
            found[0, mine], found[1, mine] = images[units[mine]], shown[units[mine]]
        return found[0].reshape(-1), found[1].reshape(-1)

    def _look_up(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what a batch is made of: the bytes of its files, labels and stored rows."""
        kinds: dict[str, tuple[Any, tuple]] = {
            "paths": (tf.string, ()),
            "files": (tf.string, ()),
            "one_size": (tf.bool, ()),
            "labels": (tf.int32, ()),
            "rows": (tf.int64, ()),
            "weights": (tf.float32, ()),
        }
        if self.store is not None:
            kinds["contents"] = (tf.uint64, ())
            kinds["teacher_logits"] = (tf.float32, (self.num_classes,))
        for name, (dtype, shape) in (self.independent or self.views).datasets().items():
            kinds[name] = (tf.as_dtype(np.dtype(dtype)), shape)
        types = [dtype for dtype, _ in kinds.values()]
        values = tf.numpy_function(self._gather, self._order(step), types)
        found = dict(zip(kinds, values, strict=True))
        for name, value in found.items():
            value.set_shape([] if name == "one_size" else [self.batch_size, *kinds[name][1]])
        return found

    def _gather(self, units: np.ndarray, epochs: np.ndarray) -> list[np.ndarray]:
        try:
            return self._gathered(units, epochs)
        except StreamkdError as refusal:
            # TensorFlow keeps the words of an exception and loses its class; see `refuse`.
            self._refusal = refusal
            raise

    def _gathered(self, units: np.ndarray, epochs: np.ndarray) -> list[np.ndarray]:
        indices, views = self._places(units, epochs)
        rows = np.where(self.rows[indices] < 0, -1, self.rows[indices] + views)
        paths = self.images.paths(indices)
        weights = np.ones(len(indices), np.float32)
        if self._pairs is not None:  # an odd one stands in its unit twice, and counts once
            weights[1::2][indices[0::2] == indices[1::2]] = 0
        found = [np.array(paths, object), *read_files(paths), self.labels[indices], rows, weights]
        if self.store is not None:
            contents = self.store.content_of(rows // self.store.num_views)
            found += [contents, self.store.gather(rows)]
        if self.independent is not None:
            return found + self._drawn_anew(paths, epochs)
        if self.views.count and self.store is not None:
            found += self.store.view_parameters(rows).values()
        return found

    def _drawn_anew(self, paths: list[bytes], epochs: np.ndarray) -> list[np.ndarray]:
        """Returns parameters of views that are drawn for these epochs."""
        assert self.independent is not None
        hashes = hash_keys(Keys.from_list(paths))
        parts: dict[str, np.ndarray] = {}
        for epoch in np.unique(epochs).tolist():
            seed = (self.seed * 1_000_003 + epoch) % 2**32
            drawn = dataclasses.replace(self.independent, count=1, seed=seed).draw(hashes)
            for name, values in drawn.items():
                whole = parts.setdefault(name, values[:, 1].copy())
                whole[epochs == epoch] = values[epochs == epoch, 1]
        return [parts[name] for name in self.independent.datasets()]

    def _decode(self, found: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict, tf.Tensor]:
        views = self.independent or self.views
        if views.count or views.canonical_size is not None:
            contents = content_digests(found["files"])
            pixels = self._rendered(found, views)
        else:
            pixels, contents = decode_batch(found["files"], found["one_size"], self.options)
        if self.store is not None:
            check = batches.check_contents(
                self.images, found["paths"], contents, found["contents"], found["rows"]
            )
            with tf.control_dependencies([check]):
                pixels = tf.identity(pixels)
        labels, whole = found["labels"], tf.ones([self.batch_size], tf.float32)
        others, share = labels, whole
        if self._pairs is not None:
            others, share = _swapped(labels), found["view_share"]
        targets = {
            "labels": tf.stack([labels, others], axis=1),
            "label_shares": tf.stack([share, 1 - share], axis=1),
            "rows": found["rows"],
        }
        if self.store is not None:
            targets["teacher_logits"] = found["teacher_logits"]
        return pixels, targets, found["weights"]

    def _rendered(self, found: dict[str, tf.Tensor], views: Views) -> tf.Tensor:
        """Returns the pixels of the views that a batch shows."""
        boxes = found.get("view_crop")
        pixels = decode_views(
            found["files"],
            found["one_size"],
            None if boxes is None else boxes[:, None],
            canonical_options(views, self.options),
            self.options,
        )[:, 0]
        pixels = change(pixels, found)
        if self._pairs is not None:
            # Of a unit of two that are shown plain, each has a share of 1.
            pixels = mix(pixels, _swapped(pixels), found)
        return erase(pixels, found)


def _swapped(values: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, …]` with the two of each pair in each other's place."""
    shape = values.shape
    return tf.reshape(tf.reverse(tf.reshape(values, (shape[0] // 2, 2, -1)), [1]), shape)
