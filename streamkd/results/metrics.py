"""How good a model's logits are: accuracy, likelihood, calibration, agreement with the teacher.

    metrics.accuracy(logits, labels)
    metrics.divergence(teacher_logits, logits)

NumPy, float64. Logits are `[num_images, num_classes]`, labels `[num_images]` without -1.
"""

from __future__ import annotations

import numpy as np

from streamkd.store.codecs import fidelity

# Bins of confidence, of equal width; as many as in Guo et al. 2017 (arXiv:1706.04599).
NUM_CALIBRATION_BINS = 15


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the fraction of images whose largest logit is the label's."""
    return float(np.mean(logits.argmax(axis=1) == labels))


def top_accuracy(logits: np.ndarray, labels: np.ndarray, num_top: int) -> float:
    """Returns the fraction of images whose label is among the `num_top` largest logits."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    return float(np.mean((logits > own).sum(axis=1) < num_top))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean cross-entropy with the labels, in nats."""
    return float(-np.take_along_axis(fidelity.log_softmax(logits), labels[:, None], axis=1).mean())


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean gap between confidence and accuracy over all bins, weighted by their images.

    Source:
      Guo, Pleiss, Sun and Weinberger, arXiv:1706.04599, equation 3.
    """
    confidence = np.exp(fidelity.log_softmax(logits).max(axis=1))
    return calibration_error(confidence, logits.argmax(axis=1) == labels)


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Returns the calibration error of decisions, given how sure and whether right they are.

    Args:
      confidence: float64 `[num_decisions]`, the probability of what was chosen.
      correct: bool `[num_decisions]`.
    """
    bins = np.minimum((confidence * NUM_CALIBRATION_BINS).astype(int), NUM_CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, confidence - correct, minlength=NUM_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(correct))


def agreement(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Returns the fraction of images for which both choose the same class."""
    return float(np.mean(logits.argmax(axis=1) == teacher_logits.argmax(axis=1)))


def divergence(teacher_logits: np.ndarray, logits: np.ndarray) -> float:
    """Returns the mean KL(teacher ‖ student) at temperature 1, in nats."""
    return float(fidelity.divergence(teacher_logits, logits, 1.0).mean())
