"""StoreFile: the checks before a store is believed, and access to its bytes afterwards.

    with StoreFile("teacher.h5") as file:
        file.header.num_images
        file.read("done", 0, 64)        # uint8 [64, num_views]

A store received from someone else is data, not code. The userblock is checked first, then the size
of the file, the extent of each dataset, and the digest of the metadata. Only then does HDF5 see the
file, through the same descriptor, to tell whether it holds exactly the datasets that the userblock
names. HDF5 is closed at once; rows are read from the mapped file or by `pread`. A digest stops
damage, not malice: examine a file of unknown origin in a separate process.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import weakref
from collections.abc import Iterator
from typing import Any, get_args

import h5py
import numpy as np

from streamkd import disk
from streamkd.checks import did_you_mean_file
from streamkd.errors import OptionError, StoreError, StreamkdError
from streamkd.file_access import Io, default_store_io
from streamkd.keys import Keys
from streamkd.store import userblock
from streamkd.store.layout import (
    FORMAT_NAME,
    FORMAT_VERSION,
    STATIC_DATASETS,
    DatasetSpec,
    StoreHeader,
    dataset_specs,
)
from streamkd.store.userblock import USERBLOCK_BYTES, Userblock, damaged, not_a_store


class StoreFile:
    """A store that passed all checks, open for reading its datasets.

    Safe in threads and across `fork`: no position, no lock, no HDF5 handle.

    Attributes:
      path: as text.
      descriptor: of the file; open for writing too if `writable`.
      userblock: where each dataset lies.
      header: everything that was known before the first row.
      is_mapped: whether rows are read from the mapped file, else by `pread`.

    Raises:
      DamagedStoreError: a store, changed since it was written.
      StoreError: no such file, no store, or not readable.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, io: Io | None = None, writable: bool = False
    ) -> None:
        io = default_store_io() if io is None else io
        if io not in get_args(Io):
            raise OptionError(f"io is {io!r}; choose one of {', '.join(get_args(Io))}.")
        self.path = os.fspath(path)
        self._map: mmap.mmap | None = None
        self.descriptor = _open_descriptor(self.path, writable)
        # Unlike `__del__`, this also works while the interpreter shuts down.
        self._closing = weakref.finalize(self, os.close, self.descriptor)
        try:
            self.userblock = _check_bytes(self.path, self.descriptor)
            self.header = _check_hdf5(self.path, self.descriptor, self.userblock)
            if io == "mmap":
                with _readable(self.path):
                    self._map = disk.map_for_reading(self.descriptor, self.userblock.file_size)
            self.is_mapped = self._map is not None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> StoreFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the descriptor; arrays already handed out stay valid."""
        self._closing()
        self.descriptor = -1

    def spec(self, name: str) -> DatasetSpec:
        """Returns type and shape of a dataset."""
        return self.userblock.datasets[name]

    def offset(self, name: str, index: int = 0) -> int:
        """Returns the first byte in the file of entry `index` along the first axis."""
        return self.userblock.extents[name][0] + index * self.entry_bytes(name)

    def entry_bytes(self, name: str) -> int:
        """Returns the bytes of one entry along the first axis."""
        spec = self.spec(name)
        return DatasetSpec(dtype=spec.dtype, shape=spec.shape[1:]).num_bytes

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns entries `start` to `stop` of a dataset, mapped where the file is mapped."""
        spec = self.spec(name)
        stop = spec.shape[0] if stop is None else stop
        shape = (stop - start, *spec.shape[1:])
        offset = self.offset(name, start)
        num_bytes = DatasetSpec(dtype=spec.dtype, shape=shape).num_bytes
        if not num_bytes:
            return np.empty(shape, spec.dtype)
        if self._map is not None:
            self.check_length()
            return np.ndarray(shape, spec.dtype, self._map, offset)
        data = self.read_bytes(offset, num_bytes)
        if len(data) != num_bytes:
            raise damaged(self.path, f"it ends inside of dataset '{name}'")
        return np.frombuffer(data, spec.dtype).reshape(shape)

    def read_rows(self, name: str, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns single entries of a dataset, `[B, *shape]`; an unmapped file is read B times.

        `indices` are int64 `[B]`, counted in entries of `shape`, the last axes of the dataset.
        """
        spec = self.spec(name)
        if self._map is not None:
            return self.read(name).reshape(-1, *shape)[indices]
        num_bytes = DatasetSpec(dtype=spec.dtype, shape=shape).num_bytes
        start = self.offset(name)
        data = b"".join(
            self.read_bytes(start + index * num_bytes, num_bytes) for index in indices.tolist()
        )
        if len(data) != num_bytes * len(indices):
            raise damaged(self.path, f"it ends inside of dataset '{name}'")
        return np.frombuffer(data, spec.dtype).reshape(len(indices), *shape)

    def check_length(self) -> None:
        """Refuses a file that was cut short since it was opened, as by a copy over it.

        Reading its map would end the process with SIGBUS, without a word.
        """
        if self.descriptor < 0:  # closed
            return
        with _readable(self.path):
            file_size = os.fstat(self.descriptor).st_size
        if file_size < self.userblock.file_size:
            raise damaged(
                self.path,
                f"it was cut short to {file_size:,} of {self.userblock.file_size:,} bytes while it "
                "was read",
            )

    def read_keys(self) -> Keys:
        """Returns the keys of all images."""
        return Keys(self.read("key_bytes"), self.read("key_offsets"))

    def read_class_names(self) -> Keys:
        """Returns the class names as stored; see `layout.decode_class_names`."""
        return Keys(self.read("class_bytes"), self.read("class_offsets"))

    def read_bytes(self, offset: int, num_bytes: int) -> bytes:
        """Returns bytes of the file as they are on disk, fewer only where it ends."""
        return _read_bytes(self.path, self.descriptor, offset, num_bytes)

    def check_static(self, *names: str) -> None:
        """Refuses the store if a static dataset does not have its digest."""
        for name in names:
            offset, num_bytes = self.userblock.extents[name]
            extent = [(offset, offset + num_bytes)]
            digest = userblock.digest_of_ranges(self.read_bytes, extent)
            if digest != self.userblock.static_digests[name]:
                raise damaged(self.path, f"dataset '{name}' does not have its digest")


def _open_descriptor(path: str, writable: bool) -> int:
    """Returns a descriptor of a regular file; any error of the system is a StoreError."""
    try:
        # O_NONBLOCK: a named pipe would wait for a writer for ever.
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise StoreError(
                f"There is no logit store {path}: no such file.\n{did_you_mean_file(path)}"
                f"Make it with `streamkd teach IMAGES --teacher T --out {path}`."
            ) from error
        if error.errno == errno.EISDIR:
            raise not_a_store(path, "a directory") from error
        raise StoreError(
            f"The logit store {path} cannot be opened for {'writing' if writable else 'reading'}: "
            f"{os.strerror(error.errno or 0)}.\n"
            "Change its permissions, or copy it to a directory of your own."
        ) from error
    try:
        with _readable(path):
            mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise not_a_store(path, "a directory" if stat.S_ISDIR(mode) else "not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turns an error of the system while a store is read into a message; it is no damage."""
    try:
        yield
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Any) -> StoreError:
    return StoreError(
        f"The logit store {path} cannot be read: {os.strerror(error.errno or 0)}.\n"
        "Look at the disk (`dmesg`), or copy the store to another one."
    )


def _read_bytes(path: str, descriptor: int, offset: int, num_bytes: int) -> bytes:
    with _readable(path):
        return disk.read_at(descriptor, num_bytes, offset)


def _check_bytes(path: str, descriptor: int) -> Userblock:
    """Returns the userblock after all checks that need no HDF5."""

    def read(offset: int, num_bytes: int) -> bytes:
        return _read_bytes(path, descriptor, offset, num_bytes)

    block = userblock.parse(path, read(0, USERBLOCK_BYTES + 8))
    with _readable(path):
        file_size = os.fstat(descriptor).st_size
    if file_size != block.file_size:
        raise damaged(path, f"it has {file_size:,} bytes and was written with {block.file_size:,}")
    userblock.check_extents(path, block)
    if userblock.metadata_digest(read, file_size, block.extents) != block.metadata_digest:
        raise damaged(path, "its HDF5 metadata does not have its digest")
    return block


def _check_hdf5(path: str, descriptor: int, block: Userblock) -> StoreHeader:
    """Returns the header, once HDF5 and the userblock agree about all datasets."""
    with _readable(path):
        duplicate = os.dup(descriptor)
    try:
        with os.fdopen(duplicate, "rb", buffering=0) as binary, h5py.File(binary, "r") as file:
            header = _read_header(path, file)
            _check_datasets(path, file, header, block)
            return header
    except StreamkdError:
        raise
    except Exception as error:  # h5py raises exceptions of many kinds
        if getattr(error, "errno", None):  # the system's error; HDF5's own errors have no number
            raise _unreadable(path, error) from error
        raise damaged(path, f"HDF5 cannot read it ({error})") from error


def _read_header(path: str, file: h5py.File) -> StoreHeader:
    values: dict[str, Any] = {}
    for name in file.attrs:
        attribute = file.attrs.get_id(name)
        if attribute.shape != () or attribute.dtype.kind not in "iS":
            raise damaged(path, f"attribute '{name}' is neither a number nor a text")
        values[name] = file.attrs[name].item()
    try:
        if values["format"] != FORMAT_NAME.encode():
            raise ValueError("attribute 'format' is not that of a store")
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError("attribute 'format_version' differs from the userblock")
        return StoreHeader.from_attributes(values)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        shown = str(error)[:200]  # an attribute may hold 64 KB
        raise damaged(path, f"its attributes are not those of a store ({shown})") from error


def _check_datasets(path: str, file: h5py.File, header: StoreHeader, block: Userblock) -> None:
    """Refuses a file whose datasets are not exactly those of the header and the userblock."""
    specs = block.datasets
    vectors = {name: spec.shape[0] for name, spec in specs.items() if len(spec.shape) == 1}
    sizes = {name: vectors.get(name, -1) for name in ("key_bytes", "class_bytes")}
    num_class_names = vectors.get("class_offsets", 0) - 1
    if min(*sizes.values(), num_class_names) < 0:
        raise damaged(path, "its userblock does not describe the keys and classes")
    expected = dataset_specs(
        header,
        num_key_bytes=sizes["key_bytes"],
        num_class_bytes=sizes["class_bytes"],
        num_class_names=num_class_names,
    )
    if specs != expected or set(block.static_digests) != set(STATIC_DATASETS):
        raise damaged(path, "its header and its userblock describe different datasets")
    members = set(file)
    for name in sorted(members ^ set(expected)):
        fault = "has a member that no store has" if name in members else "lacks the dataset"
        raise damaged(path, f"it {fault}: '{name}'")
    for name, spec in expected.items():
        dataset_fault = _dataset_fault(file.id, name, spec, block.extents[name])
        if dataset_fault:
            raise damaged(path, f"dataset '{name}' {dataset_fault}")


def _dataset_fault(
    file: h5py.h5f.FileID, name: str, spec: DatasetSpec, extent: tuple[int, int]
) -> str | None:
    """Returns why a dataset is not plain bytes inside this file, or None.

    An external dataset reads any file of the reader's, a virtual one reads zeros where its source
    is missing, and a filter can turn kilobytes into terabytes.
    """
    if file.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        return "is a link, not a dataset of this file"
    dataset = h5py.h5o.open(file, name.encode())
    if not isinstance(dataset, h5py.h5d.DatasetID):
        return "is not a dataset"
    properties = dataset.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        return "is virtual: it lies in other files"
    if properties.get_external_count():
        return "is external: it lies in another file"
    if properties.get_layout() != h5py.h5d.CONTIGUOUS:
        return "is not contiguous"
    if properties.get_nfilters():
        return "is compressed or filtered"
    if dataset.dtype.str != spec.dtype or dataset.shape != spec.shape:
        return (
            f"is {dataset.dtype.str}{list(dataset.shape)}, expected {spec.dtype}{list(spec.shape)}"
        )
    if spec.num_bytes and (dataset.get_offset(), dataset.get_storage_size()) != extent:
        return "does not lie where the userblock says"
    return None
