"""Manifests in files: those that streamkd writes, and tables of file names with labels.

    write(listed, Path("train.jsonl")); read(Path("train.jsonl"))
    read(Path("photos/metadata.csv"))       # columns file_name, label, weight

A table is CSV (or TSV) with a header, or JSON lines; its file names are relative to its own folder,
as in Hugging Face's `metadata.csv` and `metadata.jsonl`. Columns:
  file_name   a path below the folder of the table
  label       optional: the name of a class, or its number; empty or null for no label. A list, in
              JSON also within CSV (["cat", "dog"]), has all labels of the image; [] is none of them
  labels      optional, where there is no column label: the labels of the image, as such a list or
              as text, cat;dog
  weight      optional: the image's weight in the loss; empty or null for 1
Other columns are ignored. A file is read line by line, and no object is kept for a line.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import posixpath
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamkd import disk, json_text, small_files
from streamkd.errors import (
    ClassNamesError,
    ImagesNotFoundError,
    OptionError,
    OutputError,
    readable_names,
)
from streamkd.file_kinds import kind_of_path
from streamkd.keys import Keys, key_fields, key_of_fields
from streamkd.manifest.key_builder import KeyBuilder
from streamkd.manifest.label_cells import label_of, warn_of_separators
from streamkd.manifest.labels import LabelColumn
from streamkd.manifest.listing import UNLABELLED, Listed

# Value of `format` in the first line of a manifest.
FORMAT = "streamkd manifest"
# Names of tables in a directory, as in Hugging Face.
METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
# Delimiters of tables by the ending of the file.
DELIMITERS = {".csv": ",", ".tsv": "\t"}
# Delimiters that a header shows in place of those; Excel writes ';' where ',' is in numbers.
_OTHER_DELIMITERS = (";", "\t", ",")
# Columns that are read.
_COLUMNS = ("file_name", "label", "weight")
# First bytes of a file, which show whether it is text.
_HEAD_BYTES = 64


def read(path: Path, class_names: list[str] | None = None) -> Listed:
    """Returns the images that a manifest file lists.

    Args:
      path: a manifest that `write` wrote, or a table.
      class_names: the classes of a table in the order of their numbers.

    Raises:
      ImagesNotFoundError: the file is none of these, is damaged, or lists no images.
      ClassNamesError: a label that `class_names` does not have.
      OptionError: `class_names` for a manifest, which has its own.
    """
    try:
        listed = _read(path, class_names)
    except (ClassNamesError, OptionError):
        raise
    except OSError as error:
        raise ImagesNotFoundError(
            f"The manifest {str(path)!r} cannot be read: {error.strerror}.\n"
            "Give a directory with one folder of images a class, or a file that can be read."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        kind = kind_of_path(path)
        reason = _reason(error) if kind is None else f"it is {kind.words}"
        use = "" if kind is None else f"{kind.use}\n"
        raise ImagesNotFoundError(
            f"{str(path)!r} is neither a directory nor a manifest: {reason}.\n{use}"
            "Give a directory with one folder of images a class, a file written by `streamkd scan "
            "--out`, or a table (CSV or JSON lines) with a column file_name."
        ) from error
    if not len(listed.keys):
        raise ImagesNotFoundError(
            f"The manifest {str(path)!r} lists no images.\nGive a manifest with images."
        )
    return listed


def _reason(error: Exception) -> str:
    """Returns why a file is no manifest, without words of Python's own."""
    if isinstance(error, KeyError):
        return f"no {error}"
    if isinstance(error, json.JSONDecodeError):
        return "a line of it is no JSON object"
    if isinstance(error, TypeError | AttributeError | OverflowError):
        return "its lines are not those of a manifest"
    return str(error)


def _read(path: Path, class_names: list[str] | None) -> Listed:
    delimiter = DELIMITERS.get(path.suffix.lower())
    # 'surrogateescape' as in file names: bytes that are not UTF-8 survive.
    with (
        open(path, "rb", opener=small_files.opener) as file,
        io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as lines,
    ):
        fault = small_files.why_no_text(file.peek(_HEAD_BYTES)[:_HEAD_BYTES])
        if fault is not None:
            raise ValueError(fault)
        if delimiter:
            entries = _csv_entries(small_files.lines_of(lines), delimiter)
            return _read_table(path, entries, LabelColumn(texts=True), class_names)
        head = json_text.load(lines.readline(small_files.MAX_LINE))
        if "file_name" in head:
            lines.seek(0)
            return _read_table(
                path, _json_entries(small_files.lines_of(lines)), LabelColumn(), class_names
            )
        if class_names is not None:
            raise OptionError("A manifest has its own classes; leave class_names out.")
        return _read_own(head, small_files.lines_of(lines))


def _read_own(head: dict[str, Any], lines: Iterator[str]) -> Listed:
    """Returns the images of a manifest that `write` wrote: `head` is the first of its lines."""
    if head["format"] != FORMAT or head["version"] != 1:
        raise ValueError(f"it has format {head['format']!r}, version {head['version']!r}")
    root, class_names = os.fsencode(head["root"]), head["class_names"]
    if class_names is not None and not _are_names(class_names):
        raise ValueError("its class_names are no list of different names")
    num_classes = len(class_names or [])
    builder, column, weights = KeyBuilder(), LabelColumn(), _Weights()
    for line in lines:
        entry = json_text.load(line)
        builder.add(key_of_fields(entry, "file_name"))
        label = entry["label"]
        for number in label if isinstance(label, list) else [label]:
            if type(number) is not int:
                raise ValueError(f"it has a label {number!r}, which is no whole number")
            if not UNLABELLED <= number < num_classes:
                raise ValueError(f"it has a label {number}, and {num_classes} classes")
        column.add(label)
        weights.add(entry.get("weight"))
    if len(builder) != head["num_images"]:
        raise ValueError(f"it lists {len(builder)} of its {head['num_images']} images")
    keys = builder.keys()
    _check_keys(keys)
    fields = column.fields(class_names) | {"class_names": class_names}
    return Listed(root, keys, **fields, weights=weights.array())


def _are_names(value: Any) -> bool:
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return is_list and len(set(value)) == len(value)


def _read_table(
    path: Path,
    entries: Iterator[tuple[int, dict[str, Any]]],
    labels: LabelColumn,
    class_names: list[str] | None,
) -> Listed:
    """Returns the images of the table at `path`.

    Args:
      entries: the number of each line, and its cells by column.
      labels: an empty column that collects the labels.
      class_names: as in `read`.
    """
    builder, weights = KeyBuilder(), _Weights()
    for line, entry in entries:
        try:
            key = key_of_fields(entry, "file_name")
            if key.startswith(b"/"):
                raise ValueError(
                    f"{entry['file_name']!r} is an absolute path; it must be relative to the "
                    "folder of the table"
                )
            builder.add(posixpath.normpath(_with_slashes(path.parent, key)))
            labels.add(label_of(entry))
            weights.add(entry.get("weight"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"line {line}: {reason}") from error
    keys = builder.keys()
    _check_keys(keys)
    fields = labels.fields(class_names)
    if fields["multi_hot"] is None:
        warn_of_separators(path, fields["class_names"] or [])
    return Listed(os.fsencode(path.parent), keys, **fields, weights=weights.array())


def _with_slashes(folder: Path, key: bytes) -> bytes:
    """Returns a file name of Windows with '/' for each backslash, if only so the file is there."""
    if b"\\" not in key or os.path.lexists(os.path.join(os.fsencode(folder), key)):
        return key
    slashed = key.replace(b"\\", b"/")
    return slashed if os.path.lexists(os.path.join(os.fsencode(folder), slashed)) else key


def _csv_entries(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number of each line and its cells by column."""
    first = next(lines, "")
    for other in _OTHER_DELIMITERS:
        if "file_name" in _cells(first, other) and "file_name" not in _cells(first, delimiter):
            delimiter = other
    rows = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(rows, [])]
    _check_header(header)
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(f"line {rows.line_num}: {len(row)} cells for {len(header)} columns")
        yield rows.line_num, dict(zip(header, row, strict=True))


def _cells(line: str, delimiter: str) -> list[str]:
    """Returns the cells of the first line, without blanks around them."""
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]


def _check_header(header: list[str]) -> None:
    """Refuses a header without file names, and one with a column that would not be read."""
    if "file_name" not in header:
        raise ValueError(f"no column 'file_name'; the columns are {readable_names(header)}")
    for name in header:
        known = name.casefold()
        if known in _COLUMNS and name != known:
            raise ValueError(f"the column {name!r} is not read; write it as {known!r}")
        if known in _COLUMNS and header.count(name) > 1:
            raise ValueError(f"it has the column {name!r} twice")


def _json_entries(lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number of each line and its cells by column."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                entry = json_text.load(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(entry, dict):
                raise ValueError(f"line {number}: no JSON object")
            yield number, entry


def _check_keys(keys: Keys) -> None:
    """Refuses keys that lead out of the folder, and keys that are listed twice."""
    invalid = keys.first_invalid()
    if invalid is not None:
        index, fault = invalid
        raise ValueError(f"the file_name of image {index + 1:,} {fault}")
    order = keys.sort_order()
    if not len(order):
        return
    twice = keys.take(order).first_disorder(strictly=True)
    if twice is not None:
        first, second = sorted(order[twice - 1 : twice + 1].tolist())
        name = os.fsdecode(keys[first])
        raise ValueError(f"{name!r} is listed twice, as image {first + 1:,} and {second + 1:,}")


class _Weights:
    """The weights of images, four bytes each; nothing is kept until an image has a weight."""

    def __init__(self) -> None:
        self._values = array("f")
        self._num_images = 0

    def add(self, value: Any) -> None:
        """Adds the weight of one image; None or '' for an image without a weight."""
        self._num_images += 1
        if value is None or value == "":
            if self._values:
                self._values.append(1.0)
            return
        weight = float(value)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"a weight {value!r}; it must be a number of at least 0")
        if not self._values:
            self._values = array("f", [1.0]) * (self._num_images - 1)
        self._values.append(weight)

    def array(self) -> np.ndarray | None:
        """Returns the weights, float32 `[num_images]`; None if no image has a weight."""
        return np.array(self._values, np.float32) if self._values else None


def write(listed: Any, path: Path) -> None:
    """Writes a manifest (`Manifest` or `Listed`) as JSON lines, whole or not at all.

    Raises:
      OutputError: the manifest cannot be written, or `path` is a file of another kind.
    """
    if path.exists() and not _is_manifest(path):
        raise OutputError(
            f"{path} exists, and is no manifest.\nMove it away, or give another path."
        )
    head = {"format": FORMAT, "version": 1, "root": os.fsdecode(listed.root)}
    head |= {"class_names": listed.class_names, "num_images": len(listed.keys)}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with (
            disk.replacing(path, temporary),
            disk.open_new(temporary) as lines,
        ):
            lines.write(json.dumps(head) + "\n")
            for entry in _entries(listed):
                lines.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise OutputError(
            f"The manifest {path} cannot be written: {error.strerror}.\nGive another path."
        ) from error


def _entries(listed: Any) -> Iterator[dict[str, Any]]:
    for index, key in enumerate(listed.keys):
        label: Any = int(listed.labels[index])
        if listed.multi_hot is not None and (listed.multi_hot[index] >= 0).all():
            label = np.flatnonzero(listed.multi_hot[index]).tolist()
        entry = {**key_fields(key, "file_name"), "label": label}
        if listed.weights is not None:
            entry["weight"] = float(listed.weights[index])
        yield entry


def _is_manifest(path: Path) -> bool:
    try:
        with open(path, "rb", opener=small_files.opener) as lines:
            return FORMAT.encode() in lines.readline(4096)
    except OSError:
        return False
