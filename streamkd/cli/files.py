"""Files that flags name: read, or checked before anything heavy is imported.

files.check_out("runs/first", kind="run directory")
files.read_class_names("names.txt")                      # ["ant", "bee", "cat"]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from streamkd import json_text, small_files
from streamkd.checks import did_you_mean_file
from streamkd.errors import OptionError, OutputError, StudentError, TeacherError
from streamkd.file_kinds import kind_of_path
from streamkd.models.user_code import is_function


def read_class_names(path: str | None, flag: str = "--class-names") -> list[str] | None:
    """Returns the names in a file, one a line, without empty lines; None for no file."""
    if path is None:
        return None
    try:
        lines = small_files.text_of(small_files.read_input(path)).splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        kind = kind_of_path(path)
        use = "" if kind is None else f" It is {kind.words}. {kind.use}"
        raise OptionError(
            f"{flag} {path!r} cannot be read: {reason}.\nGive a text file, one class a line.{use}"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise OptionError(f"{flag} {path!r} holds {twice!r} twice.\nName every class once.")
    return names


def read_classes(text: str | None) -> list[str] | str | None:
    """Returns the classes that `join` takes: None, 'images', or the names in a file."""
    return text if text in (None, "images") else read_class_names(text, "--classes")


def read_teacher_class_map(path: str | None) -> dict[str, str | None] | None:
    """Returns the student's class of each of the teacher's classes; None for no file."""
    if path is None:
        return None
    from streamkd.manifest import labels

    return labels.read_class_map(path, of="teacher")


def read_labels(text: str) -> Any:
    """Returns the labels that `scan` takes: 'inferred', None for 'none', or the list in a file."""
    if text in ("inferred", "none"):
        return None if text == "none" else text
    from streamkd.manifest import labels

    if not Path(text).exists():
        raise OptionError(
            f"--labels is {text!r}, and there is no such file.\n"
            "Give inferred, none, or a file with one label an image."
        )
    return labels.read_labels(text)


def read_class_weight(text: str | None) -> Any:
    """Returns the class_weight that `fit` takes: None, 'balanced', or the table in a file."""
    if text is None or text == "balanced":
        return text
    import tomllib

    path = Path(text)
    try:
        content = small_files.text_of(small_files.read_input(path))
        table = tomllib.loads(content) if path.suffix == ".toml" else json_text.load(content)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, RecursionError):
            reason = "it is nested too deep"
        raise OptionError(
            f"--class-weight {text} cannot be read: {reason}.\n"
            'Give balanced, a JSON file such as {"cat": 2.5, "dog": 1}, or a .toml file with '
            "lines such as `cat = 2.5`."
        ) from error
    if not isinstance(table, dict):
        raise OptionError(
            f"--class-weight {text} holds a {type(table).__name__}, not a table from class names "
            'to weights.\nWrite {"cat": 2.5, "dog": 1}.'
        )
    return table


def check_model(path: str, kind: str, *, may_be_asked: bool = False) -> None:
    """Refuses a 'teacher' or 'model' that does not exist.

    A teacher, and a model that is only asked, may be an address or a function without a file.
    """
    if (kind == "teacher" or may_be_asked) and ("://" in path or is_function(path)):
        return
    if not Path(path).exists():
        refusal = TeacherError if kind == "teacher" else StudentError
        file, _, function = path.rpartition(":")
        if file.endswith(".py") and kind == "teacher":
            module = os.path.splitext(os.path.basename(file))[0]
            raise refusal(
                f"The teacher is {path}, and a function is given by its module, not by its file."
                f"\nWrite `{module}:{function}`, from the directory of the file."
            )
        ways = "the path of a saved `.keras` file, or of a run directory"
        if kind == "teacher" or may_be_asked:
            ways = (
                "a `.keras`, `.h5`, `.tflite` or `.onnx` file, a SavedModel or a run directory, an "
                "address, or module:function"
            )
        raise refusal(f"There is no {kind} at {path}.\n{did_you_mean_file(path)}Give {ways}.")


def check_out(path: str, *, kind: str, flag: str = "--out") -> None:
    """Refuses an output path that cannot be written.

    Args:
      path: the value of `flag`.
      kind: 'run directory' or 'directory', which will be made; or the word for a file, whose
        directory must exist.
      flag: the flag that the message names.
    """
    target = Path(path)
    makes_directory = kind.endswith("directory")
    folder = target if makes_directory and target.is_dir() else target.parent
    if target.is_dir() and not makes_directory:
        raise OutputError(f"{flag} {path} is a directory.\nGive the path of a file to write.")
    if target.exists() and not target.is_dir() and makes_directory:
        raise OutputError(f"{flag} {path} is a file.\nGive the path of a {kind}.")
    while makes_directory and not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(
            f"There is no directory {folder} to write {target.name} into.\n"
            f"Make it: `mkdir -p {folder}`."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"The directory {folder} cannot be written to.\nGive another `{flag}`, or change its "
            f"mode: `chmod u+w {folder}`."
        )
