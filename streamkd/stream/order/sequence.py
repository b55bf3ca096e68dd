"""The sequence of a stream: which images and which of their views each batch shows.

    sequence = Sequence(num_images=50_000, batch_size=128, seed=1, shuffle=True, num_views=8)
    units, epochs = sequence.units(step)                # in the graph
    indices, views = sequence.places(units, epochs)     # in NumPy

What is put in order are units: images, or the pairs of images that the teacher saw mixed. A batch
is a function of seed and step alone, whatever was asked for before.
"""

from __future__ import annotations

import copy

import numpy as np
import tensorflow as tf

from streamkd.stream.order import shuffle as shuffle_module
from streamkd.stream.order.class_balance import Balance
from streamkd.stream.order.mixing_pairs import Pairs


class Sequence:
    """Tells the images of a batch, and their views.

    Attributes:
      batch_size: rows a batch.
      num_units: units an epoch.
      units_per_batch: units a batch.
      pairs: the pairs in which views are mixed, or None.
      views_per_decode: rows that are made of one decoded image.
    """

    def __init__(
        self,
        *,
        num_images: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        num_views: int = 0,
        pairs: Pairs | None = None,
        balance: Balance | None = None,
        views_per_decode: int = 1,
    ) -> None:
        """Args: `num_views`, how many views take turns; 0 where the plain image is shown."""
        self.batch_size = batch_size
        self.pairs = pairs
        self.views_per_decode = views_per_decode
        self.num_units = num_images
        self.units_per_batch = batch_size // views_per_decode
        if pairs is not None:
            self.num_units, self.units_per_batch = pairs.num_units, batch_size // 2
        if balance is not None:
            self.num_units = balance.num_draws
        self._seed = seed
        self._shuffle = shuffle
        self._num_views = num_views
        self._balance = balance

    def end_of_epoch(self, epoch: int) -> int:
        """Returns the number of steps after which every unit was shown `epoch` times."""
        return shuffle_module.end_of_epoch(
            epoch, num_images=self.num_units, batch_size=self.units_per_batch
        )

    def first_whole_epoch(self, step: int) -> int:
        """Returns the first epoch, from 0, that begins at a step or after it."""
        return -(-step * self.units_per_batch // self.num_units)

    def cut_into(self, num_pieces: int) -> Sequence:
        """Returns the sequence of the pieces of batches, each of which is a batch of its own."""
        pieces = copy.copy(self)
        pieces.batch_size = self.batch_size // num_pieces
        pieces.units_per_batch = self.units_per_batch // num_pieces
        return pieces

    def units(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the units of some batches, and their epochs, both int64.

        Args:
          numbers: of the batches, int64, or `[batches]` as `order.indices_of_batch` takes them.
        """
        counts = {"num_images": self.num_units, "batch_size": self.units_per_batch}
        units = shuffle_module.indices_of_batch(
            numbers, **counts, seed=self._seed, shuffle=self._shuffle
        )
        epochs = shuffle_module.epochs_of_batch(numbers, **counts)
        if self._balance is not None:
            return self._balance.draw(units, epochs)
        return units, epochs

    def places(self, units: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images of some units and which of their views are shown.

        Returns:
          int64 `[files]`, places in the manifest; and int64 `[files, views_per_decode]`.
        """
        if self._balance is not None:
            units = self._balance.images[units]
        if not self._num_views:
            return units, np.zeros((len(units), self.views_per_decode), np.int64)
        turns = epochs[:, None] * self.views_per_decode + np.arange(self.views_per_decode)
        views = 1 + turns % self._num_views
        if self.pairs is None:
            return units, views
        found = np.empty((2, len(units), 2), np.int64)
        for view in np.unique(views).tolist():
            images, shown = self.pairs.of(view)
            mine = views[:, 0] == view
            found[0, mine], found[1, mine] = images[units[mine]], shown[units[mine]]
        return found[0].reshape(-1), found[1].reshape(-1, 1)
