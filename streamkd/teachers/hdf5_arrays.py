"""Arrays of an HDF5 file that somebody else wrote, read with care.

    with Hdf5Arrays("logits.h5") as arrays:
        arrays.infos                    # {"logits": ArrayInfo((30, 3), "numbers"), …}
        arrays.numbers("logits")        # float32 [30, 3], in the file if these are plain numbers
        arrays.texts("filenames")       # 30 byte strings

HDF5 can name other files (links, external storage, virtual datasets), and turn kilobytes into
terabytes. So links are not followed, what lies elsewhere is refused, compressed chunks are
unpacked here to the size that their shape has, and texts are collected in `hdf5_texts`.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import zlib

import h5py
import numpy as np

from streamkd import disk, small_files
from streamkd.teachers.array_files import ArrayInfo
from streamkd.teachers.hdf5_texts import PLACE, GlobalHeap
from streamkd.teachers.rows_on_disk import RowsOnDisk
from streamkd.teachers.tried_in_child import try_in_child

# Groups and datasets of a file; a dataset for each image of a large data set is well below.
MAX_OBJECTS = 2_000_000
MAX_DEPTH = 32
# Largest chunk, unpacked, in bytes.
MAX_CHUNK_BYTES = 256 << 20
# A compressed dataset may be so large, or so many times as large as its file.
MAX_UNPACKED_BYTES = 1 << 30
MAX_RATIO = 32
_ELSEWHERE = "is not in this file: write its numbers themselves"


def try_out(path: str | os.PathLike[str]) -> None:
    """Looks at a file in a child process, which HDF5 may end: its parser trusts what it reads.

    Raises:
      ValueError: the child was ended by a signal.
    """

    def look() -> None:
        with Hdf5Arrays(path) as arrays:
            arrays.look_at_all()

    try_in_child(look, "HDF5")


class Hdf5Arrays:
    """The arrays of one file, by their paths in it.

    Attributes:
      infos: shape and kind of each.

    Raises:
      ValueError: the file is not HDF5, or an array is not plain data inside it.
      OSError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.infos: dict[str, ArrayInfo] = {}
        self._seen: set[int] = set()
        self._path = path
        with contextlib.ExitStack() as opened:
            self._stream = opened.enter_context(open(path, "rb", opener=small_files.opener))
            status = os.fstat(self._stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no file")
            self._num_bytes = status.st_size
            try:
                # Through the open file, so that what was looked at is what is read.
                self._file = opened.enter_context(h5py.File(self._stream, "r"))
            except (OSError, RuntimeError) as error:
                raise ValueError(f"it is no HDF5 file, or damaged ({error!s:.120})") from error
            self._collect(self._file, "", 0)
            self._opened = opened.pop_all()

    def __enter__(self) -> Hdf5Arrays:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def look_at_all(self) -> None:
        """Makes the calls of HDF5 that reading makes, of all arrays."""
        for name in self.infos:
            with contextlib.suppress(ValueError, OSError, RuntimeError, TypeError):
                dataset = self._checked(name)
                dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype))
                if dataset.id.get_create_plist().get_layout() != h5py.h5d.CHUNKED:
                    dataset.id.get_offset()
                    continue
                for number in range(dataset.id.get_num_chunks()):
                    where = dataset.id.get_chunk_info(number)
                    if (
                        where.byte_offset is None
                        or where.byte_offset + where.size > self._num_bytes
                    ):
                        break
                    dataset.id.read_direct_chunk(where.chunk_offset)

    def numbers(self, name: str) -> np.ndarray | RowsOnDisk:
        """Returns an array of numbers: rows that stay in the file, or unpacked in memory."""
        dataset = self._checked(name)
        if not dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype)):
            raise ValueError(f"its dataset {name} has numbers of a kind of its own")
        layout = dataset.id.get_create_plist().get_layout()
        if layout == h5py.h5d.CONTIGUOUS and len(dataset.shape) == 2 and dataset.size:
            offset = self._offset(name, dataset, dataset.size * dataset.dtype.itemsize)
            return RowsOnDisk(self._path, self._stream, dataset.dtype, offset, dataset.shape)
        return self._elements(name, dataset, dataset.dtype)

    def texts(self, name: str) -> list[bytes]:
        """Returns the byte strings of an array of texts."""
        dataset = self._checked(name)
        kind = h5py.check_string_dtype(dataset.dtype)
        if kind.length is not None:
            padded = self._elements(name, dataset, np.dtype(f"S{kind.length}"))
            by_blanks = dataset.id.get_type().get_strpad() == h5py.h5t.STR_SPACEPAD
            return [text.rstrip(b" ") if by_blanks else text for text in padded.tolist()]
        places = self._elements(name, dataset, PLACE)
        heap = GlobalHeap(self._stream, self._num_bytes, self._file.userblock_size)
        return heap.texts(np.asarray(places).reshape(-1))

    def _collect(self, group: h5py.Group, folder: str, depth: int) -> None:
        """Adds the datasets of a group and below; links lead nowhere."""
        if depth > MAX_DEPTH:
            raise ValueError(f"its groups are nested more than {MAX_DEPTH} levels deep")
        for name in group:
            if type(group.get(name, getlink=True)) is not h5py.HardLink:
                continue
            part = group[name]
            address = h5py.h5o.get_info(part.id).addr
            if address in self._seen:
                continue
            self._seen.add(address)
            if len(self._seen) > MAX_OBJECTS:
                raise ValueError(f"it has more than {MAX_OBJECTS:,} parts")
            if isinstance(part, h5py.Group):
                self._collect(part, f"{folder}{name}/", depth + 1)
            elif isinstance(part, h5py.Dataset):
                self.infos[f"{folder}{name}"] = _info(part)

    def _checked(self, name: str) -> h5py.Dataset:
        """Returns a dataset that lies in this file alone."""
        dataset = self._file[name]
        properties = dataset.id.get_create_plist()
        if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
            raise ValueError(f"its dataset {name} {_ELSEWHERE}")
        return dataset

    def _elements(self, name: str, dataset: h5py.Dataset, dtype: np.dtype) -> np.ndarray:
        """Returns the elements as they are on the disk, `dtype` in the shape of the dataset."""
        layout = dataset.id.get_create_plist().get_layout()
        wanted = math.prod(dataset.shape) * dtype.itemsize
        if layout == h5py.h5d.CHUNKED:
            return self._unpacked(name, dataset, dtype)
        if layout == h5py.h5d.COMPACT:  # at most 64 KB, in the header
            _check_written(name, dataset, wanted)
            if dtype == PLACE:
                raise ValueError(f"its dataset {name} is in the header; write it contiguous")
            return np.asarray(dataset[()], dtype)
        data = disk.read_at(
            self._stream.fileno(), wanted, self._offset(name, dataset, wanted) if wanted else 0
        )
        if len(data) != wanted:
            raise ValueError(f"its dataset {name} was cut short while it was read")
        return np.frombuffer(data, dtype).reshape(dataset.shape)

    def _offset(self, name: str, dataset: h5py.Dataset, num_bytes: int) -> int:
        """Returns where the elements of a dataset without chunks begin in the file."""
        _check_written(name, dataset, num_bytes)
        offset = dataset.id.get_offset()
        if offset is None or offset + num_bytes > self._num_bytes:
            raise ValueError(f"its dataset {name} ends outside the file")
        return int(offset)

    def _unpacked(self, name: str, dataset: h5py.Dataset, dtype: np.dtype) -> np.ndarray:
        """Returns the elements of a dataset in chunks, all of which must be there."""
        shape, chunk_shape = dataset.shape, dataset.chunks
        chunk_bytes = math.prod(chunk_shape) * dtype.itemsize
        if chunk_bytes > MAX_CHUNK_BYTES:
            raise ValueError(f"its dataset {name} has chunks of {chunk_bytes:,} bytes")
        num_chunks = math.prod(
            -(-size // part) for size, part in zip(shape, chunk_shape, strict=True)
        )
        if dataset.id.get_num_chunks() != num_chunks:
            raise ValueError(
                f"its dataset {name} has {dataset.id.get_num_chunks():,} of {num_chunks:,} chunks; "
                "the others were never written"
            )
        wanted = math.prod(shape) * dtype.itemsize
        if wanted > max(MAX_UNPACKED_BYTES, MAX_RATIO * self._num_bytes):
            raise ValueError(f"its dataset {name} would unpack to {wanted:,} bytes")
        elements = np.empty(shape, dtype)
        for number in range(num_chunks):
            where = dataset.id.get_chunk_info(number)
            if where.byte_offset is None or where.byte_offset + where.size > self._num_bytes:
                raise ValueError(f"its dataset {name} has a chunk outside the file")
            skipped, data = dataset.id.read_direct_chunk(where.chunk_offset)
            data = _unfiltered(name, dataset, data, skipped, chunk_bytes, dtype.itemsize)
            chunk = np.frombuffer(data, dtype).reshape(chunk_shape)
            inside = tuple(
                slice(start, min(start + part, size))
                for start, part, size in zip(where.chunk_offset, chunk_shape, shape, strict=True)
            )
            target = elements[inside]
            target[...] = chunk[tuple(slice(0, size) for size in target.shape)]
        return elements


def _check_written(name: str, dataset: h5py.Dataset, num_bytes: int) -> None:
    if dataset.id.get_storage_size() != num_bytes:
        raise ValueError(f"its dataset {name} was never written")


def _info(dataset: h5py.Dataset) -> ArrayInfo:
    kind = "others"
    if dataset.shape is None:
        return ArrayInfo((), kind)
    if dataset.dtype.kind == "f":
        kind = "numbers"
    elif h5py.check_string_dtype(dataset.dtype) is not None:
        kind = "texts"
    return ArrayInfo(tuple(dataset.shape), kind)


def _unfiltered(
    name: str, dataset: h5py.Dataset, data: bytes, skipped: int, num_bytes: int, item_bytes: int
) -> bytes:
    """Returns the `num_bytes` bytes of a chunk, with its filters undone from last to first."""
    properties = dataset.id.get_create_plist()
    for number in reversed(range(properties.get_nfilters())):
        if skipped >> number & 1:
            continue
        code, _, _, words = properties.get_filter(number)
        if code == h5py.h5z.FILTER_DEFLATE:
            data = _inflated(data, num_bytes)
        elif code == h5py.h5z.FILTER_SHUFFLE:
            if len(data) == num_bytes:
                data = np.frombuffer(data, "u1").reshape(item_bytes, -1).T.tobytes()
        elif code == h5py.h5z.FILTER_FLETCHER32:
            data = data[:-4]
        else:
            raise ValueError(
                f"its dataset {name} is compressed by {words.decode('ascii', 'replace')[:40]!r}; "
                "write it with gzip, or plain"
            )
    if len(data) != num_bytes:
        raise ValueError(f"its dataset {name} has a chunk of another size")
    return data


def _inflated(data: bytes, num_bytes: int) -> bytes:
    """Returns what deflate packed, cut at a few bytes more than there should be."""
    try:
        return zlib.decompressobj().decompress(data, num_bytes + 8)
    except zlib.error as error:
        raise ValueError(f"a compressed chunk is damaged ({error})") from error
