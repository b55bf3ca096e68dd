"""Fidelity: how far a codec moves the logits of a real teacher.

    report = measure(codecs.get("packed:3+28"), logits)
    report.num_bytes, report.divergences     # 415, {1: 9e-4, 2: 5e-3, 4: 2e-3, 20: 1e-4}

KL(true ‖ rebuilt) in nats, mean over rows, at the temperatures of distillation; float64 throughout.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from streamkd.store.codecs.codec import Codec
from streamkd.store.decisions import decided

TEMPERATURES = (1, 2, 4, 20)
# Logits that are measured at a time.
_NUMBERS_AT_ONCE = 1 << 22


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fidelity:
    """The bytes of a codec and its divergence.

    Attributes:
      codec: its name.
      num_bytes: bytes of a row's logits, without checksum and `done`.
      divergences: mean KL(true ‖ rebuilt) for each of `TEMPERATURES`.
      agreement: fraction of rows whose largest logit keeps its class.
    """

    codec: str
    num_bytes: int
    divergences: dict[int, float]
    agreement: float


def row_bytes(codec: Codec, num_classes: int) -> int:
    """Returns the bytes that a codec takes for the logits of a row."""
    parts = codec.datasets(num_classes).values()
    return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in parts)


def measure(codec: Codec, logits: np.ndarray, *, sigmoid: bool = False) -> Fidelity:
    """Returns the divergence between logits and the same logits stored by a codec.

    Args:
      codec: fits the number of classes and the largest magnitude of the logits.
      logits: float32 `[rows, num_classes]`, finite; at least one row.
      sigmoid: whether each logit is of a label of its own: the divergence and the decisions are
        then those of each label, averaged over the labels.
    """
    rows, num_classes = logits.shape
    lost = dict.fromkeys(TEMPERATURES, 0.0)
    same = 0.0
    at_once = max(1, _NUMBERS_AT_ONCE // num_classes)
    for start in range(0, rows, at_once):
        part = np.ascontiguousarray(logits[start : start + at_once], np.float32)
        rebuilt = codec.decode(codec.encode(part), num_classes)
        for temperature in TEMPERATURES:
            if sigmoid:
                lost[temperature] += label_divergences(part, rebuilt, temperature).mean(1).sum()
            else:
                lost[temperature] += divergence(part, rebuilt, temperature).sum()
        if sigmoid:
            same += float((decided(part) == decided(rebuilt)).mean(axis=1).sum())
        else:
            same += int((part.argmax(axis=1) == rebuilt.argmax(axis=1)).sum())
    return Fidelity(
        codec=codec.name,
        num_bytes=row_bytes(codec, num_classes),
        divergences={temperature: float(total / rows) for temperature, total in lost.items()},
        agreement=same / rows,
    )


def divergence(true: np.ndarray, rebuilt: np.ndarray, temperature: float) -> np.ndarray:
    """Returns KL(softmax(true / T) ‖ softmax(rebuilt / T)) of each row, float64 `[rows]`, in nats.

    Args:
      true, rebuilt: `[rows, num_classes]`, finite, before softmax.
      temperature: positive.
    """
    log_true = log_softmax(np.asarray(true, np.float64) / temperature)
    log_rebuilt = log_softmax(np.asarray(rebuilt, np.float64) / temperature)
    return (np.exp(log_true) * (log_true - log_rebuilt)).sum(axis=1)


def label_divergences(true: np.ndarray, rebuilt: np.ndarray, temperature: float) -> np.ndarray:
    """Returns KL(sigmoid(true / T) ‖ sigmoid(rebuilt / T)), float64 `[rows, labels]`, in nats.

    Args:
      true, rebuilt: `[rows, labels]`, finite, before sigmoid; each label has two outcomes.
      temperature: positive.
    """
    true, rebuilt = (np.asarray(part, np.float64) / temperature for part in (true, rebuilt))
    has, has_not = (np.exp(-np.logaddexp(0, part)) for part in (-true, true))
    positive = np.logaddexp(0, -rebuilt) - np.logaddexp(0, -true)
    negative = np.logaddexp(0, rebuilt) - np.logaddexp(0, true)
    return has * positive + has_not * negative


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns log-probabilities, float64 `[rows, num_classes]`."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
