"""Small files of our own, read with care: a disk may have damaged them, or somebody else left them.

    config = small_files.read_object(run / "config.json")            # a dict
    entries = small_files.read_objects(run / "skipped.jsonl")        # dicts, one a line
    names = small_files.entry(config, "class_names", list, None)     # config["class_names"]

What is not as it was written is a `DamagedFileError`, whose text says why; the caller says which
file it was, and what to type next. A pipe, a link, a device or an enormous file is told before a
byte is read. A file that is not there is a FileNotFoundError.

    data = small_files.read_input(path)          # a file that a user names, bounded all the same
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import IO, Any, AnyStr

from streamkd import json_text

# Largest file that is read whole, in bytes: far more than a run with a million skipped images has.
MAX_BYTES = 256 << 20
# Longest line of a table or a manifest, in characters: its first line has the names of all classes.
MAX_LINE = 16 << 20
_PIECE_BYTES = 1 << 20
_AS_UTF8 = "save it with the encoding UTF-8"

_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class DamagedFileError(ValueError):
    """A file of our own that is not as it was written."""


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """Returns what has the name `path`, such as 'a pipe'; None for a file, or for nothing."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):  # a name that the system refuses is the name of nothing
        return None
    return _kind(mode)


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> bytes:
    """Returns the bytes of a regular file.

    Raises:
      FileNotFoundError: nothing has that name.
      DamagedFileError: it is no regular file, cannot be read, or has more than `max_bytes`.
    """
    kind = kind_of(path)
    if kind is not None:
        raise DamagedFileError(f"it is {kind}, not a file")
    try:
        # O_NONBLOCK: a pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise DamagedFileError(f"it cannot be read: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        # What was looked at by name may have been replaced before it was opened.
        status = os.fstat(descriptor)
        kind = _kind(status.st_mode)
        if kind is not None:
            raise DamagedFileError(f"it is {kind}, not a file")
        try:
            # One byte more than there should be: the file may grow.
            data = file.read(status.st_size + 1) if status.st_size <= max_bytes else None
        except OSError as error:
            raise DamagedFileError(f"it cannot be read: {error.strerror}") from error
    if data is None:
        raise DamagedFileError(f"it has {status.st_size:,} bytes, and {max_bytes:,} are the most")
    return data


def opener(path: str, flags: int) -> int:
    """Opens a file as the argument `opener` of `open`; a pipe without a writer is an empty file."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    return descriptor


def read_input(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> bytes:
    """Returns the bytes of a file that a user names, which may be a link or the end of a pipe.

    Raises:
      OSError: it cannot be read, or has more than `max_bytes`.
    """
    with open(path, "rb", opener=opener) as file:
        pieces, left = [], max_bytes + 1
        while left and (piece := file.read(min(left, _PIECE_BYTES))):
            pieces.append(piece)
            left -= len(piece)
    if not left:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", str(path))
    return b"".join(pieces)


def text_of(data: bytes) -> str:
    """Returns the text in the bytes of a file that a user wrote, without a byte order mark.

    Bytes that are not UTF-8 survive as in file names ('surrogateescape').

    Raises:
      ValueError: the text is UTF-16 or UTF-32, which are not read, or no text at all.
    """
    fault = why_no_text(data)
    if fault is not None:
        raise ValueError(fault)
    return data.decode("utf-8-sig", "surrogateescape")


def why_no_text(head: bytes) -> str | None:
    """Returns why a file that begins with these bytes is no UTF-8 text; None if it may be."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return f"it is UTF-32 text; {_AS_UTF8}"
    # Text of Windows without a mark has a NUL beside each letter.
    is_wide = (
        len(head) > 1 and (not head[0]) != (not head[1]) and head[:64].count(0) * 3 > len(head[:64])
    )
    if is_wide or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"it is UTF-16 text; {_AS_UTF8}"
    return "it holds a NUL byte, and is no text" if 0 in head else None


def lines_of(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """Yields the lines of a file; ValueError for one of more than `MAX_LINE` characters.

    Damage can leave a hole of a terabyte, which would be read as one line.
    """
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
        yield from file  # faster, and no line is longer than the file
        return
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise ValueError(f"it has a line of more than {MAX_LINE:,} characters")
        yield line


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the JSON object in a file; FileNotFoundError or DamagedFileError if there is none."""
    return _object(read_bytes(path))


def read_objects(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the JSON objects in a file, one a line; errors as those of `read_object`."""
    objects = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        try:
            objects.append(_object(line))
        except DamagedFileError as error:
            raise DamagedFileError(f"line {number:,}: {error}") from error
    return objects


def entry(values: dict[str, Any], name: str, *kinds: type | None) -> Any:
    """Returns `values[name]`, or None if there is no such entry and None is one of `kinds`.

    Raises:
      DamagedFileError: the entry is of none of these kinds.
    """
    value = values.get(name)
    if value is None and None in kinds:
        return None
    # JSON's true is no number.
    if type(value) not in kinds:
        raise DamagedFileError(f"its entry {name!r} is {json_name(value)}")
    return value


def json_name(value: Any) -> str:
    """Returns what JSON calls a value, such as 'a list'."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if value is None:
        return "missing or null"
    return names.get(type(value), "a number")


def _kind(mode: int) -> str | None:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), None)


def _object(data: bytes) -> dict[str, Any]:
    try:
        # What we wrote may hold numbers that are not finite, such as the loss of a lost run.
        value = json_text.load(data, finite=False)
    except UnicodeDecodeError as error:
        raise DamagedFileError("it is no UTF-8 text") from error
    except ValueError as error:
        raise DamagedFileError(f"it is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DamagedFileError(f"it is {json_name(value)}, not an object")
    return value
