"""What of a run is on the disk, and when: checkpoints first, then what is made of them.

saver = Saver(run, state, newly_skipped=stream.skipped_keys)
begun = saver.prepare(resume=True)           # what the run that goes on was made of, or None
progress = saver.restore(config, resume=True)  # where it was stopped, or its beginning
saver.save(progress)                         # a checkpoint
saver.publish(progress)                      # student.keras, metrics.csv
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from streamkd.store import disk
from streamkd.training.checkpoint import Checkpoints
from streamkd.training.run_directory import RunDirectory
from streamkd.training.state import TrainingState, averaged_weights

# What a run that goes on says of its beginning.
OF_THE_FIRST_START = ("initial_weights",)
ENDING = "What was saved before is kept. Make room, and give the same command again."


@dataclasses.dataclass
class Progress:
    """How far a run has come, beside its tensors; JSON, except for the arrays.

    Attributes:
      history: one dict an epoch.
      left_out: steps that were not finite and were left out, with the keys of their images.
      ended_early: whether a callback ended the run.
      callbacks, arrays: what the callbacks found out.
    """

    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    left_out: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    ended_early: bool = False
    callbacks: dict[str, Any] | None = None
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def last_step(self) -> int:
        """The step at the end of the last epoch; an epoch is under way where there are more."""
        return self.history[-1]["step"] if self.history else 0

    def num_in_a_row(self, step: int) -> int:
        """Returns how many steps were left out right before this one."""
        steps = {found["step"] for found in self.left_out}
        return next(number for number in itertools.count() if step - 1 - number not in steps)

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(dataclasses.replace(self, arrays={}))
        del values["arrays"]
        return values


class Saver:
    """Keeps a run in its directory; does nothing where there is none.

    Attributes:
      directory: of the run, or None.
      saved_step: of the newest checkpoint; -1 before there is one.
    """

    def __init__(
        self,
        run: str | os.PathLike | None,
        state: TrainingState,
        *,
        newly_skipped: Callable[[], dict[bytes, str]],
    ) -> None:
        """Args: `newly_skipped`, returns the images that this process skipped, and why."""
        self.directory = None if run is None else RunDirectory(run)
        self.saved_step = -1
        self._state = state
        self._newly_skipped = newly_skipped
        self._skipped: dict[bytes, str] = {}
        self._checkpoints: Checkpoints | None = None
        self._config: dict[str, Any] = {}
        self._starts_over = False

    def prepare(self, resume: bool) -> dict[str, Any] | None:
        """Makes the directory; returns the configuration of the run that is to go on, if any."""
        if self.directory is None:
            return None
        self.directory.prepare()
        self.directory.remove_leftovers()
        self._checkpoints = Checkpoints(self.directory.checkpoints, **self._state.trackables())
        self._checkpoints.remove_leftovers()
        self._starts_over = not resume
        if not resume or not self._checkpoints.exist():
            return None
        return self.directory.read_config()

    def restore(self, config: dict[str, Any], resume: bool) -> Progress:
        """Returns how far the run has come, with the tensors of then.

        Args:
          config: of now; held against that of the run.
          resume: go on; False starts over.
        """
        self._config = config
        if self.directory is None or self._checkpoints is None or not resume:
            return Progress()
        if self._checkpoints.exist():
            begun = self.directory.check_config(config)
            self._config = {**config, **{name: begun.get(name) for name in OF_THE_FIRST_START}}
        found = self._checkpoints.restore()
        if found is None:
            return Progress()
        values, arrays = found
        self._skipped = self.directory.read_skipped()
        self.saved_step = values.pop("step")
        progress = Progress(**values, arrays=arrays)
        is_whole = self.saved_step == progress.last_step
        if is_whole and not self.directory.has_metrics(progress.history):
            self.publish(progress)  # a kill came between the checkpoint and these
        return progress

    def restore_tensors(self) -> None:
        """Sets back what callbacks did at the start to a run that went on."""
        if self._checkpoints is not None:
            self._checkpoints.read_again()

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint."""
        directory, checkpoints = self.directory, self._checkpoints
        if directory is None or checkpoints is None:
            return
        step = self._state.num_steps
        with disk.refusals(str(directory.path), ending=ENDING):
            checkpoints.save(
                step,
                progress.to_json(),
                arrays=progress.arrays,
                before=self._write_before,
                alone=self._starts_over,
            )
        self._starts_over = False
        self.saved_step = step

    def _write_before(self) -> None:
        """Writes what a checkpoint says nothing about, and what goes on with it needs."""
        assert self.directory is not None
        self.directory.write_config(self._config)
        self.directory.write_skipped(self.skipped())
        if self._starts_over:
            self.directory.remove_published()

    def publish(self, progress: Progress) -> None:
        """Writes what an epoch leaves behind for the user, as the newest checkpoint has it.

        metrics.csv comes last: with it, all is there.
        """
        if self.directory is None:
            return
        with disk.refusals(str(self.directory.path), ending=ENDING):
            self.directory.write_left_out(progress.left_out)
            with averaged_weights(self._state.student, self._state.optimizer):
                self.directory.save_student(self._state.student)
            self.directory.write_metrics(progress.history)

    def skipped(self) -> dict[bytes, str]:
        """Returns the keys of the images that were skipped, before a resume and since, and why."""
        return {**self._skipped, **self._newly_skipped()}

    def withdraw(self) -> None:
        """Leaves the place as it was found, if nothing was saved in it."""
        if self.directory is not None:
            self.directory.withdraw()

    def release(self) -> None:
        if self.directory is not None:
            self.directory.release()
