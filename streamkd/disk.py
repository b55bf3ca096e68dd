"""The disk: the few system calls by which a store is written, each until it is really done.

HDF5 never syncs and dies on a full disk (a segmentation fault when it closes the file), so that
stores are written by these calls alone. Linux first; macOS with the nearest calls it has.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

import numpy as np

from streamkd.errors import DiskFullError, OutputError, StreamkdError

_CHUNK_BYTES = 8 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def write_at(descriptor: int, data: bytes | memoryview | np.ndarray, offset: int) -> None:
    """Writes all of `data` at `offset`; a short write is continued, an interrupted one repeated."""
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


def sync(descriptor: int) -> None:
    """Returns when what was written is on the disk itself."""
    while True:
        try:
            if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync stops at the drive's own cache
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            else:
                os.fdatasync(descriptor)
            return
        except InterruptedError:
            continue


def sync_directory(directory: str) -> None:
    """Returns when the names in `directory` are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # some network file systems sync no directory
            raise
    finally:
        os.close(descriptor)


def reserve(descriptor: int, num_bytes: int) -> None:
    """Makes the file `num_bytes` zeros long, all of which have room on the disk."""
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except (OSError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno not in _UNSUPPORTED:
            raise
        zeros = np.zeros(_CHUNK_BYTES, np.uint8)
        for offset in range(0, num_bytes, _CHUNK_BYTES):
            write_at(descriptor, zeros[: num_bytes - offset], offset)


def rename_to_new(source: str, target: str) -> None:
    """Gives `source` the name `target`, which must not exist yet.

    Raises:
      FileExistsError: it does; it is left alone.
    """
    try:
        os.link(source, target)  # unlike rename, this refuses an existing name in one step
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EMLINK, *_UNSUPPORTED):
            raise
        if os.path.lexists(target):  # a file system without hard links: the nearest there is
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        os.rename(source, target)
    else:
        with contextlib.suppress(OSError):  # `target` is there; the next pass removes `source`
            os.unlink(source)


@contextlib.contextmanager
def refusals(path: str, *, ending: str, num_bytes: int | None = None) -> Iterator[None]:
    """Turns what the system refuses inside the block into one message that names `path`.

    Args:
      ending: last line of the message: what is safe, what to type next.
      num_bytes: how many bytes are needed, for a full disk.

    Raises:
      DiskFullError: no room, no quota, or a limit on the size of files.
      OutputError: any other refusal.
    """
    try:
        yield
    except StreamkdError:
        raise
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        if error.errno not in _NO_ROOM:
            raise OutputError(f"Cannot write {path}: {why}.\n{ending}") from error
        needed = f"{num_bytes:,} bytes" if num_bytes else "more"
        raise DiskFullError(
            f"The disk has no room for {path}: {why}.\n"
            f"  needed: {needed}\n"
            f"  free:   {free_bytes(path):,} bytes\n{ending}"
        ) from error


def free_bytes(path: str) -> int:
    """Returns how many bytes are free where `path` is or will be."""
    status = os.statvfs(os.path.dirname(os.path.abspath(path)))
    return status.f_bavail * status.f_frsize
