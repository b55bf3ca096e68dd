"""Creation of a store: under its name it is complete, with disk space for every row, or absent.

    create_store("teacher.h5", header, keys, labels, class_names)

Order of the steps: a hidden temporary file in the same directory; disk space for the whole file;
metadata, static datasets, userblock; fsync; its name, unless that is taken; fsync of the directory.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
from collections.abc import Iterator, Sequence

import numpy as np

from streamkd import disk
from streamkd.errors import OptionError, StoreError, readable_key
from streamkd.file_access import locks_files, take_lock, wait_for_lock
from streamkd.keys import Keys, hash_keys
from streamkd.store import hdf5_metadata, userblock
from streamkd.store.layout import (
    STATIC_DATASETS,
    DatasetSpec,
    StoreHeader,
    dataset_specs,
    encode_class_names,
)
from streamkd.store.userblock import Userblock

_NOTHING_LEFT = "Nothing was left behind. Free disk space or give another directory, and try again."


def create_store(
    path: str | os.PathLike[str],
    header: StoreHeader,
    keys: Keys,
    labels: np.ndarray,
    class_names: Sequence[str] = (),
) -> None:
    """Creates a store without a row, ready for a `StoreWriter`.

    Args:
      path: must not exist yet.
      header: everything that is known before the first row.
      keys: one for each image, sorted by their bytes, each once.
      labels: int `[num_images]`, class numbers; -1 for an image without a label.
      class_names: in the order of their numbers; empty where classes have no names.

    Raises:
      OptionError: keys, labels and header do not fit together.
      StoreError: `path` exists; it is left alone.
      DiskFullError: no space for all rows; nothing is left behind.
      OutputError: the directory cannot be written.
    """
    path = os.fspath(path)
    static = _static_datasets(header, keys, np.asarray(labels), class_names)
    if os.path.lexists(path):
        raise _exists(path)
    specs = dataset_specs(
        header,
        num_key_bytes=len(keys.data),
        num_class_bytes=len(static["class_bytes"]),
        num_class_names=len(class_names),
    )
    attributes = header.to_attributes()
    room = hdf5_metadata.room_for(attributes, specs)
    with disk.refusals(path, ending=_NOTHING_LEFT, num_bytes=room):
        with _temporary_file(path) as (descriptor, temporary):
            # Before HDF5 writes: a limit on file sizes stops its file in memory as well.
            disk.reserve(descriptor, room)
            with contextlib.closing(hdf5_metadata.build(attributes, specs)) as metadata:
                os.ftruncate(descriptor, metadata.file_size)
                _write_static(descriptor, metadata, specs, static)
            disk.sync(descriptor)
            try:
                disk.rename_to_new(temporary, path)
            except FileExistsError as error:
                raise _exists(path) from error
        try:
            disk.sync_directory(os.path.dirname(path) or ".")
        except BaseException:
            os.unlink(path)  # a name that a power cut may take back is not promised
            raise


def _write_static(
    descriptor: int,
    metadata: hdf5_metadata.Hdf5Metadata,
    specs: dict[str, DatasetSpec],
    static: dict[str, np.ndarray],
) -> None:
    """Writes every byte that is not zero in a store without rows."""
    metadata.copy_to(descriptor)
    for name, values in static.items():
        disk.write_at(descriptor, values, metadata.extents[name][0])
    block = Userblock(
        file_size=metadata.file_size,
        datasets=specs,
        extents=metadata.extents,
        metadata_digest=metadata.metadata_digest(),
        static_digests={name: userblock.digest(values.data) for name, values in static.items()},
    )
    disk.write_at(descriptor, block.pack(), 0)


def check_keys(keys: Keys) -> None:
    """Refuses keys that are not sorted and unique paths below a root."""
    invalid = keys.first_invalid()
    if invalid is not None:
        index, fault = invalid
        key = keys[index]
        raise OptionError(
            f"Key {index:,}, '{readable_key(key[:200])}', {fault}.\n"
            "A key is a path below the image directory; rename the file or leave it out.",
            key=key,
        )
    wrong = keys.first_disorder()
    if wrong is not None:
        before, key = keys[wrong - 1], keys[wrong]
        fault = "appears twice" if before == key else f"follows '{readable_key(before)}'"
        raise OptionError(
            f"Key {wrong:,}, '{readable_key(key)}', {fault}.\n"
            "Sort the keys by their bytes, each once: `keys.take(keys.sort_order())`.",
            key=key,
        )


def _static_datasets(
    header: StoreHeader, keys: Keys, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Returns the datasets that never change, as stored."""
    if not len(keys) == len(labels) == header.num_images:
        raise OptionError(
            "Keys, labels and header of a store do not fit together.\n"
            f"  keys: {len(keys):,}, labels: {len(labels):,}, num_images: {header.num_images:,}\n"
            "Give one key and one label for each image."
        )
    check_keys(keys)
    _check_labels(keys, labels, len(class_names) or header.num_classes)
    classes = encode_class_names(class_names)
    hashes = hash_keys(keys)
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]  # frees the unsorted hashes: 8 bytes an image
    values = {
        "key_bytes": (keys.data, "|u1"),
        "key_offsets": (keys.offsets, "<u8"),
        "key_hash": (hashes, "<u8"),
        "key_row": (order.view(np.uint64), "<u8"),
        "labels": (labels, "<i4"),
        "class_bytes": (classes.data, "|u1"),
        "class_offsets": (classes.offsets, "<u8"),
    }
    assert tuple(values) == STATIC_DATASETS
    return {name: np.ascontiguousarray(array, dtype) for name, (array, dtype) in values.items()}


def _check_labels(keys: Keys, labels: np.ndarray, num_classes: int) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise OptionError(
            f"labels are {labels.dtype}{list(labels.shape)}; give one whole number for each image."
        )
    wrong = np.flatnonzero((labels < -1) | (labels >= num_classes))
    if len(wrong):
        key = keys[int(wrong[0])]
        raise OptionError(
            f"The label of '{readable_key(key)}' is {labels[wrong[0]]}, and there are "
            f"{num_classes:,} classes.\nGive a class number from 0, or -1 for no label.",
            key=key,
        )


@contextlib.contextmanager
def _temporary_file(path: str) -> Iterator[tuple[int, str]]:
    """Yields descriptor and name of a new hidden file next to `path`, removed at the end.

    The file is locked while its maker lives, which a process in another container sees too; a
    process number alone would not tell. A temporary file without a lock was left by a killed maker.
    """
    remove_leftovers(path)
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.tmp")
    descriptor = _locked_new_file(temporary)
    try:
        yield descriptor, temporary
    finally:
        # It has its final name as well, or the next pass removes it.
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        os.close(descriptor)


def _locked_new_file(temporary: str) -> int:
    """Returns the descriptor of a new file, locked."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        descriptor = os.open(temporary, flags, 0o666)
        try:
            wait_for_lock(descriptor)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(temporary)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        os.close(descriptor)  # between our open and our lock another maker took it for a leftover


def remove_leftovers(path: str) -> None:
    """Removes the temporary files of `path` whose makers were killed.

    A temporary file may be a second name of the store itself: its maker was killed between giving
    the store its name and removing the temporary one.
    """
    directory, name = os.path.split(path)
    pattern = os.path.join(glob.escape(directory), f".{glob.escape(name)}.*.tmp")
    for stale in glob.glob(pattern, include_hidden=True):
        _remove_stale(stale)


def _remove_stale(temporary: str) -> None:
    """Removes a temporary file whose maker has ended."""
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.ELOOP, errno.ENXIO):
            return  # removed, or not one of ours
        raise
    try:
        take_lock(temporary, descriptor)
        if locks_files():  # else its maker may be at work
            os.unlink(temporary)
    except OSError:
        return  # its maker is at work, or another process removed it first
    finally:
        os.close(descriptor)


def _exists(path: str) -> StoreError:
    return StoreError(
        f"{path} exists already; it was left as it is.\n"
        "Give another path with `--out`, or move the old file away."
    )
