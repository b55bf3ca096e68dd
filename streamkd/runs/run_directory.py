"""The run directory: student.keras, metrics.csv, config.json and checkpoints/.

runs/first/
  student.keras     the trained student, as of the last epoch
  metrics.csv       one line an epoch
  config.json       data and settings of the run; a resumed run is compared with it
  checkpoints/      for resuming
  skipped.jsonl     only if images were skipped: one line an image, with key and reason
  nonfinite.jsonl   only if steps were left out: one line a step, with the keys of its images
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

from streamkd.disk import TEMPORARY, make_directory, replacing, write_atomically
from streamkd.errors import OutputError, ResumeError, RunBusyError
from streamkd.keys import key_fields, key_of_fields
from streamkd.runs.checkpoint import finished_checkpoints
from streamkd.runs.config_difference import both_sides, first_difference

# Columns of metrics.csv; the user's metrics follow.
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
# The small files of a run.
TEXTS = ("config.json", "metrics.csv", "skipped.jsonl", "nonfinite.jsonl")
CONFIG, METRICS, SKIPPED, LEFT_OUT = TEXTS
# Names that exist only while the directory is tried and the student is written.
PROBE, STUDENT_TEMPORARY = ".writable", ".student.tmp.keras"


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
            self._made = make_directory(self.path)
            probe = self.path / PROBE
            probe.touch()
            probe.unlink()
            if self._descriptor < 0:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            # On the directory itself, so that no file is left behind; the system releases the lock.
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

    def remove_leftovers(self) -> None:
        """Removes files that a killed run left half written; call it after `prepare`."""
        for name in (PROBE, STUDENT_TEMPORARY):
            (self.path / name).unlink(missing_ok=True)
        for name in TEXTS:
            (self.path / (name + TEMPORARY)).unlink(missing_ok=True)

    def remove_published(self) -> None:
        """Removes files of an earlier run that no longer match the checkpoints."""
        for path in (self.student, self.path / METRICS, self.path / LEFT_OUT):
            path.unlink(missing_ok=True)

    def release(self) -> None:
        """Lets another process train into the directory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def withdraw(self) -> None:
        """Removes the directory if `prepare` made it and it holds no checkpoint."""
        if not self._made or finished_checkpoints(self.checkpoints):
            return
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in self._made[1:]:
            with contextlib.suppress(OSError):  # another run may be in it by now
                parent.rmdir()

    def read_config(self) -> dict[str, Any]:
        """Returns the configuration that the run was started with.

        Raises:
          ResumeError: config.json is missing or damaged.
        """
        path = self.path / CONFIG
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ResumeError(
                f"{path} is missing or damaged, so this start cannot be compared with the first "
                f"one: {error}.\n"
                "Start again with `--no-resume`, or give another `--out`."
            ) from error

    def check_config(self, begun: dict[str, Any], config: dict[str, Any]) -> None:
        """Refuses, as a ResumeError, to resume the run `begun` with another configuration."""
        now = json.loads(json.dumps(config))
        name = first_difference(begun, now)
        if name is not None:
            raise ResumeError(
                f"The run {self.path} was started with another {name}.\n"
                + both_sides(begun, now, name, ("run", "now"))
                + f"Give the same {name}, start again with `--no-resume`, or give another `--out`."
            )

    def write_config(self, config: dict[str, Any]) -> None:
        write_atomically(self.path / CONFIG, json.dumps(config, indent=2) + "\n")

    def write_metrics(self, epochs: list[dict[str, Any]]) -> None:
        """Writes metrics.csv, one line an epoch; unknown numbers stay empty."""
        write_atomically(self.path / METRICS, _as_table(epochs))

    def has_metrics(self, epochs: list[dict[str, Any]]) -> bool:
        """Returns whether metrics.csv holds these epochs, and student.keras exists."""
        path = self.path / METRICS
        text = path.read_text() if path.exists() and self.student.exists() else None
        return text == _as_table(epochs)

    def write_skipped(self, skipped: dict[bytes, str]) -> None:
        """Writes skipped.jsonl, sorted by key."""
        self._write_lines(SKIPPED, skipped_entries(skipped))

    def write_left_out(self, steps: list[dict[str, Any]]) -> None:
        """Writes nonfinite.jsonl, one line a step left out."""
        self._write_lines(LEFT_OUT, steps)

    def _write_lines(self, name: str, entries: list[dict[str, Any]]) -> None:
        """Writes a file of JSON lines; removes it if it would be empty."""
        if entries:
            lines = "".join(json.dumps(entry) + "\n" for entry in entries)
            write_atomically(self.path / name, lines)
        else:
            (self.path / name).unlink(missing_ok=True)

    def read_skipped(self) -> dict[bytes, str]:
        """Returns the reasons of skipped images by key."""
        path = self.path / SKIPPED
        if not path.exists():
            return {}
        return skipped_of([json.loads(line) for line in path.read_text().splitlines()])

    def save_student(self, student: Any) -> None:
        """Replaces student.keras whole: the user's own model with its present weights."""
        temporary = self.path / STUDENT_TEMPORARY
        with replacing(self.student, temporary):
            student.save(temporary)


def _as_table(epochs: list[dict[str, Any]]) -> str:
    """Returns the text of metrics.csv; other metrics follow streamkd's own columns."""
    text = io.StringIO()
    columns = dict.fromkeys((*COLUMNS, *(name for epoch in epochs for name in epoch)))
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows(epochs)
    return text.getvalue()


def skipped_entries(skipped: dict[bytes, str]) -> list[dict[str, Any]]:
    """Returns the entries of skipped.jsonl, sorted by key, from the reason by key."""
    return [{**key_fields(key), "reason": why} for key, why in sorted(skipped.items())]


def skipped_of(entries: list[dict[str, Any]]) -> dict[bytes, str]:
    """Returns the reason by key, from the entries of skipped.jsonl."""
    return {key_of_fields(entry): entry["reason"] for entry in entries}


def config_of_model(model: str | os.PathLike) -> dict[str, Any]:
    """Returns the configuration in a run directory; an empty dict for a bare model file."""
    path = Path(model) / CONFIG
    return json.loads(path.read_text()) if path.exists() else {}
