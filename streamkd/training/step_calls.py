"""Calls of the compiled loop: several steps at a time, timed; a failed step names its images.

calls = StepCalls(steps, stream, workers, source, xla=XlaPolicy(...), clock=time.monotonic)
calls.choose_xla(begun)
calls.open(step)
call = calls.take(step, num_steps)
call.num_steps, call.seconds, call.nonfinite
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from streamkd.stream.stream import Stream
from streamkd.training.batch_source import BatchSource
from streamkd.training.distribution import Workers
from streamkd.training.non_finite import NonFiniteStep, examine
from streamkd.training.step import TrainingSteps
from streamkd.training.xla_choice import XlaPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One call.

    Attributes:
      num_steps: steps done, the one that is not finite included.
      seconds: of the whole call.
      waited: seconds of the call spent waiting for input.
      nonfinite: the last step, if it is not finite; the student is as it was before that step.
    """

    num_steps: int
    seconds: float
    waited: float
    nonfinite: NonFiniteStep | None


class StepCalls:
    """The compiled steps of one run, and their input.

    Attributes:
      steps: compiled; without XLA until `choose_xla`.
    """

    def __init__(
        self,
        steps: TrainingSteps,
        stream: Stream,
        workers: Workers,
        source: BatchSource,
        *,
        xla: XlaPolicy,
        clock: Callable[[], float],
    ) -> None:
        """Args: `source`, of the batches of `stream`; `clock`, returns seconds."""
        self.steps = steps
        self._stream = stream
        self._workers = workers
        self._source = source
        self._xla = xla
        self._clock = clock
        self._iterator: Any = None

    def choose_xla(self, begun: dict[str, Any] | None) -> None:
        """Settles which parts XLA compiles; `begun` is the configuration of a run that resumes."""
        spec = None
        if begun is None:
            # The first batches are read while steps are compiled, which takes seconds.
            self.open(0)
            spec = self._iterator.element_spec
        self.steps = self._xla.choose(self.steps, begun, spec)

    def open(self, step: int) -> None:
        """Begins to read batches from a step on, unless reading has begun."""
        if self._iterator is None:
            self._iterator = self._source.open(step * self.steps.accumulate)

    def num_ready(self, step: int) -> int:
        """Returns how many steps from `step` on have their batches."""
        accumulate = self.steps.accumulate
        return self._source.num_ready(step * accumulate) // accumulate

    def take(self, step: int, num_steps: int) -> Call:
        """Takes `num_steps` steps, or fewer if one is not finite.

        Args:
          step: number of the first.

        Raises:
          ChangedImageError, BadImageError, StoreError: an image of these steps cannot be read.
          WorkerLostError: another worker is gone.
        """
        began = self._clock()
        try:
            with self._workers.named_losses():
                done, finite, waited = self.steps.run(self._iterator, tf.constant(num_steps))
                num_done = int(done)
        except tf.errors.OpError as error:
            # The input runs ahead of the steps, but its errors come in the order of the batches.
            first, last = (n * self.steps.accumulate for n in (step, step + num_steps))
            self._stream.refuse(error, range(first, last), self._workers.worker_slice)
            raise
        seconds = self._clock() - began
        nonfinite = None
        if not finite:
            nonfinite = examine(self._stream, self.steps, step + num_done)
            num_done += 1
        return Call(num_steps=num_done, seconds=seconds, waited=float(waited), nonfinite=nonfinite)
