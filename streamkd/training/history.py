"""The result of `fit`: the metrics of every epoch, and how far the run has come.

history = distiller.fit(stream, epochs=30)
history.last["val_accuracy"]
history.history["loss"]           # one number an epoch, as in Keras
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class History:
    """The result of `fit`.

    Attributes:
      epochs: one dict an epoch, with the columns of metrics.csv.
      run: the run directory, or None.
      num_skipped: images that could not be decoded, or were changed, in the whole run; they are
        listed in its skipped.jsonl.
      stopped: whether training was interrupted before its last epoch; the same call resumes it.
      step: steps that were done.
      jit: whether XLA compiled forward and gradient.
      jit_update: whether it compiled the optimizer's update.
      outcome: what this call did: 'new', 'resumed', 'extended' to more epochs than were planned, or
        'already_finished', and nothing was done.
      began_at_step: the step at which it began, 0 for a new run.
    """

    epochs: list[dict[str, Any]]
    run: str | None = None
    num_skipped: int = 0
    stopped: bool = False
    step: int = 0
    jit: bool = False
    jit_update: bool = False
    outcome: str = "new"
    began_at_step: int = 0

    @property
    def history(self) -> dict[str, list]:
        """The same by metric, as Keras' `History.history`; None for an epoch without the metric."""
        names = dict.fromkeys(name for epoch in self.epochs for name in epoch)
        return {name: [epoch.get(name) for epoch in self.epochs] for name in names}

    @property
    def last(self) -> dict[str, Any]:
        """The metrics of the last epoch."""
        return self.epochs[-1] if self.epochs else {}


def as_line(metrics: dict[str, Any]) -> str:
    """Returns the metrics of an epoch as one line for a person."""
    shown = ("loss", "accuracy", "agreement", "val_loss", "val_accuracy")
    parts = [f"{name} {metrics[name]:.4f}" for name in shown if metrics.get(name) is not None]
    return f"epoch {metrics['epoch']}: {', '.join(parts)}"
