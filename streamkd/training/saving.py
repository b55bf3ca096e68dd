"""What of a run is on the disk, and when: checkpoints first, then what is made of them.

saver = Saver(run, state, config)
progress = saver.begin(resume=True)      # where the run was stopped, or its beginning
saver.save(progress)                     # a checkpoint
saver.publish(progress)                  # student.keras, metrics.csv, skipped.jsonl
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from streamkd.store import disk
from streamkd.training.checkpoint import Checkpoints
from streamkd.training.run_directory import RunDirectory
from streamkd.training.state import TrainingState, averaged_weights

ENDING = "What was saved before is kept. Make room, and give the same command again."


@dataclasses.dataclass
class Progress:
    """How far a run has come, beside its tensors; JSON, except for the arrays.

    Attributes:
      history: one dict an epoch.
      left_out: steps that were not finite and were left out, with the keys of their images.
      num_in_a_row: how many of them came last, one after the other.
      ended_early: whether a callback ended the run.
      callbacks, arrays: what the callbacks found out.
    """

    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    left_out: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    num_in_a_row: int = 0
    ended_early: bool = False
    callbacks: dict[str, Any] | None = None
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

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
            self.directory.check_config(config)
        found = self._checkpoints.restore()
        if found is None:
            return Progress()
        values, arrays = found
        self._skipped = self.directory.read_skipped()
        self.saved_step = values.pop("step")
        progress = Progress(**values, arrays=arrays)
        whole = not self._state.sums.numpy().any()  # the end of an epoch
        newest = self._checkpoints.state_file(self.saved_step)
        if whole and progress.history and not self.directory.is_newer_than(newest):
            self.publish(progress)  # a kill came between the checkpoint and these
        return progress

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
                before=lambda: directory.write_config(self._config),
                alone=self._starts_over,
            )
        self._starts_over = False
        self.saved_step = step

    def publish(self, progress: Progress) -> None:
        """Writes what an epoch leaves behind for the user, as the newest checkpoint has it."""
        if self.directory is None:
            return
        with disk.refusals(str(self.directory.path), ending=ENDING):
            self.directory.write_skipped(self.skipped())
            self.directory.write_left_out(progress.left_out)
            self.directory.write_metrics(progress.history)
            with averaged_weights(self._state.student, self._state.optimizer):
                self.directory.save_student(self._state.student)

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
