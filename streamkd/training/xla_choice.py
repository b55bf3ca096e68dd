"""What XLA is worth to a student: measured on batches like its own, before the first step.

    batch = random_batch(iterator.element_spec)
    steps, seconds = faster_steps(make_steps, batch, num_steps=10_000)

XLA makes some students faster and others slower, in forward and gradient and, apart from that, in
the optimizer's update; compiling takes from a second to minutes. So both are measured. The choice
is kept with the run: it changes the last bits of the weights.
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
# XLA has to save this share of a step, or else the noise of the measurement would decide.
MIN_GAIN = 0.05
ROUNDS = 7
# While the first batches of a run are being read, a step may take so many times as long.
SLOWED_DOWN = 4.0


def faster_steps(
    make_steps: Callable[[bool, bool], TrainingSteps], batch: Any, num_steps: int
) -> tuple[TrainingSteps, dict[str, float]]:
    """Returns the steps with XLA where it makes them faster, and what was measured.

    Args:
      make_steps: called with whether XLA compiles forward and gradient, and whether the update.
      batch: in the stream's form. Nothing is learned from it.
      num_steps: that are still to be done.

    Returns:
      The steps; and seconds: 'step', and where XLA was tried 'gradients' and 'update',
      'gradients_xla' and 'update_xla'.
    """
    plain = make_steps(False, False)
    changed = [*plain.state.changed_by_a_step(), *plain.state.counted_by_a_step()]
    before = [tf.identity(variable) for variable in changed]
    try:
        seconds = {"step": _step(plain, batch, num_steps)}
        if seconds["step"] * num_steps < SHORT_RUN_SECS:
            return plain, seconds
        compiled = make_steps(True, True)
        gradients = _gradients(plain, batch)[1]
        seconds["gradients"], seconds["gradients_xla"] = _fastest(
            lambda: _gradients(plain, batch)[0], lambda: _gradients(compiled, batch)[0]
        )
        seconds["update"], seconds["update_xla"] = _fastest(
            _update(plain, gradients), _update(compiled, gradients)
        )
        whole = seconds["gradients"] + seconds["update"]
        chosen = {
            name: seconds[name] - seconds[f"{name}_xla"] > MIN_GAIN * whole
            for name in ("gradients", "update")
        }
        if chosen["gradients"] == chosen["update"]:
            return (compiled if chosen["update"] else plain), seconds
        return make_steps(chosen["gradients"], chosen["update"]), seconds
    finally:
        for variable, value in zip(changed, before, strict=True):
            variable.assign(value)


def random_batch(spec: Any) -> Any:
    """Returns a batch in the stream's form, so that none has to be waited for.

    Args:
      spec: of images, targets and weights.

    Returns:
      Pixels from 0 to 255, all labels and rows 0, all else between 0 and 1.
    """
    images, targets, weights = tf.nest.map_structure(_random, spec)
    return 255 * images, targets, weights


def _random(spec: tf.TensorSpec) -> tf.Tensor:
    if not spec.dtype.is_floating:
        return tf.zeros(spec.shape, spec.dtype)
    return tf.random.stateless_uniform(spec.shape, (0, 0), dtype=spec.dtype)


def _fastest(one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float]:
    """Returns the shortest time of each, taken in turns; infinite where XLA cannot compile."""
    one()
    try:
        other()
    except (tf.errors.OpError, ValueError, NotImplementedError, TypeError):
        return min(one() for _ in range(2)), float("inf")
    rounds = [(one(), other()) for _ in range(ROUNDS)]
    return min(first for first, _ in rounds), min(second for _, second in rounds)


def _step(steps: TrainingSteps, batch: Any, num_steps: int) -> float:
    """Returns how long a step takes in the compiled loop, which is the one that training calls: a
    run that stays with it has nothing to compile again."""
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())

    def seconds() -> float:
        began = time.perf_counter()
        steps.run(iterator, tf.constant(1))[0].numpy()
        return time.perf_counter() - began

    seconds()
    shortest = min(seconds() for _ in range(2))
    for _ in range(ROUNDS):
        if not SHORT_RUN_SECS <= shortest * num_steps < SLOWED_DOWN * SHORT_RUN_SECS:
            break
        shortest = min(shortest, seconds())
    return shortest


def _gradients(steps: TrainingSteps, batch: Any) -> tuple[float, Any]:
    """Returns how long forward and gradient of a batch take, and the gradients."""
    images, targets, weights = batch
    scale = loss_scale_of(steps.state.optimizer)
    total = tf.reduce_sum(weights)
    began = time.perf_counter()
    gradients, *rest = steps._gradients(images, targets, weights, total, scale)
    rest[0].numpy()
    return time.perf_counter() - began, gradients


def _update(steps: TrainingSteps, gradients: Any) -> Callable[[], float]:
    """Returns what updates the weights, and tells how long that takes."""
    update = tf.function(steps._apply, autograph=False)
    first = steps.model.trainable_variables[0]

    def seconds() -> float:
        began = time.perf_counter()
        update(gradients)
        first.numpy()
        return time.perf_counter() - began

    return seconds
