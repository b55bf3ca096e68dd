"""The mathematics of `fit_class_bias`: biases by which a model gives classes their frequencies.

    bias = match_frequencies(logits, [3], [0.1])         # mean softmax of class 3 becomes 0.1
    frequencies = estimate_frequencies(logits, prior)    # where they are not known

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
# Iterations of the estimate of frequencies, and the change of a frequency at which they end.
MAX_ITERATIONS, SMALLEST_CHANGE = 5000, 1e-8


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of logits, float64 `[rows, num_classes]`."""
    shifted = np.asarray(logits, np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def match_frequencies(
    logits: np.ndarray,
    classes: npt.ArrayLike,
    frequencies: npt.ArrayLike,
    temperature: float = 1.0,
) -> np.ndarray:
    """Returns the biases with which some classes get given mean probabilities.

    The mean probability of the k-th of `classes` in softmax((logits + bias) / temperature) is the
    k-th of `frequencies`. There is one solution: it is the minimum of a convex function, which is
    found by Newton's method.

    Args:
      logits: float `[rows, num_classes]`, finite.
      classes: numbers of the classes that get a bias, not all classes.
      frequencies: one for each, above 0, with a sum below 1.
      temperature: positive; below 1, a row counts more and more for its first choice alone.

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
        exponentials = np.exp((rows - largest) / temperature)
        sums = exponentials.sum(axis=1, keepdims=True)
        value = np.mean(largest + temperature * np.log(sums)) - wanted @ bias
        return float(value), exponentials[:, chosen] / sums

    bias = np.zeros(len(chosen))
    value, probabilities = at(bias)
    for _ in range(MAX_STEPS):
        means = probabilities.mean(axis=0)
        gradient = means - wanted
        if np.abs(gradient).max() < TOLERANCE:
            break
        curvature = np.diag(means) - probabilities.T @ probabilities / len(rows)
        # Far away a probability is 0 in all rows, and so is its curvature.
        curvature += np.eye(len(chosen)) * (1e-12 + 1e-3 * np.abs(gradient).max())
        step = -temperature * np.linalg.solve(curvature, gradient)
        step *= min(1.0, LARGEST_STEP / np.abs(step).max())
        length, slope = 1.0, gradient @ step
        while True:
            new_value, new_probabilities = at(bias + length * step)
            if new_value <= value + 1e-4 * length * slope or length < 1e-6:
                break
            length /= 2
        bias, value, probabilities = bias + length * step, new_value, new_probabilities
    return bias


def estimate_frequencies(logits: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Returns the class frequencies of images, from a model's answers to them.

    The maximum of the likelihood, by the EM iteration of Saerens, Latinne and Decaestecker (2002).
    It holds for a calibrated model, whose classes look in these images as in those of `prior`.

    Args:
      logits: float `[rows, num_classes]`, of the images.
      prior: float `[num_classes]`, mean probability of each class where the model was trained;
        above 0.

    Returns:
      float64 `[num_classes]`, with the sum 1.
    """
    ratios = softmax(logits) / np.asarray(prior, np.float64)
    frequencies = np.full(ratios.shape[1], 1 / ratios.shape[1])
    for _ in range(MAX_ITERATIONS):
        posterior = ratios * frequencies
        new = np.mean(posterior / posterior.sum(axis=1, keepdims=True), axis=0)
        change, frequencies = np.abs(new - frequencies).max(), new
        if change < SMALLEST_CHANGE:
            break
    return frequencies
