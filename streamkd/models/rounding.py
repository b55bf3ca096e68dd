"""Probabilities that were rounded, such as those of 8 bits: their step, and what stands for a 0.

    step = rounding_step([[0.9, 0.1, 0.0], …])              # 0.1
    logits_of_rounded([[0.9, 0.0, 0.0]], 0.1)               # log of [0.9, 0.05, 0.05]

A 0 stands for a probability p below half a step. The expected KL(p ‖ q) is least where q is the
mean of p, step/4 where nothing more is known. But all zeros of a row together hold no more than the
row lacks to 1, and share that equally; none has more than half a step. Rounding moved the sum of
the K others by about step * sqrt(K / 12), so that a row that lacks nothing still lacks
step/4 * sqrt(K) in the mean: for K = 1 exactly, since the one lies between 1 - step/2 and 1. Of an
independent label its own interval alone is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# What the header of a store says of the number that stands for a 0.
FLOOR_OF_CLASSES = "min(step/2, max(1 - sum, step/4 * min(zeros, sqrt(others))) / zeros)"
FLOOR_OF_LABELS = "step/4"
# Smallest step that is looked for: of 1 in 10,000; finer ones lose little.
SMALLEST_STEP = 0.99e-4
# Rows, and distinct numbers, that are needed to see a step. A large step has few numbers, and half
# of them do.
FEWEST_ROWS, MOST_NUMBERS_NEEDED = 8, 12
# The smallest number that was seen is so many steps at most.
_MOST_STEPS = 3
# Largest distance of a number from a multiple, in steps: float16 moves them that far.
_TOLERANCE = 0.02


def rounding_step(probabilities: np.ndarray) -> float | None:
    """Returns the step to which probabilities were rounded; 1 for 0 and 1 alone; else None.

    A confident teacher has zeros and small numbers, too; only a rounded one has no number that is
    no multiple of the step.

    Args:
      probabilities: `[rows, num_classes]`.
    """
    values = np.asarray(probabilities, np.float64)
    positive = np.unique(values[values > 0])
    if len(values) < FEWEST_ROWS or not len(positive) or (values > 0).all():
        return None
    if positive[0] > 1 - 1e-6:
        return 1.0
    for number in range(1, _MOST_STEPS + 1):
        step = float(positive[0]) / number
        multiples = positive / step
        fewest = max(2, min(MOST_NUMBERS_NEEDED, round(0.5 / step)))
        if step < SMALLEST_STEP or len(positive) < fewest:
            continue
        if np.abs(multiples - multiples.round()).max() <= _TOLERANCE:
            return step
    return None


def logits_of_rounded(probabilities: np.ndarray, step: float) -> np.ndarray:
    """Returns the logarithms of rounded probabilities, float32 `[rows, num_classes]`.

    Args:
      probabilities: `[rows, num_classes]`, not negative.
      step: to which they were rounded, below 1.
    """
    exact = np.asarray(probabilities, np.float64)
    are_zeros = exact < step / 2
    exact = np.where(are_zeros, 0, exact)
    num_zeros = np.maximum(are_zeros.sum(axis=1, keepdims=True), 1)
    num_others = (~are_zeros).sum(axis=1, keepdims=True)
    least = step / 4 * np.minimum(num_zeros, np.sqrt(num_others))
    missing = np.maximum(1 - exact.sum(axis=1, keepdims=True), least)
    exact = np.where(are_zeros, np.minimum(missing / num_zeros, step / 2), exact)
    return np.log(exact / exact.sum(axis=1, keepdims=True)).astype(np.float32)


def description(step: float, *, of_labels: bool) -> dict[str, float | str]:
    """Returns what the header of a store says of rounded probabilities."""
    return {"step": step, "floor": FLOOR_OF_LABELS if of_labels else FLOOR_OF_CLASSES}


def step_of(stored: Mapping[str, Any]) -> float | None:
    """Returns the step in the header of a store, in its teacher; None of one without."""
    rounded = stored.get("rounded")
    step = rounded.get("step") if isinstance(rounded, dict) else None
    return step if isinstance(step, float) and 0 < step < 1 else None
