"""What of a run is on the disk, and when: checkpoints first, then what is made of them.

saver = Saver(run, state, workers, newly_skipped=stream.skipped_keys)
begun = saver.prepare(resume=True)               # the configuration of the run that goes on
progress = saver.restore(config, resume=True)    # where the run was stopped, or its beginning
saver.save(progress)                             # a checkpoint
saver.publish(progress)                          # student.keras, metrics.csv

Of several workers the chief alone has the run on its disk. All of them call every function here, at
the same time; what the chief reads it tells the others, and so it does where it is refused.
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

from streamkd import disk
from streamkd.errors import OptionError
from streamkd.runs.checkpoint import Checkpoints
from streamkd.runs.config_difference import both_sides, first_difference
from streamkd.runs.run_directory import RunDirectory, skipped_entries, skipped_of
from streamkd.training.distribution import Workers
from streamkd.training.state import TrainingState, averaged_weights

# What a run that goes on says of its beginning.
KEPT_FROM_FIRST_START = ("initial_weights",)
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
      run: path of the directory, or None.
      saved_step: of the newest checkpoint; -1 before there is one.
    """

    def __init__(
        self,
        run: str | os.PathLike | None,
        state: TrainingState,
        workers: Workers,
        *,
        newly_skipped: Callable[[], dict[bytes, str]],
    ) -> None:
        """Args: `newly_skipped`, returns the images that this process skipped, and why."""
        self.run = None if run is None else str(Path(run))
        self.saved_step = -1
        self._directory = RunDirectory(run) if run is not None and workers.is_chief else None
        self._state = state
        self._workers = workers
        self._newly_skipped = newly_skipped
        self._skipped: dict[bytes, str] = {}
        self._checkpoints: Checkpoints | None = None
        self._config: dict[str, Any] = {}
        self._starts_over = False
        self._copy: Any = None  # of the chief's checkpoint, at the others

    def prepare(self, resume: bool) -> dict[str, Any] | None:
        """Makes the directory; returns the configuration of the run that is to go on, if any."""
        self._starts_over = not resume
        if self.run is None:
            return None
        return self._workers.from_chief(lambda: self._prepare(resume))

    def _prepare(self, resume: bool) -> dict[str, Any] | None:
        directory = self._directory
        assert directory is not None
        directory.prepare()
        directory.remove_leftovers()
        self._checkpoints = Checkpoints(directory.checkpoints, **self._state.trackables())
        self._checkpoints.remove_leftovers()
        if not resume or not self._checkpoints.exist():
            return None
        return directory.read_config()

    def restore(self, config: dict[str, Any], resume: bool) -> Progress:
        """Returns how far the run has come, with the tensors of then.

        Args:
          config: of now; held against that of the run.
          resume: go on; False starts over.
        """
        self._config = config
        check_alike(self._workers.from_all(config))
        if self.run is None or not resume:
            return Progress()
        found: list[Any] = []
        told = self._workers.from_chief(lambda: self._restore(found))
        if told is None:
            return Progress()
        values, arrays = found[0] if self._workers.is_alone else self._hand_on(found)
        self._skipped = skipped_of(told["skipped"])
        self.saved_step = values.pop("step")
        progress = Progress(**values, arrays=arrays)
        if told["is_behind"]:
            self.publish(progress)  # a kill came between the checkpoint and these
        return progress

    def _restore(self, found: list[Any]) -> dict[str, Any] | None:
        """Restores the tensors at the chief; puts state and arrays into `found`."""
        directory, checkpoints = self._at_chief()
        if checkpoints.exist():
            begun = directory.check_config(self._config)
            first = {name: begun.get(name) for name in KEPT_FROM_FIRST_START}
            self._config = {**self._config, **first}
        restored = checkpoints.restore()
        if restored is None:
            return None
        found.append(restored)
        values, _ = restored
        history = values["history"]
        is_whole = values["step"] == Progress(history=history).last_step
        is_behind = is_whole and not directory.has_metrics(history)
        return {"is_behind": is_behind, "skipped": skipped_entries(directory.read_skipped())}

    def _hand_on(self, found: list[Any]) -> Any:
        """Returns what the chief restored, at the others from a copy of its checkpoint."""
        if self._workers.is_chief:
            _, checkpoints = self._at_chief()
            self._workers.bytes_from_chief(checkpoints.packed())
            return found[0]
        self._copy = tempfile.TemporaryDirectory()  # which is gone with this object
        self._checkpoints = Checkpoints(Path(self._copy.name), **self._state.trackables())
        self._checkpoints.unpack(self._workers.bytes_from_chief(b""))
        return self._checkpoints.restore()

    def restore_tensors(self) -> None:
        """Sets back what callbacks did at the start to a run that went on."""
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

        def write_before() -> None:
            """Writes what a checkpoint says nothing about, and what goes on with it needs."""
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
        """Writes what an epoch leaves behind for the user, as the newest checkpoint has it."""
        if self.run is None:
            return
        with self._workers.reading(self._state.spread_variables()):
            self._workers.from_chief(lambda: self._publish(progress))

    def _publish(self, progress: Progress) -> None:
        """Writes it at the chief; metrics.csv comes last: with it, all is there."""
        directory, _ = self._at_chief()
        with disk.refusals(str(directory.path), ending=ENDING):
            directory.write_left_out(progress.left_out)
            with averaged_weights(self._state.student, self._state.optimizer):
                directory.save_student(self._state.student)
            directory.write_metrics(progress.history)

    def skipped(self) -> dict[bytes, str]:
        """Returns the keys of the images that were skipped, before a resume and since, and why."""
        skipped = dict(self._skipped)
        for entries in self._workers.from_all(skipped_entries(self._newly_skipped())):
            skipped |= skipped_of(entries)
        return skipped

    def withdraw(self) -> None:
        """Leaves the place as it was found, if nothing was saved in it."""
        if self._directory is not None:
            self._directory.withdraw()

    def release(self) -> None:
        if self._directory is not None:
            self._directory.release()

    def _at_chief(self) -> tuple[RunDirectory, Checkpoints]:
        assert self._directory is not None
        assert self._checkpoints is not None
        return self._directory, self._checkpoints


def check_alike(configs: list[dict[str, Any]]) -> None:
    """Refuses workers that were started with different things.

    Raises:
      OptionError: names the first thing that differs, and both sides.
    """
    for number, config in enumerate(configs):
        name = first_difference(configs[0], config)
        if name is not None:
            raise OptionError(
                f"Worker {number} was started with another {name} than worker 0.\n"
                + both_sides(configs[0], config, name, ("worker 0", f"worker {number}"))
                + "Give all of them the same command."
            )
