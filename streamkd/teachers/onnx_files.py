"""The files beside an ONNX model that hold its weights.

paths = external_files(Path("model.onnx"))      # {"weights.bin": Path("weights.bin")}

An ONNX file may name other files for its large arrays. Those in its own directory are taken; any
other path is refused, since a model from a stranger could name any file of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from streamkd.errors import TeacherError
from streamkd.file_kinds import protobuf_fields

# Where arrays lie in a model: for each kind of message, the fields that hold messages, with their
# kind. The numbers are those of onnx.proto.
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "array", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "array", 6: "graph", 10: "array", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "array", 2: "array"},
    "array": {13: "entry"},
}
_KEY, _VALUE = 1, 2  # fields of an entry
# Graphs within graphs; a model has one or two.
_MAX_DEPTH = 60


def external_files(path: Path) -> dict[str, Path]:
    """Returns the files that a model reads its arrays from, by the names that it gives them.

    Raises:
      TeacherError: a file outside the model's directory, or no such file; or the model is damaged.
    """
    found = {}
    try:
        with path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            for name in _locations(file, "model", 0, end, 0):
                found[name] = _inside(path, name)
    except (ValueError, UnicodeDecodeError) as error:
        raise TeacherError(
            f"{path} is damaged: {error}.\nExport the model to ONNX again."
        ) from error
    return found


def _locations(file: IO[bytes], kind: str, begin: int, end: int, depth: int) -> Iterator[str]:
    """Yields the paths that the arrays of a message name."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
    for field, wire, start, stop in protobuf_fields(file, begin, end):
        part = _PARTS[kind].get(field)
        if part is None or wire != 2:
            continue
        if part == "entry":
            name = _location(file, start, stop)
            if name is not None:
                yield name
        else:
            yield from _locations(file, part, start, stop, depth + 1)


def _location(file: IO[bytes], begin: int, end: int) -> str | None:
    """Returns the value of an entry 'location'; None for another entry."""
    texts = {}
    for field, wire, start, stop in protobuf_fields(file, begin, end):
        if wire == 2:
            file.seek(start)
            texts[field] = file.read(stop - start).decode()
    return texts.get(_VALUE, "") if texts.get(_KEY) == "location" else None


def _inside(path: Path, name: str) -> Path:
    """Returns the path of a file in the model's own directory."""
    directory = path.resolve().parent
    place = (directory / name).resolve()
    if not name or os.path.isabs(name) or directory not in place.parents:
        raise TeacherError(
            f"{path} reads its weights from {name!r}, which is outside of its directory.\n"
            "Only files beside the model, or below it, are read. Export the model again with its "
            "weights in one file, or beside it."
        )
    if not place.is_file():
        raise TeacherError(
            f"{path} reads its weights from {name!r}, and there is no such file in {directory}.\n"
            "Copy that file beside the model."
        )
    return place
