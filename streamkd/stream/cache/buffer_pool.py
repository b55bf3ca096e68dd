"""Arrays that TensorFlow takes as they are, and whose memory is used again.

    pool = BufferPool()
    pixels = pool.array((64, 224, 224, 3), np.float32)       # returned from a tf.numpy_function

A batch of float32 pixels is tens of megabytes, which the C library takes from the system and gives
back every time; the system clears each page anew. That is most of the cost of a batch from the
pixel cache: 470 µs of CPU an image at 224 pixels, and 100 with memory that is used again.
TensorFlow takes an array without copying where it begins at a multiple of 64 bytes.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any

import numpy as np

_ALIGNMENT = 64
# Kept for use again; about as many batches as a pipeline has under way.
_MAX_KEPT_BUFFERS = 12


class BufferPool:
    """Hands out arrays; the memory of each comes back when nothing refers to it any more."""

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Returns an array whose contents are whatever was there."""
        num_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        free = self._free.setdefault(num_bytes, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        # NumPy lets an array refer to the owner of its memory, TensorFlow keeps the array, and so
        # the owner lives exactly as long as anybody can see the memory.
        owner = (ctypes.c_uint8 * num_bytes).from_buffer(memory, start)
        weakref.finalize(owner, _give_back, free, memory).atexit = False
        count = math.prod(shape)
        return np.frombuffer(owner, dtype, count).reshape(shape)


def _give_back(free: list[np.ndarray], memory: np.ndarray) -> None:
    if len(free) < _MAX_KEPT_BUFFERS:
        free.append(memory)
