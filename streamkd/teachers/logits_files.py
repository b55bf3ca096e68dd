"""Files of logits, as other programs write them: NumPy, CSV, HDF5 and Parquet.

    table = read_logits("logits.h5")
    table.logits, table.keys, table.class_names         # keys and classes are None without any

| file | logits | keys |
|---|---|---|
| .npy | the array | |
| .npz, .h5, .hdf5 | the array `logits`, or the only one of its shape | as many texts, if any |
| .npz, .h5, .hdf5 | one array of logits for each image | the names of the arrays |
| .csv, .tsv | the columns of numbers | a column such as `file_name`, or the first one |
| .parquet | the list column `logits`, or the only one of lists | a column such as `file_name` |
| .parquet | the columns of floating-point numbers | a column such as `file_name` |
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, NamedTuple

import numpy as np

from streamkd import small_files
from streamkd.errors import OptionError, StreamkdError, TeacherError
from streamkd.manifest.tables import DELIMITERS
from streamkd.store.layout import FORMAT_NAME
from streamkd.teachers.array_files import (
    DAMAGED,
    ArrayInfo,
    choose_class_names,
    choose_keys,
    choose_logits,
    is_key_name,
    is_row_each,
    readable,
)
from streamkd.teachers.rows_on_disk import RowsOnDisk

HDF5_ENDINGS = (".h5", ".hdf5", ".hdf")
PARQUET_ENDINGS = (".parquet", ".pq")
ENDINGS = (".npy", ".npz", *DELIMITERS, *HDF5_ENDINGS, *PARQUET_ENDINGS)
# A cell of a count, of the number of a class or the like.
_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
# Files that run code when they are opened.
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill")


@dataclasses.dataclass(frozen=True)
class LogitsTable:
    """Logits, float `[rows, num_classes]`, and where the file has them one key for each row.

    The class names are those of the columns, or None. Whole columns are the numbers of the columns
    that a table of text writes without a point, beside others with one.
    """

    logits: np.ndarray | RowsOnDisk
    keys: list[bytes] | None = None
    class_names: list[str] | None = None
    whole_columns: frozenset[int] = frozenset()


def read_logits(
    source: str | os.PathLike[str] | np.ndarray,
    logits_dataset: str | None = None,
    keys_dataset: str | None = None,
    *,
    with_keys: bool = True,
) -> LogitsTable:
    """Returns the logits of a file or an array.

    Args:
      source: the file, or the array itself.
      with_keys: False if the keys come from elsewhere, so that none are looked for.
      logits_dataset: name of the array of logits, for a file of several.
      keys_dataset: name of the array, or of the column, that has the keys.

    Raises:
      OptionError: the file cannot be read, or the names do not fit.
      TeacherError: numbers that cannot be logits.
    """
    if isinstance(source, np.ndarray):
        table, path = LogitsTable(source), "the array"
    else:
        path = os.fspath(source)
        reader = _reader(path, logits_dataset, keys_dataset)
        try:
            table = reader(path, _Wanted(logits_dataset, keys_dataset, with_keys))
        except StreamkdError:
            raise
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise OptionError(
                f"The logits {path} cannot be read: {reason}.\n"
                "Give a .npy, .npz, .csv, .h5 or .parquet file of plain numbers."
            ) from error
    logits = table.logits
    if logits.ndim != 2 or logits.dtype.kind != "f" or not logits.size:
        raise TeacherError(
            f"{path} holds {logits.dtype}{list(logits.shape)}, and must hold floating-point "
            "numbers [rows, num_classes].\nGive one row for each image, and one column for each "
            "class, or a single one for two classes."
        )
    return table


class _Wanted(NamedTuple):
    """The names that the user gave, and whether the file's own keys are asked for."""

    logits: str | None
    keys: str | None
    with_keys: bool


Reader = Callable[[str, _Wanted], LogitsTable]


def _reader(path: str, logits_dataset: str | None, keys_dataset: str | None) -> Reader:
    """Returns the function that reads files with the ending of `path`."""
    ending = os.path.splitext(path)[1].lower()
    if ending in PICKLES:
        raise OptionError(
            f"{path} ends in {ending!r}, and opening such a file runs code in it.\n"
            "Write plain arrays where it was made: "
            "`np.savez('logits.npz', logits=logits, keys=file_names)`."
        )
    if ending not in ENDINGS:
        raise OptionError(
            f"{path} ends in {ending!r}; give one of {', '.join(ENDINGS)}.\n"
            "Write it anew where it was made: "
            "`np.savez('logits.npz', logits=logits, keys=file_names)`."
        )
    has_arrays = ending in (".npz", *HDF5_ENDINGS, *PARQUET_ENDINGS)
    for flag, name, fits in (
        ("--logits-dataset", logits_dataset, has_arrays),
        ("--keys-dataset", keys_dataset, has_arrays or ending in DELIMITERS),
    ):
        if name is not None and not fits:
            raise OptionError(
                f"{flag} is {name}, and the parts of {path} have no names.\nLeave {flag} out."
            )
    if ending in DELIMITERS:
        return _read_csv
    if ending in PARQUET_ENDINGS:
        return _read_parquet
    return _read_hdf5 if ending in HDF5_ENDINGS else _read_numpy


def _read_numpy(path: str, wanted: _Wanted) -> LogitsTable:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would wait for a writer
        raise ValueError("it is no file")
    try:
        if (array := _array_on_disk(path)) is not None:
            return LogitsTable(array)
        with np.load(path, allow_pickle=False) as loaded:
            return _chosen(
                _npz_infos(path),
                loaded.__getitem__,
                lambda name: [os.fsencode(text) for text in loaded[name].tolist()],
                wanted,
            )
    except DAMAGED as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from error


def _array_on_disk(path: str) -> RowsOnDisk | np.ndarray | None:
    """Returns the array of a `.npy` file, in the file if it has two axes; None for other files."""
    with open(path, "rb", opener=small_files.opener) as file:
        is_array = file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
        file.seek(0)
        if not is_array:
            return None
        shape, by_columns, dtype = _array_header(file)
        if len(shape) == 2 and not dtype.hasobject and dtype.itemsize:
            return RowsOnDisk(path, file, dtype, file.tell(), shape, by_columns=by_columns)
    return np.load(path, mmap_mode="r", allow_pickle=False)  # of another shape, to be refused


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, whether columns lie behind each other, and dtype of an array of NumPy."""
    is_first_version = np.lib.format.read_magic(file) == (1, 0)
    read = np.lib.format.read_array_header_1_0
    return read(file) if is_first_version else np.lib.format.read_array_header_2_0(file)


def _npz_infos(path: str) -> dict[str, ArrayInfo]:
    """Returns what the headers of the arrays say, without the arrays."""
    kinds = {"f": "numbers", "U": "texts", "S": "texts"}
    infos = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.endswith(".npy"):
                continue
            with archive.open(name) as file:
                shape, _, dtype = _array_header(file)
            infos[name.removesuffix(".npy")] = ArrayInfo(shape, kinds.get(dtype.kind, "others"))
    return infos


def _read_hdf5(path: str, wanted: _Wanted) -> LogitsTable:
    from streamkd.teachers.hdf5_arrays import Hdf5Arrays, try_out

    with open(path, "rb", opener=small_files.opener) as file:
        if file.read(len(FORMAT_NAME)) == FORMAT_NAME.encode():
            raise ValueError("it is a logit store already; give it as `--store`")
    try_out(path)
    try:
        with Hdf5Arrays(path) as arrays:
            return _chosen(arrays.infos, arrays.numbers, arrays.texts, wanted)
    except DAMAGED as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from error


def _read_parquet(path: str, wanted: _Wanted) -> LogitsTable:
    from streamkd.teachers.parquet_logits import read_parquet

    return LogitsTable(*read_parquet(path, wanted.logits, wanted.keys, with_keys=wanted.with_keys))


def _chosen(
    infos: Mapping[str, ArrayInfo],
    numbers: Callable[[str], np.ndarray | RowsOnDisk],
    texts: Callable[[str], list[bytes]],
    wanted: _Wanted,
) -> LogitsTable:
    """Returns the table in a file of named arrays, read by two functions."""
    if wanted == (None, None, True) and is_row_each(infos):
        return LogitsTable(
            np.stack([np.asarray(numbers(name)) for name in infos]), [*map(os.fsencode, infos)]
        )
    name = choose_logits(infos, wanted.logits)
    shape, kind = infos[name]
    if kind != "numbers" or len(shape) != 2:
        raise ValueError(f"its array {name} is no array of floating-point numbers with two axes")
    keys = choose_keys(infos, wanted.keys, shape[0]) if wanted.with_keys else None
    if keys is not None and infos[keys].kind != "texts":
        raise ValueError(f"its array {keys} is no array of texts")
    classes = choose_class_names(infos, shape[1])
    return LogitsTable(
        numbers(name),
        None if keys is None else texts(keys),
        None if classes is None else [os.fsdecode(text) for text in texts(classes)],
    )


def _read_csv(path: str, wanted: _Wanted) -> LogitsTable:
    """Returns the numbers of a CSV file, the column of keys, and the names of the others.

    A first line holds names if its first cell is a name of keys, or the others are no numbers.
    """
    delimiter = DELIMITERS[os.path.splitext(path)[1].lower()]
    with open(
        path, newline="", encoding="utf-8-sig", errors="surrogateescape", opener=small_files.opener
    ) as file:
        lines = csv.reader(small_files.lines_of(file), delimiter=delimiter)
        first = next(lines, None)
        if first is None:
            raise ValueError("it is empty")
        header = None
        is_named = is_key_name(first[0]) and "/" not in first[0]
        if is_named or not _are_numbers(first[1:]):
            header, first = first, next(lines, None)
        if first is None:
            raise ValueError("it has a line of names and no numbers")
        key_column, columns = _columns(header, first, wanted)
        rows, keys, whole = [], [], set(columns)
        for number, line in enumerate(itertools.chain([first], lines), 1 + (header is not None)):
            if len(line) != len(first):
                raise ValueError(f"line {number} has {len(line)} columns, not {len(first)}")
            if key_column is not None:
                keys.append(os.fsencode(line[key_column]))
            whole = {column for column in whole if _WHOLE.fullmatch(line[column])}
            try:
                rows.append(np.array([line[column] for column in columns], np.float32))
            except ValueError:
                raise ValueError(_no_number(number, header, line, columns)) from None
    names = None if header is None else [header[column] for column in columns]
    whole_columns = frozenset(place for place, column in enumerate(columns) if column in whole)
    if len(whole_columns) == len(columns):
        whole_columns = frozenset()
    return LogitsTable(np.stack(rows), None if key_column is None else keys, names, whole_columns)


def _no_number(number: int, header: list[str] | None, line: list[str], columns: list[int]) -> str:
    """Returns what a message says of the first cell of a line that is no number."""
    column = next(column for column in columns if not _are_numbers([line[column]]))
    name = column + 1 if header is None else repr(header[column])
    return f"line {number}: its column {name} holds {line[column]!r:.80}, which is no number"


def _columns(
    header: list[str] | None, first: list[str], wanted: _Wanted
) -> tuple[int | None, list[int]]:
    """Returns the column of keys or None, and the columns of logits.

    Args:
      header: the names of the columns, or None.
      first: the first line of numbers.
      wanted: may name the column of keys.
    """
    columns = list(range(len(first)))
    if header is not None and len(header) != len(first):
        raise ValueError(f"line 2 has {len(first)} columns, not {len(header)}")
    names = header or []
    if wanted.keys is not None and wanted.keys not in names:
        raise ValueError(
            f"it has the columns {readable(names)}, and --keys-dataset is {wanted.keys}"
        )
    named = [column for column, name in enumerate(names) if is_key_name(name)]
    named = [column for column in named if not _are_numbers([first[column]])]
    if wanted.keys is not None:
        named = [names.index(wanted.keys)]
    if len(named) > 1 and wanted.with_keys:
        raise ValueError(
            f"it has {len(named)} columns that may hold keys, "
            f"{readable([names[column] for column in named])}; name one: `--keys-dataset NAME`"
        )
    if not named:
        has_keys = not _are_numbers(first[:1])
        return (0, columns[1:]) if has_keys else (None, columns)
    # The first column of pandas counts the lines, and has no name.
    counted = [0] if names[0] in ("", "Unnamed: 0") and named != [0] else []
    others = [column for column in columns if column not in (*named, *counted)]
    # A column of words, such as the name of the predicted class; an empty cell stays a fault.
    return named[0], [c for c in others if not first[c].strip() or _are_numbers([first[c]])]


def _are_numbers(cells: list[str]) -> bool:
    try:
        [float(cell) for cell in cells]
    except ValueError:
        return False
    return True
