"""The run directory: student.keras, metrics.csv, config.json and checkpoints/.

config.json says what the run was made of; a resumed run is held against it. skipped.jsonl is there
where images had to be skipped: one line an image, with its key and the reason. nonfinite.jsonl is
there where steps were left out: one line a step, with the keys of its images.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

from streamkd.errors import OutputError, ResumeError, RunBusyError
from streamkd.images.manifest import key_fields, key_of_fields
from streamkd.training.checkpoint import sync, write_atomically

COLUMNS = (
    "epoch",
    "step",
    "loss",
    "label_loss",
    "distillation_loss",
    "accuracy",
    "agreement",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "images_per_second",
    "input_wait",
)
# Kept for the reader, and allowed to differ when a run goes on.
INFORMATIVE = ("versions", "platform", "initial_weights", "arguments", "class_names")


class RunDirectory:
    """The files of one training run."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student.keras"
        self._made: list[Path] = []
        self._descriptor = -1

    def prepare(self) -> None:
        """Makes the directory.

        Raises:
          OutputError: it cannot be written.
          RunBusyError: another process is training into it.
        """
        try:
            missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._made = missing
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
            if self._descriptor < 0:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            # On the directory itself, so that no file is left behind; the system lets go of it.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusyError(
                f"Another process is training into {self.path}.\n"
                "Wait for it, or give another `--out`."
            ) from error
        except OSError as error:
            raise OutputError(
                f"The run directory {self.path} cannot be written: {error.strerror}.\n"
                "Give another `--out`."
            ) from error

    def release(self) -> None:
        """Lets another process train into the directory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def withdraw(self) -> None:
        """Removes the directory if `prepare` made it and no epoch was saved in it."""
        if not self._made or any(self.checkpoints.glob("step-*[0-9]")):
            return
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in self._made[1:]:
            with contextlib.suppress(OSError):  # another run may be in it by now
                parent.rmdir()

    def read_config(self) -> dict[str, Any]:
        """Returns what the run was started with.

        Raises:
          ResumeError: nothing readable says so.
        """
        path = self.path / "config.json"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ResumeError(
                f"{path} is missing or damaged, so that nothing says what the run was started "
                f"with: {error}.\n"
                "Start again with `--no-resume`, or give another `--out`."
            ) from error

    def check_config(self, config: dict[str, Any]) -> None:
        """Refuses to go on with a run that was started with something else.

        Raises:
          ResumeError: names the first thing that differs, and both sides.
        """
        old = self.read_config()
        new = json.loads(json.dumps(config))
        for name in sorted({*old, *new} - set(INFORMATIVE)):
            if old.get(name) != new.get(name):
                raise ResumeError(
                    f"The run {self.path} was started with another {name}.\n"
                    f"  run: {json.dumps(old.get(name))[:300]}\n"
                    f"  now: {json.dumps(new.get(name))[:300]}\n"
                    "Give what it was started with, start again with `--no-resume`, or give "
                    "another `--out`."
                )

    def write_config(self, config: dict[str, Any]) -> None:
        write_atomically(self.path / "config.json", json.dumps(config, indent=2) + "\n")

    def write_metrics(self, epochs: list[dict[str, Any]]) -> None:
        """Writes metrics.csv, one line an epoch; numbers that are not known stay empty.

        The user's metrics, and what callbacks added, follow streamkd's own columns.
        """
        text = io.StringIO()
        columns = dict.fromkeys((*COLUMNS, *(name for epoch in epochs for name in epoch)))
        table = csv.DictWriter(text, list(columns), lineterminator="\n")
        table.writeheader()
        table.writerows(epochs)
        write_atomically(self.path / "metrics.csv", text.getvalue())

    def write_skipped(self, skipped: dict[bytes, str]) -> None:
        """Writes skipped.jsonl, sorted by key; without any there is none."""
        path = self.path / "skipped.jsonl"
        if not skipped:
            path.unlink(missing_ok=True)
            return
        entries = ({**key_fields(key), "reason": why} for key, why in sorted(skipped.items()))
        write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in entries))

    def write_left_out(self, steps: list[dict[str, Any]]) -> None:
        """Writes nonfinite.jsonl, one line a step that was left out; without any there is none."""
        path = self.path / "nonfinite.jsonl"
        if not steps:
            path.unlink(missing_ok=True)
            return
        write_atomically(path, "".join(json.dumps(step) + "\n" for step in steps))

    def read_skipped(self) -> dict[bytes, str]:
        """Returns what `write_skipped` wrote."""
        path = self.path / "skipped.jsonl"
        if not path.exists():
            return {}
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        return {key_of_fields(entry): entry["reason"] for entry in entries}

    def is_newer_than(self, path: Path) -> bool:
        """Returns whether metrics.csv and student.keras were written after another file."""
        written = _modified(path)
        return all(_modified(p) >= written for p in (self.path / "metrics.csv", self.student))

    def save_student(self, student: Any) -> None:
        """Writes student.keras whole, the user's own model with the weights of now."""
        temporary = self.path / ".student.tmp.keras"
        try:
            student.save(temporary)
            sync(temporary)
            temporary.replace(self.student)
        finally:
            temporary.unlink(missing_ok=True)


def _modified(path: Path) -> int:
    """Returns when a file was written, in nanoseconds; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def read_config(model: str | os.PathLike) -> dict[str, Any]:
    """Returns what a run directory's config.json says; nothing for a bare model file."""
    path = Path(model) / "config.json"
    return json.loads(path.read_text()) if path.exists() else {}
