"""The sequence of a stream: the images that each batch shows, and their views.

    sequence = Sequence(spec)
    units, epochs = sequence.units(step)                        # in the graph
    indices, views = sequence.images_and_views(units, epochs)   # in NumPy

The order is one of units: images, or pairs of images that the teacher saw mixed. A batch is a
function of seed and step alone, whatever was asked for before.
"""

from __future__ import annotations

import copy

import numpy as np
import tensorflow as tf

from streamkd.stream.order import shuffle
from streamkd.stream.order.class_balance import Balance
from streamkd.stream.order.mixing_pairs import Pairs
from streamkd.stream.stream_spec import StreamSpec


class Sequence:
    """The images and views of every batch of a stream.

    Attributes:
      batch_size: rows a batch.
      num_units: units an epoch.
      units_per_batch: units a batch.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self.batch_size = spec.batch_size
        self.num_units = len(spec.images)
        self.units_per_batch = spec.batch_size // spec.views_per_decode
        self._seed = spec.seed
        self._shuffle = spec.shuffle
        self._views_per_decode = spec.views_per_decode
        # Views that take turns; independent views do not, since the logits are the plain image's.
        self._num_views = spec.views.count if spec.independent is None else 0
        self._pairs: Pairs | None = None
        self._balance: Balance | None = None
        if spec.is_mixed and spec.store is not None:
            self._pairs = Pairs(spec.store, spec.rows // spec.store.num_views)
            self.num_units, self.units_per_batch = self._pairs.num_units, spec.batch_size // 2
        if spec.balance:
            self._balance = Balance(spec.labels, seed=spec.seed, shuffle=spec.shuffle)
            self.num_units = self._balance.num_draws

    def end_of_epoch(self, epoch: int) -> int:
        """Returns the number of steps after which every unit was shown `epoch` times."""
        return shuffle.end_of_epoch(
            epoch, num_images=self.num_units, batch_size=self.units_per_batch
        )

    def first_whole_epoch(self, step: int) -> int:
        """Returns the first epoch, from 0, that begins at a step or later."""
        return -(-step * self.units_per_batch // self.num_units)

    def cut_into(self, num_pieces: int) -> Sequence:
        """Returns the sequence whose batches are the pieces of this one's batches."""
        pieces = copy.copy(self)
        pieces.batch_size = self.batch_size // num_pieces
        pieces.units_per_batch = self.units_per_batch // num_pieces
        return pieces

    def units(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the units of batches, and their epochs, both int64.

        Args:
          numbers: of the batches, as `shuffle.indices_of_batch` takes them.
        """
        counts = {"num_images": self.num_units, "batch_size": self.units_per_batch}
        units = shuffle.indices_of_batch(numbers, **counts, seed=self._seed, shuffle=self._shuffle)
        epochs = shuffle.epochs_of_batch(numbers, **counts)
        if self._balance is not None:
            return self._balance.draw(units, epochs)
        return units, epochs

    def images_and_views(
        self, units: np.ndarray, epochs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images of units and the views that are shown.

        Returns:
          int64 `[files]`, positions in the manifest; and int64 `[files, views_per_decode]`.
        """
        if self._balance is not None:
            units = self._balance.images[units]
        if not self._num_views:
            return units, np.zeros((len(units), self._views_per_decode), np.int64)
        turns = epochs[:, None] * self._views_per_decode + np.arange(self._views_per_decode)
        views = 1 + turns % self._num_views
        if self._pairs is None:
            return units, views
        pair_images, pair_views = np.empty((2, len(units), 2), np.int64)
        for view in np.unique(views).tolist():
            images, shown = self._pairs.of(view)
            has_view = views[:, 0] == view
            pair_images[has_view] = images[units[has_view]]
            pair_views[has_view] = shown[units[has_view]]
        return pair_images.reshape(-1), pair_views.reshape(-1, 1)
