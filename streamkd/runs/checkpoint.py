"""Checkpoints of a run: written whole or not at all, and read back with a fallback.

    checkpoints = Checkpoints(run / "checkpoints", model=student, optimizer=optimizer)
    checkpoints.save(step, {"epoch": 3, "history": [...]})
    state, arrays = checkpoints.restore()  # the dict, or None where there is nothing

TensorFlow's own manager renames but never calls fsync, and a kill leaves its temporary folder
behind for ever. Here a checkpoint is a folder written under a temporary name, synced, and renamed;
leftovers are removed at the next start; the newest that can be read is taken.

    step-0000000040       of step 40
    step-0000000040-2     of step 40 too, and later: at the end of the epoch, for example
    step-0000000048.tmp   being written; step-0000000032.old.tmp is being removed

A folder with a name of the first two kinds is whole: it gets its name last, and loses it first.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.disk import TEMPORARY, make_directory, sync_directory, sync_file
from streamkd.errors import ResumeError

NUM_KEPT = 2  # one to fall back to where the newest turns out damaged
NAME = re.compile(r"step-(\d+)(?:-(\d+))?")
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
        self._restored: Path | None = None

    def exist(self) -> bool:
        """Returns whether there is any, readable or not."""
        return bool(self._all())

    def remove_leftovers(self) -> None:
        """Removes what a killed run left behind."""
        for leftover in self.directory.glob("*" + TEMPORARY):
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
          alone: this one takes the place of all others: a run that starts over.
        """
        taken = self._all() if alone else []
        final = self._free_name(step, [] if alone else self._all())
        temporary = final.with_name(final.name + TEMPORARY)
        make_directory(self.directory)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            self._write(temporary, {**state, "step": step}, _packed(arrays or {}))
            # None of another run may be there once `before` has said what this one is.
            for other in taken:
                other.rename(_discarded(other))
            before()
            temporary.rename(final)
        except BaseException as error:
            if temporary.exists():  # it does not count yet
                shutil.rmtree(temporary)
                for other in taken:
                    if not other.exists():
                        _discarded(other).rename(other)
            if isinstance(error, tf.errors.ResourceExhaustedError):  # TensorFlow's full disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        sync_directory(self.directory)
        for other in taken:
            shutil.rmtree(_discarded(other))
        # Those that are not older are of this very step, or turned out damaged.
        self._keep_few(final, [folder for folder in self._all() if folder != final])

    def _free_name(self, step: int, taken: list[Path]) -> Path:
        """Returns a name after all `taken` ones of that step: none is written over."""
        number = 1 + max((_order(p)[1] for p in taken if _order(p)[0] == step), default=0)
        return self.directory / (f"step-{step:010d}" + (f"-{number}" if number > 1 else ""))

    def _write(self, folder: Path, whole: dict[str, Any], packed: bytes) -> None:
        """Writes all that belongs to a checkpoint into a folder, to the disk."""
        self._checkpoint.write(str(folder / TENSORS))
        if packed:
            (folder / ARRAYS).write_bytes(packed)
        (folder / STATE).write_text(json.dumps({**whole, DIGEST: _digest(whole, packed)}))
        for part in folder.iterdir():
            sync_file(part)
        sync_directory(folder)

    def _keep_few(self, newest: Path, others: list[Path]) -> None:
        """Removes all `others` but the newest of earlier steps.

        Args: `others`, the newest first.
        """
        earlier = [folder for folder in others if _order(folder)[0] < _order(newest)[0]]
        for old in others:
            if old not in earlier[: NUM_KEPT - 1]:
                # Without its name first: a kill must not leave a part of it under that name.
                shutil.rmtree(old.rename(_discarded(old)))

    def packed(self) -> bytes:
        """Returns the checkpoint that was restored, in one piece, for a process that cannot read
        the folder."""
        assert self._restored is not None
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as parts:
            parts.add(self._restored, arcname=self._restored.name)
        return data.getvalue()

    def unpack(self, data: bytes) -> None:
        """Puts a checkpoint that `packed` returned among these."""
        with tarfile.open(fileobj=io.BytesIO(data)) as parts:
            parts.extractall(self.directory, filter="data")

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
                self._read(folder)
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
            # Those after it stay until the next is written: the disk may only have failed to read.
            self._keep_few(folder, [p for p in self._all() if _order(p) < _order(folder)])
            self._restored = folder
            return state, arrays
        if reasons:
            raise ResumeError(
                f"No checkpoint in {self.directory} can be restored.\n  "
                + "\n  ".join(reasons)
                + "\nStart again with `--no-resume`, or give another `--out`."
            )
        return None

    def read_again(self) -> None:
        """Sets the tensors to what `restore` found, whatever changed them since."""
        if self._restored is not None:
            self._read(self._restored)

    def _read(self, folder: Path) -> None:
        self._checkpoint.read(str(folder / TENSORS)).assert_existing_objects_matched()

    def _all(self) -> list[Path]:
        return finished_checkpoints(self.directory)


def finished_checkpoints(directory: Path) -> list[Path]:
    """Returns the checkpoints in a directory that were written to their end, the newest first."""
    if not directory.is_dir():
        return []
    found = (path for path in directory.iterdir() if NAME.fullmatch(path.name))
    return sorted(found, key=_order, reverse=True)


def _order(folder: Path) -> tuple[int, int]:
    """Returns the step of a checkpoint, and its number among those of that step, from 1."""
    step, number = NAME.fullmatch(folder.name).groups()  # type: ignore[union-attr]
    return int(step), int(number or 1)


def _discarded(folder: Path) -> Path:
    """Returns the name that a checkpoint has while it is being removed."""
    return folder.with_name(folder.name + ".old" + TEMPORARY)


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
