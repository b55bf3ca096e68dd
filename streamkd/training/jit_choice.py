"""Whether XLA is worth it for a student: measured on its own batches, before the first step.

XLA makes small students up to twice as fast and some large ones slower, and compiling takes from a
second to a minute. The choice is kept with the run: it changes the last bits of the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from streamkd.training.optimizers import loss_scale_of
from streamkd.training.step import TrainingSteps

# A run that is this short without XLA is not worth compiling for.
SHORT_RUN_SECS = 60.0
# XLA has to save this share, or else the noise of the measurement would decide.
LEAST_GAIN = 0.1
ROUNDS = 5


def faster_steps(
    make_steps: Callable[[bool], TrainingSteps], batch: Any, num_steps: int
) -> tuple[TrainingSteps, dict[str, float]]:
    """Returns the steps with or without XLA, whichever are faster, and what was measured.

    Args:
      make_steps: called with whether XLA compiles forward and gradient.
      batch: of the stream. Nothing is learned from it.
      num_steps: that are still to be done.

    Returns:
      The steps; and seconds a batch, 'plain' and, where it was tried, 'xla'.
    """
    plain = make_steps(False)
    before = [tf.identity(variable) for variable in plain.state.side_variables()]
    try:
        _seconds(plain, batch)  # traces
        seconds = {"plain": min(_seconds(plain, batch) for _ in range(2))}
        if seconds["plain"] * plain.accumulate * num_steps < SHORT_RUN_SECS:
            return plain, seconds
        compiled = make_steps(True)
        _seconds(compiled, batch)  # compiles
        rounds = [(_seconds(plain, batch), _seconds(compiled, batch)) for _ in range(ROUNDS)]
        seconds = {"plain": min(r[0] for r in rounds), "xla": min(r[1] for r in rounds)}
        gains = seconds["xla"] < (1 - LEAST_GAIN) * seconds["plain"]
        return (compiled if gains else plain), seconds
    finally:
        for variable, value in zip(plain.state.side_variables(), before, strict=True):
            variable.assign(value)


def _seconds(steps: TrainingSteps, batch: Any) -> float:
    """Returns how long forward and gradient of a batch take."""
    images, targets, weights = batch
    scale = loss_scale_of(steps.state.optimizer)
    began = time.perf_counter()
    found = steps._gradients(images, targets, weights, tf.reduce_sum(weights), scale)
    tf.nest.map_structure(lambda part: part.numpy(), found[1:3])
    return time.perf_counter() - began
