"""The answers of a model and of its export to the same images, side by side.

comparison = Comparison(images, options, batch_size=64, max_images=256, progress=True)
agreement(comparison.answers(original), comparison.answers(exported))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.results.evaluate import answer_all
from streamkd.store.decisions import chosen

# Images of noise, where no others are given.
NUM_NOISE = 16


class Comparison:
    """Images that a model and its export answer.

    Args:
      images: evenly drawn from; None for noise.
      options: of the pixels.
      batch_size: images a batch.
      max_images: largest number of images.
      progress: show progress on standard error.

    Attributes:
      num_images: images that are compared.
      is_of_images: whether they are real ones.
    """

    def __init__(
        self,
        images: Manifest | None,
        options: ImageOptions,
        *,
        batch_size: int,
        max_images: int,
        progress: bool,
    ) -> None:
        self._images = None if images is None else _evenly(images, max_images)
        self._options, self._batch_size, self._progress = options, batch_size, progress
        self.num_images = NUM_NOISE if self._images is None else len(self._images)
        self.is_of_images = self._images is not None

    def answers(self, answer: Callable[[Any], Any]) -> np.ndarray:
        """Returns a model's answers, activation included, float32 `[num_images, num_classes]`."""
        if self._images is None:
            shape = (NUM_NOISE, *self._options.shape)
            return np.asarray(answer(tf.random.stateless_uniform(shape, (1, 2), maxval=255.0)))
        return answer_all(answer, self._images, self._options, self._batch_size, self._progress)


def pixels_of(
    images: Manifest, options: ImageOptions, max_images: int, batch_size: int
) -> np.ndarray:
    """Returns pixels of images evenly drawn, float32 `[num_images, height, width, channels]`."""
    return answer_all(
        lambda pixels: pixels, _evenly(images, max_images), options, batch_size, False
    )


def agreement(before: np.ndarray, after: np.ndarray) -> float:
    """Returns the fraction of rows for which both answers choose the same class."""
    return float(np.mean(_choices(before) == _choices(after)))


def _evenly(images: Manifest, max_images: int) -> Manifest:
    """Returns images from the whole list, which is sorted by class."""
    step = -(-len(images) // max_images)
    return images.select(np.arange(0, len(images), step))


def _choices(answers: np.ndarray) -> np.ndarray:
    """Returns the class of each row of answers, activation included, int64 `[rows]`."""
    # One output is a probability, which decides at one half.
    return chosen(answers - 0.5) if answers.shape[1] == 1 else chosen(answers)
