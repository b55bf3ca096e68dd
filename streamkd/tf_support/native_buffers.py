"""Buffers for what C libraries write on standard error, between glibc's `stderr` and descriptor 2.

    buffers = buffers_of_process()      # None where there is no glibc
    buffers.catch()
    buffers.read_resting()              # b"Corrupt JPEG data: 21 extraneous bytes …"
    buffers.release()

glibc lets a program set its variable `stderr` to another stream, and every C library then writes
there. Descriptor 2 stays as it is, so Python's own messages take their usual way, and a process
that ends at any moment leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import functools
import signal

# Bytes that are kept until they are read; glibc writes to descriptor 2 what is more.
_BUFFER_BYTES = 1 << 20


class Buffers:
    """Two buffered streams on descriptor 2, of which glibc's `stderr` names one.

    The other one rests: no thread writes into it any more when it is read.
    """

    def __init__(self, libc: ctypes.PyDLL) -> None:
        self._libc = libc
        self._stderr = ctypes.c_void_p.in_dll(libc, "stderr")
        self._own = self._stderr.value
        self._memory = [ctypes.create_string_buffer(_BUFFER_BYTES) for _ in range(2)]
        self._streams = [_stream(libc, memory) for memory in self._memory]
        self._active = 0
        self._num_bytes_read = 0

    def catch(self) -> None:
        """Leads the lines of C libraries into the buffers."""
        self._stderr.value = self._streams[self._active]

    def release(self) -> None:
        """Leads the lines of C libraries to descriptor 2 again."""
        self._stderr.value = self._own

    def num_bytes(self) -> int:
        """Returns the number of bytes that were ever written."""
        return self._num_bytes_read + sum(map(self._pending, self._streams))

    def read_resting(self) -> bytes:
        """Returns what the resting stream holds, and lets the other one rest."""
        resting = 1 - self._active
        num_bytes = self._pending(self._streams[resting])
        data = ctypes.string_at(self._memory[resting], num_bytes)
        self._libc["__fpurge"](ctypes.c_void_p(self._streams[resting]))
        self._num_bytes_read += num_bytes
        if self._stderr.value == self._streams[self._active]:
            self._stderr.value = self._streams[resting]
        self._active = resting
        return data

    def has_rest(self) -> bool:
        """Returns whether the stream that rests holds bytes."""
        return self._pending(self._streams[1 - self._active]) > 0

    def _pending(self, stream: int) -> int:
        return int(self._libc["__fpending"](ctypes.c_void_p(stream)))


def _stream(libc: ctypes.PyDLL, memory: ctypes.Array[ctypes.c_char]) -> int:
    """Returns a stream of C on descriptor 2 that keeps its lines in `memory`."""
    fdopen = libc["fdopen"]
    fdopen.restype = ctypes.c_void_p
    stream = fdopen(2, b"w")
    if not stream:
        raise OSError("standard error is closed")
    fully_buffered = 0
    libc["setvbuf"](ctypes.c_void_p(stream), memory, fully_buffered, ctypes.c_size_t(_BUFFER_BYTES))
    return int(stream)


@functools.cache
def buffers_of_process() -> Buffers | None:
    """Returns the buffers of this process; None without glibc, or if descriptor 2 is closed."""
    try:
        libc = ctypes.PyDLL(None)
        # Other C libraries have a `stderr` that cannot be changed.
        for name in ("gnu_get_libc_version", "__fpending", "__fpurge", "fcloseall"):
            libc[name]
        libc["__fpending"].restype = ctypes.c_size_t
        return Buffers(libc)
    except (OSError, AttributeError, ValueError, TypeError):
        return None


def write_all_on_abort() -> None:
    """Lets abort() write the buffers: the last line of a C library says why it aborts."""
    libc = ctypes.PyDLL(None)
    libc["signal"].restype = ctypes.c_void_p
    libc["signal"].argtypes = [ctypes.c_int, ctypes.c_void_p]
    # glibc's own function: it needs neither Python's lock nor that of a stream.
    write_all = ctypes.cast(libc["fcloseall"], ctypes.c_void_p)
    before = libc["signal"](signal.SIGABRT, write_all)
    if before:  # such as that of Python's faulthandler
        libc["signal"](signal.SIGABRT, before)
