"""Checkpoints of a run: written whole or not at all, and read back with a fallback.

    checkpoints = Checkpoints(run / "checkpoints", model=student, optimizer=optimizer)
    checkpoints.save(step, {"epoch": 3, "history": [...]})
    state, arrays = checkpoints.restore()  # None without any checkpoint

TensorFlow's own manager renames but never calls fsync, and a kill leaves its temporary folder
behind for ever. Here a checkpoint is a folder written under a temporary name, synced, and renamed.
The next start removes leftovers and restores the newest checkpoint that can be read.

    step-0000000040           after step 40
    step-0000000040-2         after step 40 too, but later: at the end of the epoch, for example
    step-0000000048.tmp       being written
    step-0000000032.old.tmp   being removed

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd import disk, small_files
from streamkd.codes import warn
from streamkd.disk import TEMPORARY, sync_directory, sync_file
from streamkd.errors import ResumeError

# Checkpoints kept: the newest, and one to fall back to if that turns out damaged.
NUM_KEPT = 2
# Name of a checkpoint: its step, and its number among the checkpoints of that step.
NAME = re.compile(r"step-(\d+)(?:-(\d+))?")
STATE = "state.json"
TENSORS = "tensors"
ARRAYS = "arrays.npz"
# Entry of state.json: digest of its other entries and of arrays.npz; TensorFlow's files have their
# own.
DIGEST = "digest"
# Errors of reading a damaged checkpoint; a tensors file that was cut is an IndexError.
UNREADABLE = (
    *(OSError, ValueError, TypeError, LookupError, RuntimeError, AssertionError, MemoryError),
    tf.errors.OpError,
)
# Largest size of arrays.npz, in bytes: what callbacks keep, such as the best weights so far.
MAX_ARRAYS_BYTES = 16 << 30
_PIECE_BYTES = 1 << 20
# Names of checkpoints that are being written or removed.
_LEFTOVER = re.compile(NAME.pattern + r"(\.old)?" + re.escape(TEMPORARY))


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
      directory: of the checkpoints.
      arrays: of the checkpoint that was restored.
    """

    def __init__(self, directory: Path, **parts: Any) -> None:
        """Args: `parts`, models, optimizers, variables and lists of variables to save, by name."""
        self.directory = directory
        self.arrays: dict[str, np.ndarray] = {}
        self._checkpoint = tf.train.Checkpoint(**parts)
        self._restored: Path | None = None

    def exist(self) -> bool:
        """Returns whether the directory has a checkpoint, readable or not."""
        return bool(self._all())

    def remove_leftovers(self) -> None:
        """Removes checkpoints that a killed run left half written or half removed."""
        if self.directory.is_dir():
            for path in self.directory.iterdir():
                if _LEFTOVER.fullmatch(path.name):
                    disk.remove(path)

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
          state: JSON, returned by `restore`.
          arrays: by name, returned by `restore`.
          before: called when all of the checkpoint is on the disk, before it counts.
          alone: whether the checkpoint replaces all others: a run that starts over.
        """
        taken = self._all() if alone else []
        final = self._free_name(step, [] if alone else self._all())
        temporary = final.with_name(final.name + TEMPORARY)
        # Not the folders above: the run directory was locked, and may have been renamed since.
        if not self.directory.exists():
            self.directory.mkdir()
            sync_directory(self.directory.parent)
        disk.remove(temporary)
        try:
            temporary.mkdir()
            self._write(temporary, {**state, "step": step}, _packed(arrays or {}))
            # Checkpoints of another run must be gone before `before` writes this run's config.json.
            for other in taken:
                other.rename(_discarded(other))
            before()
            temporary.rename(final)
        except BaseException as error:
            if temporary.exists():  # the checkpoint does not count yet
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
        # Checkpoints that are not older are of this very step, or turned out damaged.
        self._keep_few(final, [folder for folder in self._all() if folder != final])

    def _free_name(self, step: int, existing: list[Path]) -> Path:
        """Returns a name after all `existing` ones of that step, so that none is overwritten."""
        number = 1 + max((_order(p)[1] for p in existing if _order(p)[0] == step), default=0)
        path = self._named(step, number)
        while os.path.lexists(path) and small_files.kind_of(path) != "a directory":
            number += 1  # something else has the name of a checkpoint
            path = self._named(step, number)
        return path

    def _named(self, step: int, number: int) -> Path:
        return self.directory / (f"step-{step:010d}" + (f"-{number}" if number > 1 else ""))

    def _write(self, folder: Path, whole: dict[str, Any], packed: bytes) -> None:
        """Writes a checkpoint into a folder, and syncs it."""
        self._checkpoint.write(str(folder / TENSORS))
        if packed:
            (folder / ARRAYS).write_bytes(packed)
        (folder / STATE).write_text(json.dumps({**whole, DIGEST: _digest(whole, packed)}))
        for part in folder.iterdir():
            sync_file(part)
        sync_directory(folder)

    def _keep_few(self, newest: Path, others: list[Path]) -> None:
        """Removes the `others`, which come newest first, except the newest of an earlier step."""
        earlier = [folder for folder in others if _order(folder)[0] < _order(newest)[0]]
        for old in others:
            if old not in earlier[: NUM_KEPT - 1]:
                # Renamed first: a kill must not leave half a checkpoint under a name that counts.
                shutil.rmtree(old.rename(_discarded(old)))

    def packed(self) -> bytes:
        """Returns the restored checkpoint as bytes, for a process that cannot read the folder."""
        assert self._restored is not None
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as parts:
            parts.add(self._restored, arcname=self._restored.name)
        return data.getvalue()

    def unpack(self, data: bytes) -> None:
        """Adds a checkpoint that `packed` returned."""
        with tarfile.open(fileobj=io.BytesIO(data)) as parts:
            parts.extractall(self.directory, filter="data")

    def restore(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Restores the newest readable checkpoint; returns its state and arrays, or None.

        Warns about newer checkpoints that are damaged.

        Raises:
          ResumeError: no checkpoint can be read.
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
                warn(
                    "checkpoint_damaged",
                    f"A checkpoint of {self.directory} is damaged ({'; '.join(reasons)}). The run "
                    f"resumes from the one before, {folder.name}.",
                    stacklevel=2,
                )
            # Newer ones stay until the next is written: the disk may only have failed to read.
            self._keep_few(folder, [p for p in self._all() if _order(p) < _order(folder)])
            self._restored, self.arrays = folder, arrays
            return state, arrays
        if reasons:
            raise ResumeError(
                f"No checkpoint in {self.directory} can be restored.\n  "
                + "\n  ".join(reasons)
                + "\nStart again with `--no-resume`, or give another `--out`."
            )
        return None

    def read_again(self) -> None:
        """Sets the tensors back to the restored checkpoint, if any."""
        if self._restored is not None:
            self._read(self._restored)

    def _read(self, folder: Path) -> None:
        self._checkpoint.read(str(folder / TENSORS)).assert_existing_objects_matched()

    def _all(self) -> list[Path]:
        return finished_checkpoints(self.directory)


def finished_checkpoints(directory: Path) -> list[Path]:
    """Returns the whole checkpoints in a directory, the newest first."""
    if not directory.is_dir():
        return []
    named = (path for path in directory.iterdir() if NAME.fullmatch(path.name))
    finished = (path for path in named if small_files.kind_of(path) == "a directory")
    return sorted(finished, key=_order, reverse=True)


def _order(folder: Path) -> tuple[int, int]:
    """Returns the step of a checkpoint, and its number, from 1, among those of that step."""
    step, number = NAME.fullmatch(folder.name).groups()  # type: ignore[union-attr]
    return int(step), int(number or 1)


def _discarded(folder: Path) -> Path:
    """Returns the name of a checkpoint while it is being removed."""
    return folder.with_name(folder.name + ".old" + TEMPORARY)


def _read_state(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the state and the arrays of a checkpoint, or raises an error of `UNREADABLE`."""
    for part in folder.iterdir():
        kind = small_files.kind_of(part)
        if kind is not None:  # TensorFlow would wait for the writer of a pipe
            raise small_files.DamagedFileError(f"{part.name} is {kind}, not a file")
    state = small_files.read_object(folder / STATE)
    written_digest = small_files.entry(state, DIGEST, str)
    del state[DIGEST]
    small_files.entry(state, "step", int)
    packed = _bytes_with_digest(folder / ARRAYS, state, written_digest)
    if not packed:
        return state, {}
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return state, dict(arrays)


def _bytes_with_digest(path: Path, state: dict[str, Any], written_digest: str) -> bytes:
    """Returns the bytes of arrays.npz, if any; no memory is taken before the digest is right."""
    digest = hashlib.blake2b(json.dumps(state).encode(), digest_size=16)
    num_bytes = path.stat().st_size if path.exists() else 0
    if num_bytes > MAX_ARRAYS_BYTES:
        raise ValueError(f"{ARRAYS} has {num_bytes:,} bytes, and {MAX_ARRAYS_BYTES:,} are the most")
    if num_bytes:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    if digest.hexdigest() != written_digest:
        raise ValueError(f"{STATE} or {ARRAYS} was changed since it was written")
    return path.read_bytes() if num_bytes else b""


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    if not arrays:
        return b""
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    return packed.getvalue()


def _digest(state: dict[str, Any], packed: bytes) -> str:
    return hashlib.blake2b(json.dumps(state).encode() + packed, digest_size=16).hexdigest()
