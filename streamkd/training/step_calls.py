"""Calls of the compiled loop: several steps at a time, timed; a failed step names its images.

calls = StepCalls(steps=steps, stream=stream, workers=workers, iterator=it, clock=time.monotonic)
call = calls.take(step, num_steps)
call.num_steps, call.seconds, call.nonfinite
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from streamkd.stream.stream import Stream
from streamkd.training.distribution import Workers
from streamkd.training.non_finite import NonFiniteStep, examine
from streamkd.training.step import TrainingSteps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One call.

    Attributes:
      num_steps: steps done, the one that is not finite included.
      seconds: of the whole call.
      waited: seconds of these spent waiting for input.
      nonfinite: the last step, where it is not finite; the student is as it was before that step.
    """

    num_steps: int
    seconds: float
    waited: float
    nonfinite: NonFiniteStep | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCalls:
    """The compiled steps of one run, and their input.

    Attributes:
      steps: compiled.
      stream: of the run.
      workers: that train together.
      iterator: over the batches, from the run's next step on.
      clock: returns seconds.
    """

    steps: TrainingSteps
    stream: Stream
    workers: Workers
    iterator: Any
    clock: Callable[[], float]

    def take(self, step: int, num_steps: int) -> Call:
        """Takes `num_steps` steps, or fewer where one of them is not finite.

        Args:
          step: number of the first.

        Raises:
          ChangedImageError, BadImageError, StoreError: an image of these steps cannot be read.
          WorkerLostError: another worker is gone.
        """
        began = self.clock()
        try:
            with self.workers.named_losses():
                done, finite, waited = self.steps.run(self.iterator, tf.constant(num_steps))
                num_done = int(done)
        except tf.errors.OpError as error:
            # The input runs ahead of the steps, but its errors come in the order of the batches.
            first, last = (n * self.steps.accumulate for n in (step, step + num_steps))
            self.stream.refuse(error, range(first, last), self.workers.worker_slice)
            raise
        seconds = self.clock() - began
        nonfinite = None
        if not finite:
            nonfinite = examine(self.stream, self.steps, step + num_done)
            num_done += 1
        return Call(num_steps=num_done, seconds=seconds, waited=float(waited), nonfinite=nonfinite)
