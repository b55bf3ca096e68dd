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
import io
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from streamkd import differences, disk, small_files
from streamkd.disk import TEMPORARY, make_directory, replacing, write_atomically
from streamkd.errors import OutputError, ResumeError, RunBusyError, StreamkdError, StudentError
from streamkd.file_access import take_lock, warn_if_not_locked
from streamkd.image_options import MAX_PIXELS, ImageOptions
from streamkd.keys import key_fields, key_of_fields
from streamkd.models.run_code import STUDENT
from streamkd.models.saving import save_model
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
CHECKPOINTS = "checkpoints"
# End of a refusal to resume.
START_AGAIN = "Start again with `--no-resume`, or give another `--out`."


class RunDirectory:
    """The files of one training run."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / CHECKPOINTS
        self.student = self.path / STUDENT
        self._made: list[Path] = []
        self._descriptor = -1

    def prepare(self) -> None:
        """Makes the directory.

        Raises:
          OutputError: it cannot be written, or one of its names is not the name of a file.
          RunBusyError: another process is training into it.
        """
        try:
            self._made = make_directory(self.path)
            probe = self.path / PROBE
            disk.open_new(probe).close()
            disk.remove(probe)
            if self._descriptor < 0:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            # On the directory itself, so that no file is left behind; the system releases the lock.
            take_lock(self.path, self._descriptor)
            warn_if_not_locked(self.path)
        except BlockingIOError as error:
            raise RunBusyError(
                f"Another process is training into {self.path}.\n"
                "Wait for it, or give another `--out`."
            ) from error
        except StreamkdError:
            raise
        except OSError as error:
            raise OutputError(
                f"The run directory {self.path} cannot be written: {error.strerror}.\n"
                "Give another `--out`."
            ) from error
        self._refuse_what_is_no_file()

    def _refuse_what_is_no_file(self) -> None:
        """Refuses, before anything is trained, a name that could be neither read nor replaced."""
        for path in (*(self.path / name for name in TEXTS), self.student):
            kind = small_files.kind_of(path)
            if kind not in (None, "a link"):  # a link is replaced, and not followed
                raise _not_a("file", path, kind)
        if os.path.lexists(self.checkpoints) and not self.checkpoints.is_dir():
            kind = small_files.kind_of(self.checkpoints) or "a file"
            raise _not_a("directory", self.checkpoints, kind)

    def check_in_place(self) -> None:
        """Refuses to write to the path if the directory that was locked no longer lies there.

        Raises:
          OutputError: it was renamed or removed; what lies there now may be another run's.
        """
        if not self._lies_at_path():
            raise OutputError(
                f"The run directory {self.path} was renamed or removed while the run trained.\n"
                "The checkpoints are where it is now. Move it back, and give the same command "
                "again; or give its new path as `--out`."
            )

    def _lies_at_path(self) -> bool:
        if self._descriptor < 0:
            return True
        try:
            if os.path.samestat(os.stat(self.path), os.fstat(self._descriptor)):
                return True
        except OSError:
            return False
        return self._shows_a_new_name()

    def _shows_a_new_name(self) -> bool:
        """Returns whether the path shows a file that is made in the directory that was locked.

        A file system in user space may give one directory another number.
        """
        name = f"{PROBE}.{os.urandom(8).hex()}"
        try:
            os.mkdir(name, dir_fd=self._descriptor)
        except OSError:  # the directory was removed
            return False
        try:
            return os.path.lexists(self.path / name)
        finally:
            os.rmdir(name, dir_fd=self._descriptor)

    def remove_leftovers(self) -> None:
        """Removes files that a killed run left half written; call it after `prepare`."""
        for name in (PROBE, STUDENT_TEMPORARY, *(text + TEMPORARY for text in TEXTS)):
            disk.remove(self.path / name)

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
        if not self._made or not self._lies_at_path() or finished_checkpoints(self.checkpoints):
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
            return _read_config(path)
        except (FileNotFoundError, small_files.DamagedFileError) as error:
            raise ResumeError(
                f"{path} is missing or damaged, so this start cannot be compared with the first "
                f"one: {_reason(error)}.\n{START_AGAIN}"
            ) from error

    def check_config(self, begun: dict[str, Any], config: dict[str, Any]) -> None:
        """Refuses, as a ResumeError, to resume the run `begun` with another configuration."""
        now = json.loads(json.dumps(config))
        name = first_difference(begun, now)
        if name is not None:
            raise ResumeError(
                f"The run {self.path} was started with {differences.another(name)}.\n"
                f"{both_sides(begun, now, name, ('run', 'now'))}"
                f"Give the same {name}, start again with `--no-resume`, or give another `--out`."
            )

    def write_config(self, config: dict[str, Any]) -> None:
        write_atomically(self.path / CONFIG, json.dumps(config, indent=2) + "\n")

    def write_metrics(self, epochs: list[dict[str, Any]]) -> None:
        """Writes metrics.csv, one line an epoch; unknown numbers stay empty."""
        write_atomically(self.path / METRICS, _as_table(epochs))

    def has_metrics(self, epochs: list[dict[str, Any]]) -> bool:
        """Returns whether metrics.csv holds these epochs, and student.keras exists."""
        table = _as_table(epochs).encode()
        try:
            written = small_files.read_bytes(self.path / METRICS, max_bytes=len(table))
        except (FileNotFoundError, small_files.DamagedFileError):
            return False
        return self.student.exists() and written == table

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
        """Returns the reasons of skipped images by key.

        Raises:
          ResumeError: skipped.jsonl is damaged.
        """
        path = self.path / SKIPPED
        try:
            return skipped_of(small_files.read_objects(path))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ResumeError(
                f"{path} is damaged, so the images that were skipped are not known: {error}.\n"
                f"{START_AGAIN}"
            ) from error

    def save_student(self, student: Any) -> None:
        """Replaces student.keras whole: the user's own model with its present weights."""
        temporary = self.path / STUDENT_TEMPORARY
        with replacing(self.student, temporary):
            disk.open_new(temporary).close()  # Keras follows a link of that name
            save_model(student, temporary)


def _not_a(wanted: str, path: Path, kind: str) -> OutputError:
    """Returns the refusal of a name in a run directory that stands for something else."""
    return OutputError(
        f"{path} is {kind}, and a run keeps a {wanted} of that name.\n"
        f"Move it away (`mv {path} {path}.old`), or give another `--out`."
    )


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
    """Returns the reason by key, from the entries of skipped.jsonl; ValueError if one has none."""
    reasons = {}
    for number, entry in enumerate(entries, 1):
        try:
            key = key_of_fields(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number:,} names no image") from error
        reasons[key] = small_files.entry(entry, "reason", str)
    return reasons


def config_of_model(model: str | os.PathLike) -> dict[str, Any]:
    """Returns the configuration in a run directory; an empty dict for a bare model file.

    Raises:
      StudentError: the configuration is damaged.
    """
    path = Path(model) / CONFIG
    try:
        config = _read_config(path)
        for name in small_files.entry(config, "class_names", list, None) or []:
            small_files.entry({"class_names": name}, "class_names", str)
        _check_image_options(config)
        return config
    except FileNotFoundError:
        return {}
    except (small_files.DamagedFileError, StreamkdError) as error:
        raise StudentError(
            f"{path} is damaged, so the classes and the images of the run are not known: "
            f"{_reason(error)}.\n"
            f"Restore the file, or give the model itself: {Path(model) / STUDENT}."
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    """Returns the configuration in a file; entries whose parts are compared are objects."""
    config = small_files.read_object(path)
    for name in ("student", "versions"):
        small_files.entry(config, name, dict, None)
    return config


def _check_image_options(config: dict[str, Any]) -> None:
    """Refuses image options with which no run can have been trained."""
    if "image_options" not in config:
        return
    options = small_files.entry(config, "image_options", dict)
    size = small_files.entry(options, "image_size", list)
    for name in ("crop_to_aspect_ratio", "pad_to_aspect_ratio"):
        small_files.entry(options, name, bool, None)
    ImageOptions.from_dict(options)
    if math.prod(size) > MAX_PIXELS:
        raise small_files.DamagedFileError(f"its entry 'image_size' is {size}")


def _reason(error: Exception) -> str:
    """Returns the first line of a fault, as the middle of a sentence."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error).split("\n")[0].rstrip(".")
