"""The lock of a store's one writer: `teacher.h5.lock`, held by a process and freed at its end.

    descriptor = lock_writer("teacher.h5")
    lock_out_hdf5("teacher.h5", descriptor_of_the_store)
    unlock_writer("teacher.h5", descriptor)

Only the lock counts, not the file: a lock file that a killed process left behind is no hindrance.
"""

from __future__ import annotations

import contextlib
import os

from streamkd.errors import StoreBusyError
from streamkd.file_access import locks_files, take_lock, warn_if_not_locked


def lock_writer(path: str) -> int:
    """Returns the descriptor of `path`.lock, locked; or -1 where files are not to be locked.

    Raises:
      StoreBusyError: another process has the lock.
      OutputError: the file system has no locks.
    """
    if not locks_files():
        warn_if_not_locked(path)
        return -1
    # A link of that name would lead the lock to another file.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        descriptor = os.open(_lock_path(path), flags, 0o666)
        try:
            _lock_or_refuse(path, descriptor)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(_lock_path(path))):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the writer before removed it between our open and our lock


def unlock_writer(path: str, descriptor: int) -> None:
    """Lets the next writer in."""
    # Removed while locked: whoever locks it next sees that it lost its name.
    with contextlib.suppress(OSError):
        os.unlink(_lock_path(path))
    os.close(descriptor)


def lock_out_hdf5(path: str, descriptor: int) -> None:
    """Keeps HDF5 from opening the store for writing until its `descriptor` is closed."""
    _lock_or_refuse(path, descriptor, shared=True)  # HDF5 readers share this lock


def _lock_path(path: str) -> str:
    return path + ".lock"


def _lock_or_refuse(path: str, descriptor: int, *, shared: bool = False) -> None:
    try:
        take_lock(path, descriptor, shared=shared)
    except BlockingIOError as error:
        raise StoreBusyError(
            f"Another process is writing {path}.\n"
            "Wait until it has ended, or give another path with `--out`."
        ) from error
