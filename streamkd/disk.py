"""The disk: system calls that return only when their bytes are safe, and refusals that say why not.

    disk.write_at(descriptor, rows, offset)
    disk.sync(descriptor)                                   # survives a power cut from here on
    disk.write_atomically(Path("config.json"), text)        # the old file or the new one, whole
    with disk.replacing(path, temporary):
        student.save(temporary)

HDF5 never syncs, and on a full disk it ends the process with a segmentation fault when it closes
the file; so stores are written by these calls alone: Linux calls, or the nearest ones of macOS.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from streamkd.errors import DiskFullError, OutputError, StreamkdError

# End of the name of a file or a folder that is being written.
TEMPORARY = ".tmp"

_CHUNK_BYTES = 8 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# ENOTSUP and ENOTTY come from macOS, for a file system without F_FULLFSYNC.
_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ENOTTY)


def write_at(descriptor: int, data: bytes | memoryview | np.ndarray, offset: int) -> None:
    """Writes all of `data` at `offset`; continues a short write, repeats an interrupted one."""
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    left = memoryview(data)
    while len(left):
        try:
            written = os.pwrite(descriptor, left[:_CHUNK_BYTES], offset)
        except InterruptedError:
            continue
        if written == 0:
            raise OSError(errno.EIO, "the disk took no byte")
        left, offset = left[written:], offset + written


def read_at(descriptor: int, num_bytes: int, offset: int) -> bytes:
    """Returns `num_bytes` bytes from `offset`, fewer only where the file ends."""
    pieces = []
    while num_bytes:
        piece = os.pread(descriptor, num_bytes, offset)
        if not piece:
            break
        pieces.append(piece)
        num_bytes, offset = num_bytes - len(piece), offset + len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def map_for_reading(descriptor: int, num_bytes: int) -> mmap.mmap | None:
    """Returns a whole file mapped for reading; None on a file system that maps no files."""
    try:
        mapped = mmap.mmap(descriptor, num_bytes, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno not in (errno.ENODEV, *_UNSUPPORTED):
            raise
        return None
    # Read-ahead fetched 402 MB for 15 MB of scattered rows from a cold disk; without it, 30 MB were
    # fetched. A file that fits into memory gains from read-ahead: it is soon read as a whole.
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if num_bytes > memory // 2 and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def sync(descriptor: int) -> None:
    """Returns when all bytes written to an open file are on the disk itself."""
    while True:
        try:
            _sync_once(descriptor)
            return
        except InterruptedError:
            continue


def _sync_once(descriptor: int) -> None:
    import fcntl  # not on Windows, where `file_access.check_system` says so

    if not hasattr(fcntl, "F_FULLFSYNC"):
        os.fdatasync(descriptor)
        return
    try:  # macOS: fsync stops at the drive's own cache
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        os.fsync(descriptor)


def sync_file(path: str | os.PathLike[str]) -> None:
    """Returns when all bytes of the file at `path` are on the disk itself."""
    # Neither a pipe nor a link that took the name of the file may hold up or mislead the call.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Returns when the names in `directory` are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # network file systems may sync no directory
            raise
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> list[Path]:
    """Makes a directory and the missing ones above it; returns the missing ones, `path` first.

    All their names are safe when this returns.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_directory(folder.parent)
    return missing


def remove(path: str | os.PathLike[str]) -> None:
    """Removes what has the name `path`, a folder with all that is in it; links are not followed."""
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        shutil.rmtree(path)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def create(path: str | os.PathLike[str]) -> int:
    """Makes an empty file and returns its descriptor, open for writing.

    Raises:
      FileExistsError: `path` is the name of something, be it a link that leads nowhere.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o666)


def open_new(path: str | os.PathLike[str], mode: str = "w") -> IO[Any]:
    """Opens a new file under a temporary name; a leftover of that name is removed first.

    Whoever may write to the folder could leave a link under a name that can be foretold; the new
    file never is what such a link leads to.
    """
    remove(path)
    return os.fdopen(create(path), mode, encoding=None if "b" in mode else "utf-8")


@contextlib.contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[None]:
    """Replaces `path` by the file `temporary`, which the block writes: whole or not at all.

    The block ends when the new file would survive a power cut. After an exception `path` is as it
    was, and `temporary` is removed.
    """
    try:
        yield
        sync_file(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a small text file whole; returns when it would survive a power cut."""
    temporary = path.with_name(path.name + TEMPORARY)
    with replacing(path, temporary), open_new(temporary) as file:
        file.write(text)


def reserve(descriptor: int, num_bytes: int, *, start: int = 0) -> None:
    """Makes the file `num_bytes` long and reserves disk space for all of them; zeros from `start`.

    The file has no bytes from `start` on.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(descriptor, start, num_bytes - start)
            return
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    zeros = np.zeros(_CHUNK_BYTES, np.uint8)
    for offset in range(start, num_bytes, _CHUNK_BYTES):
        write_at(descriptor, zeros[: num_bytes - offset], offset)


def rename_to_new(source: str, target: str) -> None:
    """Gives `source` the name `target`, or raises FileExistsError and leaves both alone."""
    try:
        os.link(source, target)  # unlike rename, this refuses an existing name in one step
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EMLINK, *_UNSUPPORTED):
            raise
        if os.path.lexists(target):  # a file system without hard links: check, then rename
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        os.rename(source, target)
    else:
        with contextlib.suppress(OSError):  # `target` exists; the next pass removes `source`
            os.unlink(source)


@contextlib.contextmanager
def refusals(path: str, *, ending: str, num_bytes: int | None = None) -> Iterator[None]:
    """Turns an error of the system inside the block into one message that names `path`.

    Args:
      path: file that is being written.
      ending: last line of the message: what is safe, what to type next.
      num_bytes: bytes that are needed, for the message of a full disk.

    Raises:
      DiskFullError: no room, no quota, or a limit on the size of files.
      OutputError: any other error of the system.
    """
    try:
        yield
    except StreamkdError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno not in _NO_ROOM:
            raise OutputError(f"Cannot write {path}: {reason}.\n{ending}") from error
        needed = f"{num_bytes:,} bytes" if num_bytes else "more"
        raise DiskFullError(
            f"The disk has no room for {path}: {reason}.\n"
            f"  needed: {needed}\n"
            f"  free:   {free_bytes(path):,} bytes\n{ending}"
        ) from error


def free_bytes(path: str) -> int:
    """Returns the free bytes of the disk on which `path` lies or will lie."""
    status = os.statvfs(os.path.dirname(os.path.abspath(path)))
    return status.f_bavail * status.f_frsize
