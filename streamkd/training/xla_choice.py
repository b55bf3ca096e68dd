"""The parts of a step that XLA compiles: as asked, as the run began, or as measured.

    policy = XlaPolicy(jit="auto", num_steps=10_000)
    steps = policy.choose(steps, begun=None, batch_spec=iterator.element_spec)
    steps.jit, steps.jit_update

XLA makes one student faster and another slower, both in forward and gradient and in the optimizer's
update; compiling takes from a second to minutes. So both parts are measured before the first step,
on a batch like the student's own. The choice is kept with the run: it changes the last bits of the
weights.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from streamkd.training.optimizers import loss_scale_of
from streamkd.training.step import TrainingSteps

# Length of a run without XLA, in seconds, below which compiling does not pay.
SHORT_RUN_SECS = 60.0
# Fraction of a step that XLA has to save: less than this is the noise of the measurement.
MIN_GAIN = 0.05
# Number of measurements of each part; the shortest counts.
NUM_ROUNDS = 7
# Factor by which a step may be slower while the first batches of a run are being read.
MAX_SLOWDOWN = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class XlaPolicy:
    """How one run of `num_steps` steps decides which parts XLA compiles."""

    jit: str
    num_steps: int

    def choose(
        self, steps: TrainingSteps, begun: dict[str, Any] | None, batch_spec: Any
    ) -> TrainingSteps:
        """Returns the steps with this run's parts compiled.

        Args:
          steps: without XLA.
          begun: configuration of the run that resumes, or None for a new run.
          batch_spec: specification of a batch; not read if a run resumes.
        """
        one_replica = steps.strategy.num_replicas_in_sync == 1
        if self.jit != "auto":
            asked = self.jit == "on"
            return steps.with_xla(asked, asked and one_replica)
        if begun is not None:
            return steps.with_xla(bool(begun.get("jit")), bool(begun.get("jit_update")))
        if not one_replica:
            return steps
        return faster_steps(steps, random_batch(batch_spec), self.num_steps)[0]


def faster_steps(
    plain: TrainingSteps, batch: Any, num_steps: int
) -> tuple[TrainingSteps, dict[str, float]]:
    """Returns the steps with XLA for the parts that gain by it, and the measurements.

    Args:
      plain: without XLA.
      batch: in the stream's form. Nothing is learned from it.
      num_steps: steps still to be done.

    Returns:
      The steps; and seconds: 'step', and if XLA was tried, 'gradients' and 'update',
      'gradients_xla' and 'update_xla'.
    """
    changed = [*plain.state.changed_by_a_step(), *plain.state.counted_by_a_step()]
    before = [tf.identity(variable) for variable in changed]
    try:
        seconds = {"step": _time_step(plain, batch, num_steps)}
        if seconds["step"] * num_steps < SHORT_RUN_SECS:
            return plain, seconds
        compiled = plain.with_xla(True, True)
        gradients = _time_gradients(plain, batch)[1]
        seconds["gradients"], seconds["gradients_xla"] = _fastest(
            lambda: _time_gradients(plain, batch)[0], lambda: _time_gradients(compiled, batch)[0]
        )
        seconds["update"], seconds["update_xla"] = _fastest(
            _update_timer(plain, gradients), _update_timer(compiled, gradients)
        )
        whole = seconds["gradients"] + seconds["update"]
        chosen = {
            name: seconds[name] - seconds[f"{name}_xla"] > MIN_GAIN * whole
            for name in ("gradients", "update")
        }
        if chosen["gradients"] == chosen["update"]:
            return (compiled if chosen["update"] else plain), seconds
        return plain.with_xla(chosen["gradients"], chosen["update"]), seconds
    finally:
        for variable, value in zip(changed, before, strict=True):
            variable.assign(value)


def random_batch(spec: Any) -> Any:
    """Returns a batch in the form `spec` of the stream's, without waiting for one of them.

    Pixels are from 0 to 255; labels and rows are 0, all other numbers between 0 and 1.
    """
    images, targets, weights = tf.nest.map_structure(_random, spec)
    return 255 * images, targets, weights


def _random(spec: tf.TensorSpec) -> tf.Tensor:
    if not spec.dtype.is_floating:
        return tf.zeros(spec.shape, spec.dtype)
    return tf.random.stateless_uniform(spec.shape, (0, 0), dtype=spec.dtype)


def _fastest(one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float]:
    """Returns the shortest time of each of two functions that return seconds, called in turns.

    The time of `other`, which XLA compiles, is infinite if XLA cannot compile it.
    """
    one()
    try:
        other()
    except (tf.errors.OpError, ValueError, NotImplementedError, TypeError):
        return min(one() for _ in range(2)), float("inf")
    rounds = [(one(), other()) for _ in range(NUM_ROUNDS)]
    return min(first for first, _ in rounds), min(second for _, second in rounds)


def _time_step(steps: TrainingSteps, batch: Any, num_steps: int) -> float:
    """Returns the seconds of a step in the compiled loop, which a run without XLA then uses."""
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())

    def seconds() -> float:
        began = time.perf_counter()
        steps.run(iterator, tf.constant(1))[0].numpy()
        return time.perf_counter() - began

    seconds()
    shortest = min(seconds() for _ in range(2))
    for _ in range(NUM_ROUNDS):
        if not SHORT_RUN_SECS <= shortest * num_steps < MAX_SLOWDOWN * SHORT_RUN_SECS:
            break
        shortest = min(shortest, seconds())
    return shortest


def _time_gradients(steps: TrainingSteps, batch: Any) -> tuple[float, Any]:
    """Returns the seconds of forward and gradient for a batch, and the gradients."""
    images, targets, weights = batch
    scale = loss_scale_of(steps.state.optimizer)
    total = tf.reduce_sum(weights)
    began = time.perf_counter()
    result = steps.compiled_gradients(images, targets, weights, total, scale)
    result.num_bad.numpy()
    return time.perf_counter() - began, result.gradients


def _update_timer(steps: TrainingSteps, gradients: Any) -> Callable[[], float]:
    """Returns a function that updates the weights and returns the seconds it took."""
    update = tf.function(steps.compiled_update, autograph=False)
    first = steps.model.trainable_variables[0]

    def seconds() -> float:
        began = time.perf_counter()
        update(gradients)
        first.numpy()
        return time.perf_counter() - began

    return seconds
