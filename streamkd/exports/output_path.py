"""The path of an export: checked before the model is opened, and whole or not there afterwards.

new = NewOutput(Path("student.tflite"), chosen)
with new.writing(names) as path:          # a temporary name beside it
    ...                                   # an error here leaves nothing
new.num_bytes
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamkd import disk
from streamkd.errors import OutputError, StreamkdError
from streamkd.exports.formats import ExportFormat
from streamkd.models.saving import save_model


def class_names_path(out: Path) -> Path:
    """Returns the path of the class names of an export."""
    return out.with_name(f"{out.stem}.classes.txt")


class NewOutput:
    """A file or directory that does not exist yet.

    Args:
      out: its path.
      chosen: its format.

    Attributes:
      num_bytes: its size, once it is written.

    Raises:
      OutputError: something has that name, there is no folder for it, or it ends otherwise.
    """

    num_bytes = 0

    def __init__(self, out: Path, chosen: ExportFormat) -> None:
        self._out = out
        for path in (out, class_names_path(out)):
            if os.path.lexists(path):
                raise OutputError(f"{path} exists already.\nMove it away, or give another `--out`.")
        if not out.parent.is_dir():
            raise OutputError(
                f"There is no directory {out.parent} to write {out.name} into.\n"
                f"Make it: `mkdir -p {out.parent}`."
            )
        if chosen.ending and out.suffix != chosen.ending:
            raise OutputError(
                f"--format {chosen.name} writes a {chosen.ending} file; call it "
                f"{out.with_suffix(chosen.ending)}."
            )
        if not chosen.ending and out.suffix in (".keras", ".tflite", ".onnx"):
            raise OutputError(
                f"--format {chosen.name} writes a directory; call it {out.with_suffix('')}."
            )

    @contextlib.contextmanager
    def writing(self, class_names: list[str] | None) -> Iterator[Path]:
        """Yields a path to write to; afterwards the output has its name, with its class names."""
        try:
            # A folder of our own: Keras writes to what a link of a known name leads to.
            with tempfile.TemporaryDirectory(prefix=".streamkd-", dir=self._out.parent) as folder:
                path = Path(folder) / self._out.name
                yield path
                self.num_bytes = _size(path)
                names = Path(folder, "names")
                names.write_text("".join(f"{name}\n" for name in class_names or ()))
                self._rename(path)
                if class_names is not None:
                    disk.rename_to_new(str(names), str(class_names_path(self._out)))
        except OSError as error:
            if isinstance(error, StreamkdError):  # such as an image that cannot be read
                raise
            raise OutputError(
                f"{self._out} cannot be written: {error.strerror or error}.\nGive another `--out`."
            ) from error

    def _rename(self, path: Path) -> None:
        if path.is_dir():
            path.rename(self._out)  # refuses a folder that is not empty, and a file
        else:
            disk.rename_to_new(str(path), str(self._out))

    def size_of_original(self, model: Any) -> int:
        """Returns the bytes of the original model as a `.keras` file."""
        with tempfile.TemporaryDirectory(prefix=".streamkd-", dir=self._out.parent) as folder:
            path = Path(folder, "original.keras")
            save_model(model, path)
            return path.stat().st_size


def _size(path: Path) -> int:
    """Returns the bytes of a file, or of all files of a directory."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
