"""Checkpoints of a run: written whole or not at all, and read back with a fallback.

    checkpoints = Checkpoints(run / "checkpoints", model=student, optimizer=optimizer)
    checkpoints.save(step, {"epoch": 3, "history": [...]})
    state = checkpoints.restore()          # the dict, or None where there is none

TensorFlow's own manager renames but never calls fsync, and a kill leaves its temporary folder
behind for ever. Here a checkpoint is a folder written under a temporary name, synced, and renamed;
leftovers are removed at the next start; the newest that can be read is taken.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from streamkd.errors import ResumeError

NUM_KEPT = 2  # one to fall back to where the newest turns out damaged
STATE = "state.json"
TENSORS = "tensors"
# What reading a damaged checkpoint raises; a tensors file that was cut is an IndexError.
UNREADABLE = (OSError, ValueError, LookupError, RuntimeError, AssertionError, tf.errors.OpError)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, *, model: Any, optimizer: Any) -> None:
        self.directory = directory
        self._checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)

    def remove_leftovers(self) -> None:
        """Removes what a killed run left behind."""
        for leftover in self.directory.glob("*.tmp"):
            shutil.rmtree(leftover)

    def save(
        self,
        step: int,
        state: dict[str, Any],
        *,
        before: Callable[[], None] = lambda: None,
        alone: bool = False,
    ) -> None:
        """Writes one checkpoint; returns when it would survive a power cut.

        Args:
          step: of the run.
          state: what `restore` returns; JSON.
          before: called when all of the checkpoint is on the disk and before it counts.
          alone: remove every other checkpoint, once this one counts: a run that starts over.
        """
        final = self.directory / f"step-{step:010d}"
        temporary = final.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            self._checkpoint.write(str(temporary / TENSORS))
            (temporary / STATE).write_text(json.dumps({**state, "step": step}))
            for part in temporary.iterdir():
                sync(part)
            sync(temporary)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, tf.errors.ResourceExhaustedError):  # TensorFlow's full disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        before()
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(self.directory)
        others = [folder for folder in self._all() if folder != final]
        for old in others if alone else others[NUM_KEPT - 1 :]:
            shutil.rmtree(old)

    def state_file(self, step: int) -> Path:
        """Returns the file of a checkpoint that is written last."""
        return self.directory / f"step-{step:010d}" / STATE

    def restore(self) -> dict[str, Any] | None:
        """Restores the newest checkpoint that can be read and returns its state.

        Raises:
          ResumeError: there are checkpoints, and none of them can be read.
        """
        reasons = []
        for folder in self._all():
            try:
                state = json.loads((folder / STATE).read_text())
                status = self._checkpoint.read(str(folder / TENSORS))
                status.assert_existing_objects_matched()
                return state
            except UNREADABLE as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                reasons.append(f"{folder.name}: {reason[:200]}")
        if reasons:
            raise ResumeError(
                f"No checkpoint in {self.directory} can be restored.\n  "
                + "\n  ".join(reasons)
                + "\nStart again with `--no-resume`, or give another `--out`."
            )
        return None

    def _all(self) -> list[Path]:
        """Returns the finished checkpoints, the newest first."""
        if not self.directory.is_dir():
            return []
        return sorted(
            (p for p in self.directory.glob("step-*") if p.suffix != ".tmp"), reverse=True
        )


def sync(path: Path) -> None:
    """Forces a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a small text file whole."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
