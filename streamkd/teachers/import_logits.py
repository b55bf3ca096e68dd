"""`import_logits`: a store of logits that are kept in an array file.

    import_logits("logits.npy", "keys.jsonl", scan("photos/train"), "teacher.h5")

Row i of the array belongs to the i-th key. Every file is read once, for its content digest.
"""

from __future__ import annotations

import csv
import itertools
import os
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

from streamkd import json_text, small_files
from streamkd.checks import check_choice
from streamkd.errors import OptionError, TeacherError, readable_key
from streamkd.keys import key_of_fields
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.models import output_kind
from streamkd.public import public
from streamkd.store.reader import LogitStore
from streamkd.teachers.key_forms import fit_keys
from streamkd.teachers.write_store import ImageBatch, write_store

ENDINGS = (".npy", ".npz", ".csv")
# What NumPy raises, besides OSError and ValueError, for headers and archives that were damaged.
_DAMAGED_NUMPY = (
    *(tokenize.TokenError, SyntaxError, TypeError, LookupError, RuntimeError, MemoryError),
    zlib.error,
)
# Number of rows that tell whether an array holds logits or probabilities.
NUM_JUDGED_ROWS = 1024


@public
def import_logits(
    logits: str | os.PathLike[str] | np.ndarray,
    keys: str | os.PathLike[str] | list[bytes] | None,
    images: Manifest | str | os.PathLike,
    out: str | os.PathLike[str],
    *,
    output: str = "auto",
    teacher: str | None = None,
    **options: Any,
) -> LogitStore:
    """Writes a store of logits that were computed before, or resumes an earlier call.

    Args:
      logits: float `[rows, num_classes]`: an array; a `.npy` file (mapped, not loaded); a `.npz`
        file with the array `logits`, or with a single array; or a `.csv` file with one line for
        each image, optionally a first line of names, and optionally a first column of keys.
      keys: one key for each row: a file of JSON lines, each a text or an object with `key` or
        `file_name` (`key_base64` for bytes that are not UTF-8), such as `scan --out` writes; None
        for a CSV file that has the keys itself.
      images: the manifest that has the keys; images without logits are left out of the store.
      out: path of the store.
      output: 'logits', 'probabilities', 'log-probabilities', or 'auto' to judge by the numbers.
      teacher: the teacher's name; by default the name of the file.
      **options: as in `write_store`.

    Raises:
      OptionError: keys and rows do not fit together, or a key is no image.
      TeacherError: numbers that cannot be logits.
      StreamkdError: anything else that does not fit; nothing that was written is lost.
    """
    images = as_manifest(images)
    check_choice("--teacher-output", output, output_kind.CHOICES)
    array, own_keys = _read_array(logits)
    row_keys = own_keys if keys is None else _read_keys(keys)
    if row_keys is None:
        raise OptionError(
            "The rows of logits have no keys, which say to which image each row belongs.\n"
            "Give a file with one key for each row: `--keys KEYS.jsonl`."
        )
    if len(row_keys) != len(array):
        raise OptionError(
            f"There are {len(array):,} rows of logits and {len(row_keys):,} keys.\n"
            "Give one key for each row, in the same order."
        )
    chosen, rows = select_listed(images, row_keys)
    if output == "auto":
        judged = np.linspace(0, len(array) - 1, min(NUM_JUDGED_ROWS, len(array))).astype(np.int64)
        output = output_kind.output_kind(np.asarray(array[judged]))
    name = teacher or (
        "array" if isinstance(logits, np.ndarray) else os.path.basename(os.fspath(logits))
    )

    def answer(batch: ImageBatch) -> np.ndarray:
        return output_kind.to_logits(array[rows[batch.indices]], output)

    return write_store(chosen, out, answer, teacher={"name": name, "output": output}, **options)


def select_listed(images: Manifest, keys: list[bytes]) -> tuple[Manifest, np.ndarray]:
    """Returns the images with these keys, and for each of them its index in `keys`, int64.

    Keys that are not those of the images are read in other ways: see `key_forms`.

    Raises:
      OptionError: a key that is listed twice, or that the images do not have.
    """
    known = set(images.keys)
    if not known.issuperset(keys):
        keys = fit_keys(images, keys)
    row_of = {key: row for row, key in enumerate(keys)}
    if len(row_of) != len(keys):
        seen: set[bytes] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise OptionError(
            f"The key '{readable_key(twice)}' is listed twice.\nList every image once.", key=twice
        )
    chosen, rows = [], []
    for index, key in enumerate(images.keys):
        if key in row_of:
            chosen.append(index)
            rows.append(row_of[key])
    return images.select(np.array(chosen, np.int64)), np.array(rows, np.int64)


def _read_array(
    source: str | os.PathLike[str] | np.ndarray,
) -> tuple[np.ndarray, list[bytes] | None]:
    """Returns an array, and the keys of a CSV file that has them; else None."""
    keys = None
    if isinstance(source, np.ndarray):
        path, array = "the array", source
    else:
        path = os.fspath(source)
        ending = os.path.splitext(path)[1].lower()
        if ending not in ENDINGS:
            raise OptionError(f"{path} ends in {ending!r}; give one of {', '.join(ENDINGS)}.")
        try:
            if ending == ".csv":
                array, keys = _read_csv(path)
            else:
                array = _read_numpy(path)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise OptionError(
                f"The logits {path} cannot be read: {reason}.\n"
                "Give a .npy, .npz or .csv file of plain numbers."
            ) from error
    if array.ndim != 2 or array.dtype.kind != "f" or array.shape[1] < 2 or not len(array):
        raise TeacherError(
            f"{path} holds {array.dtype}{list(array.shape)}, and must hold floating-point numbers "
            "[rows, num_classes].\nGive one row for each image, and at least two classes."
        )
    return array, keys


def _read_numpy(path: str) -> np.ndarray:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would wait for a writer
        raise ValueError("it is no file")
    try:
        return _load_numpy(path)
    except _DAMAGED_NUMPY as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from error


def _load_numpy(path: str) -> np.ndarray:
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        names = list(loaded)
        if "logits" not in names and len(names) != 1:
            raise ValueError(f"it has the arrays {', '.join(names)}, and none is named logits")
        return loaded["logits" if "logits" in names else names[0]]


def _read_csv(path: str) -> tuple[np.ndarray, list[bytes] | None]:
    """Returns the numbers of a CSV file, and the first column if that holds keys.

    A first line whose cells after the first are no numbers holds names, and is passed over.
    """
    with open(
        path, newline="", encoding="utf-8", errors="surrogateescape", opener=small_files.opener
    ) as file:
        lines = csv.reader(small_files.lines_of(file))
        first = next(lines, None)
        if first is None:
            raise ValueError("it is empty")
        has_names = not _are_numbers(first[1:])
        if has_names:
            first = next(lines, None)
        if first is None:
            raise ValueError("it has a line of names and no numbers")
        has_keys = not _are_numbers(first[:1])
        rows, keys = [], []
        for number, line in enumerate(itertools.chain([first], lines), 1 + has_names):
            if len(line) != len(first):
                raise ValueError(f"line {number} has {len(line)} columns, not {len(first)}")
            if has_keys:
                keys.append(os.fsencode(line[0]))
            try:
                rows.append(np.array(line[has_keys:], np.float32))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return np.stack(rows), keys if has_keys else None


def _are_numbers(cells: list[str]) -> bool:
    try:
        [float(cell) for cell in cells]
    except ValueError:
        return False
    return True


def _read_keys(source: str | os.PathLike[str] | list[bytes]) -> list[bytes]:
    """Returns the keys of a file of JSON lines; the first line of a manifest is passed over."""
    if isinstance(source, list):
        return source
    path, keys = os.fspath(source), []
    try:
        with open(path, "rb", opener=small_files.opener) as lines:
            for number, line in enumerate(small_files.lines_of(lines), 1):
                entry = json_text.load(line.decode())
                if number == 1 and isinstance(entry, dict) and "format" in entry:
                    continue
                try:
                    keys.append(_key_of(entry))
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"line {number} names no key") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(
            f"--keys {path} cannot be read: {reason}.\n"
            'Give one JSON text a line, such as "cat/1.png", or a file of `streamkd scan --out`.'
        ) from error
    return keys


def _key_of(entry: Any) -> bytes:
    if isinstance(entry, str):
        return os.fsencode(entry)
    return key_of_fields(entry, "key" if {"key", "key_base64"} & set(entry) else "file_name")
