"""When a run saves within an epoch, and how many steps one call of the compiled loop takes.

schedule = SaveSchedule(every_steps=100, clock=time.monotonic)
sizer = CallSizer(max_steps=32)
num_steps = min(sizer.num_steps, schedule.steps_to_go(step))
sizer.adapt(secs_per_step)
if schedule.is_due(step): ...; schedule.restart()
"""

from __future__ import annotations

import sys
from collections.abc import Callable

# Longest time without a checkpoint, in seconds.
SAVE_SECS = 600.0
# Aim for the time of one call, in seconds: a signal is heard after it.
CALL_SECS = 1.0


class SaveSchedule:
    """When a checkpoint is due within an epoch; at its end one is written anyway.

    Args:
      every_steps: steps between two checkpoints; None for checkpoints by the clock alone.
      clock: returns seconds.
    """

    def __init__(self, every_steps: int | None, clock: Callable[[], float]) -> None:
        self._every_steps = every_steps
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Counts the seconds from now on: a checkpoint was written."""
        self._saved_at = self._clock()

    def steps_to_go(self, step: int) -> int:
        """Returns the steps from `step` to the next checkpoint by number."""
        if self._every_steps is None:
            return sys.maxsize
        return self._every_steps - step % self._every_steps

    def is_due(self, step: int) -> bool:
        """Returns whether to write a checkpoint after `step` steps."""
        by_number = self._every_steps is not None and step % self._every_steps == 0
        return by_number or self._clock() - self._saved_at > SAVE_SECS


class CallSizer:
    """How many steps the next call takes: twice as many, as long as a call stays short.

    Attributes:
      num_steps: of the next call.
    """

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self.num_steps = 1

    def adapt(self, secs_per_step: float) -> None:
        """Sets `num_steps` by the seconds that a step of the last call took."""
        twice = 2 * self.num_steps  # the first call took its time to compile
        self.num_steps = max(1, min(self._max_steps, twice, int(CALL_SECS / secs_per_step)))
