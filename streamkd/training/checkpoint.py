"""Checkpoints of a run: written whole or not at all, and read back with a fallback.

    checkpoints = Checkpoints(run / "checkpoints", model=student, optimizer=optimizer)
    checkpoints.save(step, {"epoch": 3, "history": [...]})
    state, arrays = checkpoints.restore()  # the dict, or None where there is nothing

TensorFlow's own manager renames but never calls fsync, and a kill leaves its temporary folder
behind for ever. Here a checkpoint is a folder written under a temporary name, synced, and renamed;
leftovers are removed at the next start; the newest that can be read is taken.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import ResumeError

NUM_KEPT = 2  # one to fall back to where the newest turns out damaged
STATE = "state.json"
TENSORS = "tensors"
ARRAYS = "arrays.npz"
DIGEST = (
    "digest"  # of what else is in state.json, and of arrays.npz; TensorFlow's files have theirs
)
# What reading a damaged checkpoint raises; a tensors file that was cut is an IndexError.
UNREADABLE = (OSError, ValueError, LookupError, RuntimeError, AssertionError, tf.errors.OpError)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, **parts: Any) -> None:
        """Args: `parts`, what is saved: models, optimizers, variables, lists of variables."""
        self.directory = directory
        self._checkpoint = tf.train.Checkpoint(**parts)

    def exist(self) -> bool:
        """Returns whether there is any, readable or not."""
        return bool(self._all())

    def remove_leftovers(self) -> None:
        """Removes what a killed run left behind."""
        for leftover in self.directory.glob("*.tmp"):
            shutil.rmtree(leftover)

    def save(
        self,
        step: int,
        state: dict[str, Any],
        *,
        arrays: dict[str, np.ndarray] | None = None,
        before: Callable[[], None] = lambda: None,
        alone: bool = False,
    ) -> None:
        """Writes one checkpoint; returns when it would survive a power cut.

        Args:
          step: of the run.
          state: what `restore` returns; JSON.
          arrays: the same for arrays, by name.
          before: called when all of the checkpoint is on the disk and before it counts.
          alone: remove every other checkpoint, once this one counts: a run that starts over.
        """
        final = self.directory / f"step-{step:010d}"
        temporary = final.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            self._checkpoint.write(str(temporary / TENSORS))
            packed = _packed(arrays or {})
            if packed:
                (temporary / ARRAYS).write_bytes(packed)
            whole = {**state, "step": step}
            whole[DIGEST] = _digest(whole, packed)
            (temporary / STATE).write_text(json.dumps(whole))
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

    def restore(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Restores the newest checkpoint that can be read; returns its state and arrays.

        Warns where it is not the newest.

        Raises:
          ResumeError: there are checkpoints, and none of them can be read.
        """
        reasons = []
        for folder in self._all():
            try:
                state, arrays = _read_state(folder)
                status = self._checkpoint.read(str(folder / TENSORS))
                status.assert_existing_objects_matched()
            except UNREADABLE as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                reasons.append(f"{folder.name}: {reason[:200]}")
                continue
            if reasons:
                warnings.warn(
                    f"A checkpoint of {self.directory} is damaged ({'; '.join(reasons)}); the run "
                    f"goes on from the one before, {folder.name}.",
                    stacklevel=2,
                )
            return state, arrays
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


def _read_state(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns what is in a checkpoint beside the tensors; a ValueError where it is damaged."""
    state = json.loads((folder / STATE).read_text())
    path = folder / ARRAYS
    packed = path.read_bytes() if path.exists() else b""
    if state.pop(DIGEST) != _digest(state, packed):
        raise ValueError(f"{STATE} or {ARRAYS} is not what was written")
    if not packed:
        return state, {}
    with np.load(io.BytesIO(packed), allow_pickle=False) as found:
        return state, dict(found)


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    if not arrays:
        return b""
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    return packed.getvalue()


def _digest(state: dict[str, Any], packed: bytes) -> str:
    return hashlib.blake2b(json.dumps(state).encode() + packed, digest_size=16).hexdigest()


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
