"""What logits decide: the class that a row chooses, and each label by itself.

    chosen(logits)         # int64 [rows]: the largest logit's class
    right(logits, labels, ["no", "yes"])               # bool [rows]
    decided(logits)        # bool [rows, labels]: a probability of more than one half
    as_two(logits)         # [rows, 2]: one logit z as the two of its softmax, 0 and z

Logits are those of a softmax, whose classes exclude each other, or of a sigmoid: independent
labels. One logit alone is that of a sigmoid, and decides between two classes, 0 and 1.
"""

from __future__ import annotations

import numpy as np


def chosen(logits: np.ndarray) -> np.ndarray:
    """Returns the class that each row chooses, int64 `[rows]`.

    Args:
      logits: `[rows, num_classes]`; with a single logit the class is 1 above zero, and else 0.
    """
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.int64)
    return logits.argmax(axis=1)


def right(logits: np.ndarray, labels: np.ndarray, class_names: list[str]) -> np.ndarray:
    """Returns whether each row chooses the class of its label, bool `[rows]`.

    Args:
      logits: `[rows, num_classes]`.
      labels: int `[rows]`, numbers of `class_names`. A single class with a single logit is one that
        each labelled image has.
    """
    if logits.shape[1] == len(class_names) == 1:
        return decided(logits[:, 0])
    return chosen(logits) == labels


def decided(logits: np.ndarray) -> np.ndarray:
    """Returns whether each label is more likely than not, bool `[rows, num_labels]`."""
    return np.asarray(logits) > 0


def as_two(logits: np.ndarray) -> np.ndarray:
    """Returns logits of one column as two: softmax of 0 and z has the second share sigmoid(z).

    Logits of more columns are returned as they are.
    """
    if logits.shape[1] != 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=1)


def fits_names(num_outputs: int, class_names: list[str]) -> bool:
    """Returns whether so many outputs answer for these classes: one output does for two classes."""
    return len(class_names) == num_outputs or (num_outputs == 1 and len(class_names) == 2)
