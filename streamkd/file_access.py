"""How stores are read and files are locked, for file systems on which the usual way fails.

    with kd.file_settings(store_io="pread", locks=False):     # --store-io pread --no-lock
        kd.teach(images, teacher, "teacher.h5")

    take_lock("teacher.h5", descriptor)         # BlockingIOError: another process has the lock
    wait_for_lock(descriptor)                   # for a short while; give_lock_back(descriptor)
    default_store_io()                          # 'mmap', unless the caller chose otherwise

The settings are those of the process: its threads write and read the same files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator
from typing import Literal, get_args

from streamkd.checks import check_types
from streamkd.codes import warn
from streamkd.errors import OptionError, OutputError, UnsupportedSystemError
from streamkd.public import public

Io = Literal["mmap", "pread"]


@dataclasses.dataclass
class _Settings:
    store_io: Io = "mmap"
    locks: bool = True


_settings = _Settings()


def check_system() -> None:
    """Refuses a system without the calls that keep two processes from writing one file.

    Raises:
      UnsupportedSystemError: this is Windows.
    """
    try:
        import fcntl  # noqa: F401
    except ImportError as error:
        raise UnsupportedSystemError(
            "streamkd cannot run here: this Python has no module `fcntl`, as on Windows.\n"
            "Run it on Linux, macOS or WSL (Windows Subsystem for Linux)."
        ) from error


@public
@contextlib.contextmanager
def file_settings(*, store_io: Io | None = None, locks: bool = True) -> Iterator[None]:
    """Within it, stores are read and files are locked as given, in all threads of the process.

    Args:
      store_io: how rows of stores are read: 'mmap', or 'pread' for network file systems on which
        mapping is unsafe or impossible; by default as outside of the block.
      locks: False for file systems without locks. Then nothing keeps a second process from writing
        the same store or run.

    Raises:
      OptionError: `store_io` is neither.
    """
    check_types(file_settings, {"locks": locks})
    if store_io is not None and store_io not in get_args(Io):
        raise OptionError(f"store_io is {store_io!r}; choose one of {', '.join(get_args(Io))}.")
    before = dataclasses.replace(_settings)
    _settings.store_io = store_io or before.store_io
    _settings.locks = locks and before.locks
    try:
        yield
    finally:
        _settings.store_io, _settings.locks = before.store_io, before.locks


def default_store_io() -> Io:
    """Returns how rows are read where the caller does not say it."""
    return _settings.store_io


def locks_files() -> bool:
    """Returns whether files are locked."""
    return _settings.locks


def take_lock(path: str | os.PathLike[str], descriptor: int, *, shared: bool = False) -> None:
    """Locks an open file or directory until its descriptor is closed, or does nothing if told so.

    Args:
      path: of what is locked, for the messages.
      descriptor: of it.
      shared: whether others may have a shared lock as well.

    Raises:
      BlockingIOError: another process has the lock.
      OutputError: the file system has no locks.
    """
    if not _settings.locks:
        return
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError(error.errno, os.strerror(error.errno)) from error
        raise OutputError(
            f"{os.fspath(path)} cannot be locked: the call `flock` answers "
            f"'{os.strerror(error.errno or 0)}'.\n"
            "Give an output on a local disk; or add `--no-lock`, and see to it that no other "
            "process writes the same."
        ) from error


def wait_for_lock(descriptor: int) -> None:
    """Locks an open file as soon as no other process has it locked, where there are locks."""
    if _settings.locks:
        import fcntl

        with contextlib.suppress(OSError):  # not every network file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def give_lock_back(descriptor: int) -> None:
    """Unlocks an open file that stays open."""
    if _settings.locks:
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def warn_if_not_locked(path: str | os.PathLike[str]) -> None:
    """Warns that nothing keeps a second process from writing `path`."""
    if not _settings.locks:
        warn(
            "not_locked",
            f"{os.fspath(path)} is not locked (`--no-lock`). A second process that writes it at "
            "the same time would spoil it.",
            stacklevel=3,
        )
