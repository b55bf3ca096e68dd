"""The HDF5 metadata of a store, made in memory and copied into the file.

    metadata = hdf5_metadata.build(header.to_attributes(), specs)
    metadata.file_size                  # of the finished store
    metadata.copy_to(descriptor)

HDF5 itself never touches the file that becomes the store: on a full disk it ends the process with
a segmentation fault. It writes into a sparse file in memory, whose few written kilobytes are
copied once disk space for the whole store is reserved.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from io import FileIO
from typing import Any

import h5py
import numpy as np

from streamkd import disk
from streamkd.store import userblock
from streamkd.store.layout import DatasetSpec
from streamkd.store.userblock import HDF5_SIGNATURE, USERBLOCK_BYTES

# Alignment of every dataset, in bytes. Each starts on a new page: a torn write to `done` can reach
# no static byte, and rows are aligned for the memory map.
_ALIGNMENT_BYTES = 4096
# Largest size of userblock, superblock and root group, in bytes; in fact they take 70 KB.
_MAX_OTHER_BYTES = 256 << 10


class Hdf5Metadata:
    """The metadata of a store that does not exist yet.

    Attributes:
      file_size: of the store, in bytes.
      extents: first byte and number of bytes of each dataset.
    """

    def __init__(self, scratch: _ScratchFile, extents: dict[str, tuple[int, int]]) -> None:
        self._scratch = scratch
        self.extents = extents
        self.file_size = os.fstat(scratch.fileno()).st_size

    def metadata_digest(self) -> str:
        """Returns the digest of all bytes behind the userblock that lie in no dataset."""
        return userblock.metadata_digest(self._read, self.file_size, self.extents)

    def copy_to(self, descriptor: int) -> None:
        """Writes the metadata into a file of zeros, between the datasets."""
        for start, end in userblock.metadata_ranges(self.file_size, self.extents):
            disk.write_at(descriptor, self._read(start, end - start), start)

    def close(self) -> None:
        """Frees the memory."""
        self._scratch.close()

    def _read(self, offset: int, num_bytes: int) -> bytes:
        return disk.read_at(self._scratch.fileno(), num_bytes, offset)


def room_for(
    attributes: Mapping[str, np.int64 | np.bytes_], specs: Mapping[str, DatasetSpec]
) -> int:
    """Returns a number of bytes that a store with these attributes and datasets fits into."""
    data = sum(spec.num_bytes + 2 * _ALIGNMENT_BYTES for spec in specs.values())
    return data + 2 * sum(value.nbytes for value in attributes.values()) + _MAX_OTHER_BYTES


def build(
    attributes: Mapping[str, np.int64 | np.bytes_], specs: Mapping[str, DatasetSpec]
) -> Hdf5Metadata:
    """Returns the metadata of an HDF5 file with these root attributes and datasets."""
    scratch = _scratch_file()
    try:
        with _create_hdf5(scratch) as file:
            for name, value in attributes.items():
                file.attrs.create(name, value)
            extents = {name: _create_dataset(file.id, name, spec) for name, spec in specs.items()}
        if scratch.error is not None:
            raise scratch.error
        head = disk.read_at(scratch.fileno(), 9, USERBLOCK_BYTES)
        # Superblock 0 has no "open for writing" flag that a crash could leave behind.
        assert head == HDF5_SIGNATURE + b"\0", f"HDF5 wrote another superblock: {head!r}"
        metadata = Hdf5Metadata(scratch, extents)
        assert metadata.file_size <= room_for(attributes, specs), (
            "HDF5 needs more bytes than room_for says"
        )
        return metadata
    except BaseException:
        scratch.close()
        raise


class _ScratchFile(FileIO):
    """An unnamed file that keeps its first `error`, and tells HDF5 that every call succeeded.

    An error would leave the file open in HDF5: a segmentation fault when the process ends.
    """

    error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._kept(lambda: super(_ScratchFile, self).seek(offset, whence), offset)

    def write(self, data: Any) -> int:
        num_bytes = memoryview(data).nbytes
        return self._kept(lambda: super(_ScratchFile, self).write(data), num_bytes)

    def truncate(self, size: int | None = None) -> int:
        return self._kept(lambda: super(_ScratchFile, self).truncate(size), size or 0)

    def _kept(self, call: Callable[[], int | None], success: int) -> int:
        """Returns the result of `call`; keeps its error and returns `success` if it failed."""
        try:
            return call() or 0
        except OSError as error:
            self.error = self.error or error
            return success


def _scratch_file() -> _ScratchFile:
    """Returns an unnamed sparse file: terabytes long, it takes memory for written bytes only."""
    if hasattr(os, "memfd_create"):
        return _ScratchFile(os.memfd_create("streamkd"), "r+")
    with tempfile.TemporaryFile() as file:
        return _ScratchFile(os.dup(file.fileno()), "r+")


def _create_hdf5(scratch: _ScratchFile) -> h5py.File:
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_userblock(USERBLOCK_BYTES)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, scratch)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)
    access.set_alignment(1, _ALIGNMENT_BYTES)
    name = repr(scratch).encode("ascii", "replace")
    return h5py.File(h5py.h5f.create(name, h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access))


def _create_dataset(file: h5py.h5f.FileID, name: str, spec: DatasetSpec) -> tuple[int, int]:
    """Creates a dataset, writes no value, and returns the dataset's extent."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # dates would make two equal stores differ
    kind = h5py.h5t.py_create(np.dtype(spec.dtype))
    space = h5py.h5s.create_simple(spec.shape)
    dataset = h5py.h5d.create(file, name.encode(), kind, space, dcpl=properties)
    # An empty dataset has no extent; HDF5 gives an offset that means nothing.
    return (dataset.get_offset(), spec.num_bytes) if spec.num_bytes else (0, 0)
