"""How good the logits of independent labels are, each label by its own sigmoid.

    label_metrics.cross_entropy(logits, truths)            # mean over images and labels
    label_metrics.average_precisions(logits, truths)       # one number a label

NumPy, float64. Logits are `[num_images, num_labels]`; truths are int8 `[num_images, num_labels]`, 1
for a label that the image has and 0 for another.
"""

from __future__ import annotations

import numpy as np

from streamkd.results.metrics import calibration_error
from streamkd.store.codecs import fidelity
from streamkd.store.decisions import decided


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the probability of each label, float64."""
    logits = np.asarray(logits, np.float64)
    return np.exp(-np.logaddexp(0, -logits))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of −log(probability of the image's one class), in nats."""
    own = np.take_along_axis(np.asarray(logits, np.float64), labels[:, None], axis=1)
    return float(np.logaddexp(0, -own).mean())


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the calibration error of the first choice, by its own probability."""
    correct = logits.argmax(axis=1) == labels
    return calibration_error(probabilities(logits).max(axis=1), correct)


def cross_entropy(logits: np.ndarray, truths: np.ndarray) -> float:
    """Returns the binary cross-entropy, mean over images and labels, in nats."""
    logits = np.asarray(logits, np.float64)
    return float((np.logaddexp(0, logits) - truths * logits).mean())


def label_calibration_error(logits: np.ndarray, truths: np.ndarray) -> float:
    """Returns the calibration error of all decisions, one for each image and label."""
    confidence = np.maximum(probabilities(logits), probabilities(-np.asarray(logits, np.float64)))
    return calibration_error(confidence.ravel(), (decided(logits) == (truths > 0)).ravel())


def divergences(teacher_logits: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns the mean KL(teacher ‖ student) of each label as two classes, float64 `[labels]`."""
    return fidelity.label_divergences(teacher_logits, logits, 1.0).mean(axis=0)


def agreements(logits: np.ndarray, teacher_logits: np.ndarray) -> np.ndarray:
    """Returns the fraction of images on which both decide a label alike, float64 `[labels]`."""
    return (decided(logits) == decided(teacher_logits)).mean(axis=0)


def average_precisions(logits: np.ndarray, truths: np.ndarray) -> list[float | None]:
    """Returns the average precision of each label; None for a label that no image has.

    The sum of precision times gain in recall over all thresholds; images of one logit share a
    threshold, as in scikit-learn's `average_precision_score`.
    """
    return [_average_precision(*column) for column in zip(logits.T, truths.T, strict=True)]


def _average_precision(scores: np.ndarray, truths: np.ndarray) -> float | None:
    if not truths.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, truths = scores[order], truths[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    found = np.cumsum(truths)[last]
    gains = np.diff(found, prepend=0.0) / found[-1]
    return float((found / (last + 1) * gains).sum())


def f1_scores(logits: np.ndarray, truths: np.ndarray) -> list[float | None]:
    """Returns F1 of each label at one half; None where the label neither occurs nor is chosen."""
    chosen = decided(logits)
    hits = (chosen & (truths > 0)).sum(axis=0)
    total = chosen.sum(axis=0) + (truths > 0).sum(axis=0)
    pairs = zip(hits.tolist(), total.tolist(), strict=True)
    return [2 * hit / count if count else None for hit, count in pairs]


def mean(values: list[float | None]) -> float | None:
    """Returns the mean of the numbers that are known; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
