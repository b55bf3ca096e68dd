"""What the steps of an epoch add up, and the metrics that it stands for."""

from __future__ import annotations

import numpy as np

# What a step adds up, in this order.
SUMS = (
    "loss",
    "weight",
    "label_loss",
    "labelled",
    "distillation_loss",
    "taught",
    "correct",
    "agreeing",
)


def metrics_of(sums: np.ndarray) -> dict[str, float | None]:
    """Returns the metrics that some steps' sums stand for; None where nothing was counted."""
    total = dict(zip(SUMS, np.asarray(sums, np.float64).tolist(), strict=True))

    def mean(part: str, count: str) -> float | None:
        return total[part] / total[count] if total[count] else None

    return {
        "loss": mean("loss", "weight"),
        "label_loss": mean("label_loss", "labelled"),
        "distillation_loss": mean("distillation_loss", "taught"),
        "accuracy": mean("correct", "labelled"),
        "agreement": mean("agreeing", "taught"),
    }
