"""Saves and restores a run: the checkpoint first, then student.keras and metrics.csv.

saver = Saver(run, state, workers, newly_skipped=stream.skipped_keys)
begun = saver.prepare(resume=True)               # configuration of the run that resumes, or None
progress = saver.restore(config, resume=True)    # where the run was stopped, or its beginning
saver.save(progress)                             # a checkpoint
saver.publish(progress)                          # student.keras, metrics.csv

Only the chief touches the disk. All workers call each method together; the chief broadcasts its
result, or its error.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streamkd import disk, small_files
from streamkd.differences import another
from streamkd.errors import OptionError, ResumeError
from streamkd.runs.checkpoint import Checkpoints
from streamkd.runs.config_difference import both_sides, first_difference
from streamkd.runs.extension import earlier_plans, replanned
from streamkd.runs.run_directory import START_AGAIN, RunDirectory, skipped_entries, skipped_of
from streamkd.training.distribution import Workers
from streamkd.training.state import TrainingState, averaged_weights

# Configuration entries that a resumed run keeps from its first start.
KEPT_FROM_FIRST_START = ("initial_weights",)
# End of the message about a full disk.
ENDING = "Earlier checkpoints are kept. Make room, and give the same command again."


@dataclasses.dataclass
class Progress:
    """How far a run has come, besides its tensors; JSON, except for the arrays.

    Attributes:
      history: one dict an epoch.
      left_out: steps that were not finite and were left out, with the keys of their images.
      ended_early: whether a callback ended the run.
      callbacks, arrays: state of the callbacks.
    """

    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    left_out: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    ended_early: bool = False
    callbacks: dict[str, Any] | None = None
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def last_step(self) -> int:
        """The step at which the last epoch ended; a run with more steps is within an epoch."""
        return self.history[-1]["step"] if self.history else 0

    def num_in_a_row(self, step: int) -> int:
        """Returns how many steps were left out right before step `step`."""
        steps = {nonfinite["step"] for nonfinite in self.left_out}
        return next(number for number in itertools.count() if step - 1 - number not in steps)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Progress:
        """Returns the fields that `to_json` returned; ValueError if they are none."""
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"its entry {unknown[0]!r} is not known")
        for name in ("history", "left_out"):
            for step in small_files.entry(values, name, list):
                small_files.entry(dict(step), "step", int)
        small_files.entry(values, "ended_early", bool)
        small_files.entry(values, "callbacks", dict, None)
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Returns all fields but the arrays."""
        values = dataclasses.asdict(dataclasses.replace(self, arrays={}))
        del values["arrays"]
        return values


class Saver:
    """Keeps a run in its directory; does nothing without a directory.

    Attributes:
      run: path of the directory, or None.
      saved_step: step of the newest checkpoint; -1 before the first.
      planned_for: epochs that the run was planned for until this start extends it; else None.
    """

    def __init__(
        self,
        run: str | os.PathLike | None,
        state: TrainingState,
        workers: Workers,
        *,
        newly_skipped: Callable[[], dict[bytes, str]],
    ) -> None:
        """Args: `newly_skipped`, returns the keys of images that this process skipped, and why."""
        self.run = None if run is None else str(Path(run))
        self.saved_step = -1
        self.planned_for: int | None = None
        self._directory = RunDirectory(run) if run is not None and workers.is_chief else None
        self._state = state
        self._workers = workers
        self._newly_skipped = newly_skipped
        self._skipped: dict[bytes, str] = {}
        self._checkpoints: Checkpoints | None = None
        self._begun: dict[str, Any] | None = None
        self._config: dict[str, Any] = {}
        self._starts_over = False
        self._copy: Any = None  # of the chief's checkpoint, on the other workers

    def prepare(self, resume: bool) -> dict[str, Any] | None:
        """Makes the directory; returns the configuration of the run that resumes, or None."""
        self._starts_over = not resume
        if self.run is not None:
            self._begun = self._workers.from_chief(lambda: self._prepare(resume))
        return self._begun

    def _prepare(self, resume: bool) -> dict[str, Any] | None:
        directory = self._directory
        assert directory is not None
        directory.prepare()
        self._checkpoints = Checkpoints(directory.checkpoints, **self._state.trackables())
        with disk.refusals(str(directory.path), ending="Give another `--out`."):
            directory.remove_leftovers()
            self._checkpoints.remove_leftovers()
        if not resume or not self._checkpoints.exist():
            return None
        return directory.read_config()

    def restore(self, config: dict[str, Any], resume: bool, *, extend: bool = False) -> Progress:
        """Restores the tensors of the newest checkpoint; returns how far the run has come.

        Args:
          config: of this start.
          resume: False starts over.
          extend: whether the run may take more epochs than it was planned for.

        Raises:
          ResumeError: the run was started with another configuration.
          OptionError: the workers were started with different configurations.
        """
        self._config = config
        check_alike(self._workers.from_all(config))
        if self.run is None or not resume:
            return Progress()
        restored = self._workers.from_chief(lambda: self._restore(extend))
        if restored is None:
            return Progress()
        values = restored["state"]
        self._skipped = skipped_of(restored["skipped"])
        self.planned_for = restored["planned_for"]
        self.saved_step = values.pop("step")
        progress = Progress.from_json(values)
        progress.arrays = self._restored_arrays()
        if restored["is_behind"]:
            self.publish(progress)  # a kill came between the checkpoint and student.keras
        return progress

    def _restore(self, extend: bool) -> dict[str, Any] | None:
        """Restores the tensors on the chief; returns the rest as JSON, without the arrays."""
        if self._begun is None:
            return None
        directory, checkpoints = self._at_chief()
        begun, planned_for = replanned(directory.path, self._begun, self._config, extend=extend)
        directory.check_config(begun, self._config)
        first = {name: self._begun.get(name) for name in KEPT_FROM_FIRST_START}
        self._config = {**self._config, **first}
        restored = checkpoints.restore()
        assert restored is not None  # `_prepare` saw a checkpoint, and the directory is locked
        state, _ = restored
        try:
            progress = Progress.from_json({n: v for n, v in state.items() if n != "step"})
        except (TypeError, ValueError) as error:
            raise ResumeError(
                f"The newest checkpoint in {checkpoints.directory} is of no run of streamkd: "
                f"{error}.\n{START_AGAIN}"
            ) from error
        self._config |= earlier_plans(self._begun, planned_for, state["step"])
        is_whole = state["step"] == progress.last_step
        return {
            "state": state,
            "planned_for": planned_for,
            "skipped": skipped_entries(directory.read_skipped()),
            "is_behind": is_whole and not directory.has_metrics(progress.history),
        }

    def _restored_arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays of the chief's checkpoint; the other workers restore a copy of it."""
        if self._workers.is_chief:
            _, checkpoints = self._at_chief()
            if not self._workers.is_alone:
                self._workers.bytes_from_chief(checkpoints.packed())
            return checkpoints.arrays
        self._copy = tempfile.TemporaryDirectory()  # removed together with this object
        self._checkpoints = Checkpoints(Path(self._copy.name), **self._state.trackables())
        self._checkpoints.unpack(self._workers.bytes_from_chief(b""))
        self._checkpoints.restore()
        return self._checkpoints.arrays

    def restore_tensors(self) -> None:
        """Sets the tensors back to the checkpoint that was restored, if any."""
        if self._checkpoints is not None:
            self._checkpoints.read_again()

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint."""
        if self.run is None:
            return
        step, skipped = self._state.num_steps, self.skipped()
        with self._workers.reading(self._state.spread_variables()):
            self._workers.from_chief(lambda: self._save(step, progress, skipped))
        self._starts_over = False
        self.saved_step = step

    def _save(self, step: int, progress: Progress, skipped: dict[bytes, str]) -> None:
        directory, checkpoints = self._at_chief()
        directory.check_in_place()

        def write_before() -> None:
            """Writes the files that a resumed run reads besides the checkpoint."""
            directory.check_in_place()
            directory.write_config(self._config)
            directory.write_skipped(skipped)
            if self._starts_over:
                directory.remove_published()

        with disk.refusals(str(directory.path), ending=ENDING):
            checkpoints.save(
                step,
                progress.to_json(),
                arrays=progress.arrays,
                before=write_before,
                alone=self._starts_over,
            )

    def publish(self, progress: Progress) -> None:
        """Writes student.keras and metrics.csv, as of the newest checkpoint."""
        if self.run is None:
            return
        with self._workers.reading(self._state.spread_variables()):
            self._workers.from_chief(lambda: self._publish(progress))

    def _publish(self, progress: Progress) -> None:
        """Writes the files on the chief; metrics.csv comes last and tells that all are written."""
        directory, _ = self._at_chief()
        directory.check_in_place()
        with disk.refusals(str(directory.path), ending=ENDING):
            directory.write_left_out(progress.left_out)
            with averaged_weights(self._state.student, self._state.optimizer):
                directory.save_student(self._state.student)
            directory.write_metrics(progress.history)

    def skipped(self) -> dict[bytes, str]:
        """Returns the keys of all images skipped in this run, also before a resume, and why."""
        skipped = dict(self._skipped)
        for entries in self._workers.from_all(skipped_entries(self._newly_skipped())):
            skipped |= skipped_of(entries)
        return skipped

    def withdraw(self) -> None:
        """Removes the directory if this run made it and saved nothing in it."""
        if self._directory is not None:
            self._directory.withdraw()

    def release(self) -> None:
        """Lets another process train into the directory."""
        if self._directory is not None:
            self._directory.release()

    def _at_chief(self) -> tuple[RunDirectory, Checkpoints]:
        assert self._directory is not None
        assert self._checkpoints is not None
        return self._directory, self._checkpoints


def check_alike(configs: list[dict[str, Any]]) -> None:
    """Refuses, as an OptionError, workers that were started with different configurations."""
    for number, config in enumerate(configs):
        name = first_difference(configs[0], config)
        if name is not None:
            raise OptionError(
                f"Worker {number} was started with {another(name)} than worker 0.\n"
                + both_sides(configs[0], config, name, ("worker 0", f"worker {number}"))
                + "Give the same command on every worker."
            )
