"""Logits in a Parquet file: a list column, or one column of numbers for each class.

    logits, keys, class_names = read_parquet("logits.parquet", None, None, with_keys=True)

The file is read some rows at a time, and the numbers go into a temporary file without a name, which
is mapped: a file larger than memory can be imported. Needs pyarrow.
"""

from __future__ import annotations

import os
import tempfile
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from streamkd import disk
from streamkd.errors import MissingExtraError
from streamkd.teachers.array_files import DAMAGED, is_key_name, is_logits_name, readable
from streamkd.teachers.foreign_errors import first_line
from streamkd.teachers.tried_in_child import try_in_child

# Rows that are unpacked at once, and bytes of the file that are read at once.
BATCH_ROWS = 1024
BUFFER_BYTES = 1 << 20
# Numbers may unpack to so many bytes, or to so many times the size of the file.
MAX_UNPACKED_BYTES = 1 << 30
MAX_RATIO = 32


class _Chosen(NamedTuple):
    """The columns that are read: of logits, either one of lists or several of numbers."""

    lists: str | None
    numbers: list[str]
    keys: str | None

    def names(self) -> list[str]:
        named = [*self.numbers, *(name for name in (self.lists, self.keys) if name is not None)]
        return list(dict.fromkeys(named))


def read_parquet(
    path: str, wanted_logits: str | None, wanted_keys: str | None, *, with_keys: bool
) -> tuple[np.ndarray, list[bytes] | None, list[str] | None]:
    """Returns logits, float `[rows, num_classes]`, their keys, and the classes of the columns.

    Args:
      path: of the file.
      wanted_logits: name of the list column that has the logits, or None.
      wanted_keys: name of the column that has the keys, or None.
      with_keys: False if the keys come from elsewhere.

    Raises:
      ValueError, OSError: the file is not Parquet, is damaged, or its columns do not fit.
      MissingExtraError: pyarrow is not installed.
      DiskFullError: no room for the numbers in the temporary directory.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would wait for a writer
        raise ValueError("it is no file")
    pyarrow = _pyarrow(path)

    def read() -> tuple[np.ndarray, list[bytes], _Chosen]:
        with pyarrow.OSFile(os.fsencode(path)) as source:
            file = pyarrow.parquet.ParquetFile(source, buffer_size=BUFFER_BYTES, pre_buffer=False)
            chosen = _choose(pyarrow, file.schema_arrow, wanted_logits, wanted_keys, with_keys)
            _check_size(file.metadata, chosen, os.path.getsize(path))
            return *_read(pyarrow, file, chosen), chosen

    try_in_child(read, "Parquet")
    try:
        logits, keys, chosen = read()
    except (pyarrow.ArrowException, *DAMAGED) as error:
        raise ValueError(f"it is no Parquet file, or damaged ({first_line(error)})") from error
    return logits, keys if chosen.keys is not None else None, chosen.numbers or None


def _pyarrow(path: str) -> ModuleType:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{path} is a Parquet file, and the package pyarrow is not installed.\n"
            "Install it: `pip install 'streamkd[parquet]'`."
        ) from error
    return pyarrow


def _choose(
    pyarrow: Any, schema: Any, wanted_logits: str | None, wanted_keys: str | None, with_keys: bool
) -> _Chosen:
    """Returns which columns are read."""
    kinds = {field.name: _kind(pyarrow.types, field.type) for field in schema}
    if len(kinds) < len(schema.names):
        raise ValueError("two of its columns have one name")
    keys = _choose_keys(kinds, wanted_keys) if with_keys else None
    lists = [name for name, kind in kinds.items() if kind == "lists"]
    numbers = [name for name, kind in kinds.items() if kind == "numbers"]
    named = [name for name in lists if is_logits_name(name)]
    if wanted_logits is not None:
        if wanted_logits not in kinds:
            raise ValueError(
                f"it has the columns {readable(kinds)}, and --logits-dataset is {wanted_logits}"
            )
        if wanted_logits not in lists:
            raise ValueError(f"its column {wanted_logits} holds no lists of floating-point numbers")
        return _Chosen(wanted_logits, [], keys)
    for fitting in (named, lists):
        if len(fitting) == 1:
            return _Chosen(fitting[0], [], keys)
    if lists:
        raise ValueError(
            f"it has {len(lists)} columns of lists, {readable(lists)}; name the logits with "
            f"`--logits-dataset {(named or lists)[0]}`"
        )
    if not numbers:
        raise ValueError(
            f"none of its columns, {readable(kinds)}, holds floating-point numbers or lists of them"
        )
    return _Chosen(None, numbers, keys)


def _choose_keys(kinds: dict[str, str], wanted: str | None) -> str | None:
    """Returns the column of keys, or None for a file that has none."""
    texts = [name for name, kind in kinds.items() if kind == "texts"]
    if wanted is not None:
        if wanted not in kinds:
            raise ValueError(
                f"it has the columns {readable(kinds)}, and --keys-dataset is {wanted}"
            )
        if wanted not in texts:
            raise ValueError(f"its column {wanted} holds no texts")
        return wanted
    named = [name for name in texts if is_key_name(name)]
    for fitting in (named, texts):
        if len(fitting) == 1:
            return fitting[0]
    if not texts:
        return None
    raise ValueError(
        f"it has {len(named or texts)} columns that may hold keys, {readable(named or texts)}; "
        "name one: `--keys-dataset NAME`"
    )


def _kind(types: Any, kind: Any) -> str:
    """Returns 'numbers', 'lists' of them, 'texts' or 'others'."""
    kind = getattr(kind, "storage_type", kind)
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_floating(kind):
        return "numbers"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "lists" if types.is_floating(kind.value_type) else "others"
    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return "texts" if any(is_text(kind) for is_text in texts) else "others"


def _check_size(metadata: Any, chosen: _Chosen, file_bytes: int) -> None:
    """Refuses a file that says of itself that it unpacks to very much."""
    names, num_bytes = chosen.names(), 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            # Lists are a column of their own below the one that is named.
            if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in names):
                num_bytes += max(8 * column.num_values, column.total_uncompressed_size)
    if num_bytes > max(MAX_UNPACKED_BYTES, MAX_RATIO * file_bytes):
        raise ValueError(f"it would unpack to {num_bytes:,} bytes")


def _read(pyarrow: Any, file: Any, chosen: _Chosen) -> tuple[np.ndarray, list[bytes]]:
    """Returns the logits, mapped from a temporary file, and the keys."""
    keys: list[bytes] = []
    num_rows, width, dtype = 0, None, np.dtype(np.float32)
    ending = "Name another directory for temporary files: `TMPDIR=DIRECTORY streamkd import …`."
    with tempfile.TemporaryFile(prefix="streamkd-") as scratch:
        for batch in file.iter_batches(BATCH_ROWS, columns=chosen.names(), use_threads=False):
            rows = _rows(pyarrow, batch, chosen, num_rows)
            if width is None:
                width, dtype = rows.shape[1], rows.dtype
            elif rows.shape[1] != width:
                raise ValueError(
                    f"its row {num_rows + 1} has {rows.shape[1]} numbers, and its first {width}"
                )
            with disk.refusals(tempfile.gettempdir(), ending=ending, num_bytes=rows.nbytes):
                disk.write_at(scratch.fileno(), rows, num_rows * width * dtype.itemsize)
            if chosen.keys is not None:
                keys += _keys(batch, chosen.keys, num_rows)
            num_rows += len(rows)
        if not num_rows or not width:
            raise ValueError("it has no rows of numbers")
        return np.memmap(scratch, dtype, "r", 0, (num_rows, width)), keys


def _rows(pyarrow: Any, batch: Any, chosen: _Chosen, first: int) -> np.ndarray:
    """Returns the logits of some rows, float `[rows, num_classes]`; `first` rows come before."""
    if chosen.lists is None:
        columns = [_numbers(_column(batch, name), name, first, 1) for name in chosen.numbers]
        return np.stack(columns, axis=1)
    name, lists = chosen.lists, _column(batch, chosen.lists)
    if lists.null_count:
        row = first + 1 + int(np.argmax(lists.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(f"row {row} of its column {name} has no list")
    if pyarrow.types.is_fixed_size_list(lists.type):
        width = lists.type.list_size
    else:
        lengths = np.diff(lists.offsets.to_numpy())
        width = int(lengths[0])
        if (lengths != width).any():
            row = int(np.argmax(lengths != width))
            raise ValueError(
                f"row {first + row + 1} of its column {name} has {lengths[row]} numbers, and row "
                f"{first + 1} has {width}"
            )
    return _numbers(lists.flatten(), name, first, width).reshape(len(lists), width)


def _numbers(values: Any, name: str, first: int, width: int) -> np.ndarray:
    """Returns the numbers of a column, of which each row has `width`; refuses missing ones."""
    if values.null_count:
        place = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(
            f"row {first + place // width + 1} of its column {name} lacks a number (it is null)"
        )
    return values.to_numpy(zero_copy_only=False)


def _keys(batch: Any, name: str, first: int) -> list[bytes]:
    keys = _column(batch, name).to_pylist()
    if None in keys:
        raise ValueError(f"row {first + keys.index(None) + 1} of its column {name} has no key")
    return [key if isinstance(key, bytes) else key.encode() for key in keys]


def _column(batch: Any, name: str) -> Any:
    """Returns a column without the wrapping of its type."""
    column = batch.column(batch.schema.names.index(name))
    column = getattr(column, "storage", column)
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column
