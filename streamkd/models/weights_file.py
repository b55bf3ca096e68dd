"""The weights of a model file are plain arrays inside the file, or the file is refused.

num_weights = check_weights(file, UntrustedModelError, DamagedModelError)

HDF5 can name other files (external links and storage, virtual datasets), compress, and declare
arrays for which it holds no bytes.
"""

from __future__ import annotations

import io
import math
import os
from typing import IO, Any

# Objects in the file; a network of a thousand layers has about ten thousand.
MAX_OBJECTS = 1_000_000
MAX_DEPTH = 100


class PartOfFile(io.RawIOBase):
    """Some bytes of a file, read in any order, as `h5py` reads them."""

    def __init__(self, file: IO[bytes], begin: int, num_bytes: int) -> None:
        self._file, self._begin, self._num_bytes = file, begin, num_bytes
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._num_bytes}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer)[: max(self._num_bytes - self._place, 0)]
        self._file.seek(self._begin + self._place)
        data = self._file.read(len(wanted))
        wanted[: len(data)] = data
        self._place += len(data)
        return len(data)


def check_weights(
    file: IO[bytes] | io.RawIOBase, untrusted: type[Exception], damaged: type[Exception]
) -> int:
    """Returns the number of weights of an HDF5 file.

    Raises:
      untrusted: it reads another file.
      damaged: it is no HDF5 file, or an array is no plain array within it.
    """
    import h5py

    num_bytes = file.seek(0, os.SEEK_END)
    try:
        with h5py.File(file, "r") as weights:
            return _WeightsCheck(num_bytes, untrusted, damaged).count(weights)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, untrusted | damaged):
            raise
        raise damaged(f"its weights cannot be read: {error!s:.200}") from error


class _WeightsCheck:
    def __init__(
        self, num_bytes: int, untrusted: type[Exception], damaged: type[Exception]
    ) -> None:
        self._untrusted, self._damaged = untrusted, damaged
        self._num_bytes_left = num_bytes
        self._seen: set[int] = set()

    def count(self, group: Any, depth: int = 0) -> int:
        """Returns the number of weights in a group and below."""
        import h5py

        if depth > MAX_DEPTH:
            raise self._damaged(f"its weights are nested more than {MAX_DEPTH} levels deep")
        total = 0
        for name in group:
            if len(self._seen) >= MAX_OBJECTS:
                raise self._damaged(f"its weights have over {MAX_OBJECTS:,} parts")
            if type(group.get(name, getlink=True)) is not h5py.HardLink:
                raise self._untrusted(f"its weights {name!r:.80} are a link, not an array")
            part = group[name]
            address = h5py.h5o.get_info(part.id).addr
            if address in self._seen:
                raise self._damaged(f"its weights {name!r:.80} stand under two names")
            self._seen.add(address)
            if isinstance(part, h5py.Group):
                total += self.count(part, depth + 1)
            else:
                total += self._size(part, name)
        return total

    def _size(self, part: Any, name: str) -> int:
        import h5py

        # Of kind V are bfloat16 and the types of one byte; larger ones may be anything.
        is_number = isinstance(part, h5py.Dataset) and (
            part.dtype.kind in "fiubc" or (part.dtype.kind == "V" and part.dtype.itemsize <= 2)
        )
        if not is_number:
            raise self._damaged(f"its weights {name!r:.80} are not numbers")
        if part.external or part.is_virtual:
            raise self._untrusted(f"its weights {name!r:.80} are read from another file")
        num_weights = math.prod(part.shape or ())
        layout = part.id.get_create_plist().get_layout()
        is_plain = layout in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
        held = part.id.get_storage_size()
        if not is_plain or held < num_weights * part.dtype.itemsize:
            raise self._damaged(
                f"its weights {name!r:.80} are {num_weights:,} numbers, of which the file holds "
                f"{held:,} bytes as a plain array"
                if is_plain
                else f"its weights {name!r:.80} are compressed or in chunks"
            )
        self._num_bytes_left -= num_weights * part.dtype.itemsize
        if self._num_bytes_left < 0:
            raise self._damaged("its weights lie over each other")
        return num_weights
