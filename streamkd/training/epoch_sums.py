"""The sums and times of an epoch, and the metrics that follow from them.

metrics_of(state.sums.numpy())           # {"loss": 0.41, "accuracy": 0.93, ...}
times.add(num_steps, seconds, waited)
times.metrics(images_per_step)           # {"images_per_second": 5120.4, "input_wait": 0.02}
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

# Names of the sums of a step, in their order in the array.
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
    """Returns the metrics that follow from sums of steps; None without a count."""
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


@dataclasses.dataclass
class EpochTimes:
    """The time that the steps of an epoch took in this process.

    Attributes:
      num_steps: steps done.
      seconds: spent in the calls of the compiled loop.
      waited: part of the seconds spent waiting for input; NaN if it cannot be known.
    """

    num_steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, num_steps: int, seconds: float, waited: float) -> None:
        """Adds one call."""
        self.num_steps += num_steps
        self.seconds += seconds
        self.waited += waited

    def metrics(self, images_per_step: int) -> dict[str, Any]:
        """Returns images per second and the fraction of the time spent waiting for input."""
        if not self.seconds:  # an epoch that was stopped right before its end
            return {"images_per_second": None, "input_wait": None}
        share = self.waited / self.seconds
        return {
            "images_per_second": round(self.num_steps * images_per_step / self.seconds, 1),
            "input_wait": None if math.isnan(share) else round(share, 3),
        }
