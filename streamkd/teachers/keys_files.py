"""Files of keys: which image each row of logits belongs to.

    read_keys("keys.jsonl")             # [b"cat/1.png", b"dog/2.png"]

| file | keys |
|---|---|
| .npy | the array of texts |
| .txt | one key a line |
| .csv, .tsv | the column `file_name` (`key`, `path`, …), or the only column |
| any other | one JSON text or object a line, or one JSON list |
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from streamkd import json_text, small_files
from streamkd.errors import OptionError
from streamkd.keys import Keys, key_of_fields
from streamkd.manifest.tables import DELIMITERS
from streamkd.teachers.array_files import DAMAGED, is_key_name, readable


def read_keys(source: str | os.PathLike[str] | Sequence[str | bytes] | np.ndarray) -> list[bytes]:
    """Returns the keys of a file, or of a list.

    Raises:
      OptionError: the file cannot be read, or an entry is no key.
    """
    if not isinstance(source, str | os.PathLike):
        keys = source.tolist() if isinstance(source, np.ndarray | Keys) else list(source)
        wrong = next((key for key in keys if not isinstance(key, str | bytes)), None)
        if wrong is not None:
            raise OptionError(
                f"A key is {wrong!r:.80}, a {type(wrong).__name__}.\n"
                "Give each key as text, such as 'cat/1.png'."
            )
        return [os.fsencode(key) for key in keys]
    path = os.fspath(source)
    ending = os.path.splitext(path)[1].lower()
    try:
        if ending == ".npy":
            return _keys_of_array(path)
        with open(path, "rb", opener=small_files.opener) as file:
            lines = small_files.lines_of(file)
            if ending in DELIMITERS:
                return _keys_of_table(lines, DELIMITERS[ending])
            return list(_keys_of_text(lines) if ending == ".txt" else _keys_of_json(lines))
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OptionError(
            f"--keys {path} cannot be read: {reason}.\n"
            'Give one JSON text a line, such as "cat/1.png", or a file of `streamkd scan --out`; '
            "a .txt file has one key a line."
        ) from error


def _keys_of_array(path: str) -> list[bytes]:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would wait for a writer
        raise ValueError("it is no file")
    try:
        array = np.load(path, allow_pickle=False)
    except DAMAGED as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "US" or array.ndim != 1:
        raise ValueError("it is no array of texts with one axis")
    return [os.fsencode(key) for key in array.tolist()]


def _keys_of_text(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yields one key a line; a file that begins like JSON lines is read as such."""
    first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")
    every_line = itertools.chain([first], lines)
    if first.startswith((b'"', b"{")):
        yield from _keys_of_json(every_line)
        return
    for line in every_line:
        if key := line.rstrip(b"\r\n"):
            yield key


def _keys_of_json(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yields one key a JSON line; a manifest's first line is passed over, and a list is opened."""
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            if line.lstrip().startswith(b"["):
                yield from _keys_of_list(b"".join([line, *lines]))
                return
            entry = json_text.load(line.decode())
            if isinstance(entry, dict) and "format" in entry:
                continue
        if line.strip():
            yield _key_of_line(number, line)


def _keys_of_list(text: bytes) -> Iterator[bytes]:
    for number, entry in enumerate(json_text.load(text.decode()), 1):
        try:
            yield _key_of(entry)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line 1 is a list, whose entry {number} names no key") from error


def _keys_of_table(lines: Iterator[bytes], delimiter: str) -> list[bytes]:
    texts = (line.decode("utf-8-sig", "surrogateescape") for line in lines)
    rows = [row for row in csv.reader(texts, delimiter=delimiter) if row]
    if not rows:
        raise ValueError("it is empty")
    header = rows[0]
    named = [column for column, name in enumerate(header) if is_key_name(name)]
    if len(named) != 1 and (len(header) > 1 or named):
        raise ValueError(f"which of its columns {readable(header)} has the keys does not show")
    column = named[0] if named else 0
    short = next((number for number, row in enumerate(rows, 1) if len(row) != len(header)), None)
    if short is not None:
        raise ValueError(f"line {short} has {len(rows[short - 1])} columns, not {len(header)}")
    return [os.fsencode(row[column]) for row in rows[1 if named else 0 :]]


def _key_of_line(number: int, line: bytes) -> bytes:
    entry = json_text.load(line.decode())
    try:
        return _key_of(entry)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"line {number} names no key") from error


def _key_of(entry: Any) -> bytes:
    if isinstance(entry, str):
        return os.fsencode(entry)
    return key_of_fields(entry, "key" if {"key", "key_base64"} & set(entry) else "file_name")
