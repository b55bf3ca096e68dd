"""Rows of numbers that stay in the file that somebody else wrote, and are read some at a time.

    array = RowsOnDisk("logits.npy", file, "<f4", 128, (1_000_000, 1000))
    array[np.array([7, 3])]                      # float32 [2, 1000]

They are read, not mapped: a mapped file that another program cuts short would end the process.
"""

from __future__ import annotations

import io
import math
import os
import weakref

import numpy as np

from streamkd import disk
from streamkd.errors import OptionError


class RowsOnDisk:
    """Numbers `[rows, columns]` in a file; indexed by numbers of rows, int64 `[B]`.

    Attributes:
      shape, dtype, ndim, size: as an array has them.

    Raises:
      ValueError: the file is shorter than its numbers, or a length is below 0.
    """

    ndim = 2

    def __init__(
        self,
        path: str | os.PathLike[str],
        file: io.BufferedIOBase,
        dtype: np.dtype,
        offset: int,
        shape: tuple[int, int],
        *,
        by_columns: bool = False,
    ) -> None:
        """Keeps the file open.

        Args:
          path: of the file, for messages.
          file: the file; it may be closed afterwards.
          dtype: of the numbers.
          offset: of the first number, in bytes.
          shape: numbers of rows and columns.
          by_columns: whether one column lies behind the other, instead of the rows.
        """
        self.path, self.dtype, self.shape = os.fspath(path), np.dtype(dtype), shape
        if min(shape) < 0:
            raise ValueError(f"its numbers have the shape {list(shape)}")
        self.size = math.prod(shape)
        self._offset, self._by_columns = offset, by_columns
        self._end = offset + self.size * self.dtype.itemsize
        self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        num_bytes = os.fstat(self._descriptor).st_size
        if num_bytes < self._end:
            raise ValueError(f"it has {num_bytes:,} bytes, and its numbers end at {self._end:,}")

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(len(self))].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Returns single rows, `[B, columns]`.

        Raises:
          OptionError: the file cannot be read any more, or was cut short.
        """
        if isinstance(rows, tuple):  # for an array, one number an axis
            raise TypeError("whole rows are read, by their numbers")
        rows, (num_rows, num_columns) = np.asarray(rows, np.int64), self.shape
        if not self._by_columns:
            return self._pieces(rows, num_columns).reshape(len(rows), num_columns)
        places = np.arange(num_columns)[:, None] * num_rows + rows
        return self._pieces(places.reshape(-1), 1).reshape(num_columns, len(rows)).T

    def _pieces(self, numbers: np.ndarray, length: int) -> np.ndarray:
        """Returns pieces of `length` elements, joined; those that follow another are read at once.

        Args:
          numbers: of the pieces, int64 `[P]`, counted from the first in the file.
          length: of each.
        """
        num_bytes = length * self.dtype.itemsize
        first = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
        lengths = np.diff(first, append=len(numbers)) * num_bytes
        starts = self._offset + numbers[first] * num_bytes
        try:
            data = b"".join(
                disk.read_at(self._descriptor, size, start)
                for start, size in zip(starts.tolist(), lengths.tolist(), strict=True)
            )
            file_bytes = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise OptionError(
                f"The logits {self.path} cannot be read: {os.strerror(error.errno or 0)}.\n"
                "Look at the disk (`dmesg`), or copy the file to another one."
            ) from error
        if len(data) != num_bytes * len(numbers):
            raise OptionError(
                f"The logits {self.path} were cut short to {file_bytes:,} of {self._end:,} bytes "
                "while they were read.\n"
                "Restore the file, and give the same command again; it resumes."
            )
        return np.frombuffer(data, self.dtype)
