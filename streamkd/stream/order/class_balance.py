"""Balance: every class is drawn equally often, however many images it has.

    balance = Balance(labels, seed=1, shuffle=True)
    positions, rounds = balance.draw(draws, epochs)      # in the graph
    images = balance.images[positions]

An epoch is `num_draws` draws, the same number of each class. Each class goes through its own
images in rounds, in another order each round, and continues in the next epoch where it stopped: an
image of a small class comes several times an epoch, one of a large class every few epochs, and none
is left out. Only the images sorted by class are kept.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from streamkd.stream.order.shuffle import shuffled

# Factors that spread the numbers of classes and rounds over all bits: odd numbers near the golden
# ratio of 2**32 (Knuth, The Art of Computer Programming, section 6.4) and of a prime.
_CLASS_FACTOR, _ROUND_FACTOR = 0x9E3779B1, 0x85EBCA77


class Balance:
    """Maps draws to images.

    Attributes:
      images: int64 `[num_images]`, the images sorted by class.
      num_draws: draws an epoch, as `draws_of_epoch` returns.
    """

    def __init__(self, labels: np.ndarray, *, seed: int, shuffle: bool) -> None:
        """Args: `labels`, int32 `[num_images]`; classes without images play no part."""
        _, counts = np.unique(labels, return_counts=True)
        self.images = np.argsort(labels, kind="stable").astype(np.int64)
        self.num_draws = draws_of_epoch(len(labels), len(counts))
        self._draws_per_class = self.num_draws // len(counts)
        self._counts = counts.astype(np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self._seed = seed
        self._shuffle = shuffle

    def draw(self, draws: tf.Tensor, epochs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns positions in `images`, and how often each was drawn before, both int64.

        Args:
          draws: int64 `[draws]`, numbers within the epoch, from 0.
          epochs: int64 `[draws]`.
        """
        num_classes = len(self._counts)
        classes = draws % num_classes
        number = epochs * self._draws_per_class + draws // num_classes
        counts = tf.gather(tf.constant(self._counts), classes)
        within, rounds = number % counts, number // counts
        if self._shuffle:
            within = shuffled(within, counts, self._seeds(classes, rounds))
        return tf.gather(tf.constant(self._starts), classes) + within, rounds

    def _seeds(self, classes: tf.Tensor, rounds: tf.Tensor) -> tf.Tensor:
        """Returns the seed of the shuffle of each class and round, uint32 `[draws, 3]`."""
        first = tf.cast(classes + 1, tf.uint32) * tf.constant(_CLASS_FACTOR, tf.uint32)
        second = tf.cast(rounds + 1, tf.uint32) * tf.constant(_ROUND_FACTOR, tf.uint32)
        third = tf.bitwise.bitwise_xor(
            first, tf.bitwise.right_shift(second, tf.constant(15, tf.uint32))
        )
        return tf.stack([first + tf.constant(self._seed, tf.uint32), second, third], axis=1)


def draws_of_epoch(num_images: int, num_classes: int) -> int:
    """Returns `num_images` rounded down to the same number of each class, at least one of each."""
    return max(1, num_images // num_classes) * num_classes
