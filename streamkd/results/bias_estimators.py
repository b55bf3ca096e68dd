"""The mathematics of `fit_class_bias`: biases by which a model gives classes their frequencies.

    bias = match_frequencies(logits, [3], [0.1])         # mean softmax of class 3 becomes 0.1

Everything is NumPy in float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# A frequency that is matched this closely counts as matched.
TOLERANCE = 1e-9
MAX_STEPS = 200
# Largest change of a bias in one step: far from the solution the curvature tells little.
LARGEST_STEP = 5.0


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of logits, float64 `[rows, num_classes]`."""
    shifted = np.asarray(logits, np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def match_frequencies(
    logits: np.ndarray, classes: npt.ArrayLike, frequencies: npt.ArrayLike
) -> np.ndarray:
    """Returns the biases with which some classes get given mean probabilities.

    The mean probability of the k-th of `classes` in softmax(logits + bias) is the
    k-th of `frequencies`. There is one solution: it is the minimum of a convex function, which is
    found by Newton's method. If the answers are so sharp that no number gives a frequency exactly,
    it is as close as the steps of the search.

    Args:
      logits: float `[rows, num_classes]`, finite.
      classes: numbers of the classes that get a bias, not all classes.
      frequencies: one for each, above 0, with a sum below 1.

    Returns:
      float64 `[len(classes)]`.
    """
    rows = np.array(logits, np.float64)
    chosen, wanted = np.asarray(classes, np.int64), np.asarray(frequencies, np.float64)
    start = rows[:, chosen]

    def at(bias: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns the function, and the probabilities of the classes, `[rows, len(classes)]`."""
        rows[:, chosen] = start + bias
        largest = rows.max(axis=1, keepdims=True)
        exponentials = np.exp(rows - largest)
        sums = exponentials.sum(axis=1, keepdims=True)
        value = np.mean(largest + np.log(sums)) - wanted @ bias
        return float(value), exponentials[:, chosen] / sums

    bias = _first_guess(rows, chosen, wanted)
    value, probabilities = at(bias)
    for _ in range(MAX_STEPS):
        means = probabilities.mean(axis=0)
        gradient = means - wanted
        if np.abs(gradient).max() < TOLERANCE:
            break
        curvature = np.diag(means) - probabilities.T @ probabilities / len(rows)
        # Far away a probability is 0 in all rows, and so is its curvature.
        curvature += np.eye(len(chosen)) * (1e-12 + 1e-3 * np.abs(gradient).max())
        step = -np.linalg.solve(curvature, gradient)
        step *= min(1.0, LARGEST_STEP / np.abs(step).max())
        length, slope = 1.0, gradient @ step
        while True:
            new_value, new_probabilities = at(bias + length * step)
            if new_value <= value + 1e-4 * length * slope or length < 1e-6:
                break
            length /= 2
        bias, value, probabilities = bias + length * step, new_value, new_probabilities
    return bias


def _first_guess(rows: np.ndarray, chosen: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the biases with which each class alone would win that part of the rows."""
    others = np.delete(rows, chosen, axis=1).max(axis=1)
    gaps = others[:, None] - rows[:, chosen]
    return np.array([np.quantile(gap, part) for gap, part in zip(gaps.T, wanted, strict=True)])
