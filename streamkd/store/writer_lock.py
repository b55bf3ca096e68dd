"""The lock of a store's one writer: `teacher.h5.lock`, held by a process and freed at its end.

    descriptor = lock_writer("teacher.h5")
    lock_out_hdf5("teacher.h5", descriptor_of_the_store)
    unlock_writer("teacher.h5", descriptor)

Only the lock counts, not the file: a lock file that a killed process left behind is no hindrance.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from streamkd.errors import OutputError, StoreBusyError


def lock_writer(path: str) -> int:
    """Returns the descriptor of `path`.lock, locked.

    Raises:
      StoreBusyError: another process has the lock.
      OutputError: the file system has no locks.
    """
    while True:
        descriptor = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock_or_refuse(path, descriptor, fcntl.LOCK_EX)
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
    _lock_or_refuse(path, descriptor, fcntl.LOCK_SH)  # HDF5 readers share this lock


def _lock_path(path: str) -> str:
    return path + ".lock"


def _lock_or_refuse(path: str, descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise StoreBusyError(
                f"Another process is writing {path}.\n"
                "Wait until it has ended, or give another path with `--out`."
            ) from error
        raise OutputError(
            f"Cannot lock {path}: {os.strerror(error.errno or 0)}.\n"
            "Without a lock two processes could write it at once; put it on a local disk."
        ) from error
