"""Whether an accuracy is that of a guess, and whether the images are enough to say so.

is_at_chance(0.12, 0.1, num_images=2_000)            # True: hardly better than a guess in ten
probability_of_so_few(3, 20, 0.5)                    # of at most 3 right answers out of 20
"""

from __future__ import annotations

import numpy as np

# A fair teacher, half way between a guess and always right, has so few right answers in one pass
# of a thousand: below that, the teacher is told of.
LEAST_PROBABILITY = 1e-3


def is_at_chance(accuracy: float, chance: float, num_images: int) -> bool:
    """Returns whether a teacher is right hardly more often than a guess, and not by bad luck.

    Args:
      accuracy: fraction of the images for which it chooses the label.
      chance: accuracy of a guess, above 0.
      num_images: labelled images; a few of them never say so.
    """
    # With two classes, twice chance would be every image.
    if not num_images or accuracy >= min(2 * chance, chance + (1 - chance) / 10):
        return False
    num_right, fair = round(accuracy * num_images), (1 + chance) / 2
    return probability_of_so_few(num_right, num_images, fair) < LEAST_PROBABILITY


def probability_of_so_few(num_right: int, num_images: int, accuracy: float) -> float:
    """Returns the probability of at most `num_right` right answers, each right with `accuracy`.

    Args:
      num_right: 0 to `num_images`.
      num_images: at least 1.
      accuracy: above 0, below 1.
    """
    numbers = np.arange(num_right, dtype=np.float64)
    # Logarithms: the number of ways and the probability of each have hundreds of digits.
    steps = np.log((num_images - numbers) / (numbers + 1) * (accuracy / (1 - accuracy)))
    terms = np.concatenate([[0.0], np.cumsum(steps)]) + num_images * np.log1p(-accuracy)
    largest = terms.max()
    return float(min(1.0, np.exp(largest) * np.exp(terms - largest).sum()))
