"""Texts of any length in an HDF5 file, which lie in its global heaps.

    heap = GlobalHeap(file, num_bytes=4096, base=0)
    heap.texts(places)                  # byte strings, one for each of an array of type PLACE

HDF5 itself loops for ever over some damaged heaps, and makes texts as long as the file says. Here
every step goes forward, and no byte of the file is read twice.

A heap is 'GCOL', a version, its size, and objects: number, count of references, size, bytes.
"""

from __future__ import annotations

import struct
from typing import IO

import numpy as np

from streamkd import disk

# A text on the disk: its number of bytes, the address of its heap, its number there.
PLACE = np.dtype([("num_bytes", "<u4"), ("heap", "<u8"), ("number", "<u4")])
_HEAP = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")


class GlobalHeap:
    """The global heaps of an open file.

    Attributes:
      file: open for reading.
      num_bytes: its size.
      base: what is added to the addresses in it.
    """

    def __init__(self, file: IO[bytes], num_bytes: int, base: int) -> None:
        self.file = file
        self.num_bytes = num_bytes
        self.base = base
        self._num_bytes_left = num_bytes

    def texts(self, places: np.ndarray) -> list[bytes]:
        """Returns the texts at these places, `PLACE[count]`.

        Raises:
          ValueError: a place has no text of that length.
        """
        num_bytes = int(places["num_bytes"].sum(dtype=np.uint64))
        if num_bytes > self.num_bytes:
            raise ValueError(f"its texts are {num_bytes:,} bytes, more than the file has")
        heaps: dict[int, dict[int, bytes]] = {}
        texts = []
        for length, address, number in places.tolist():
            if address not in heaps and length:
                heaps[address] = self._objects(address)
            text = heaps[address].get(number, b"") if length else b""
            if len(text) != length:
                raise ValueError("its texts are damaged")
            texts.append(text)
        return texts

    def _objects(self, address: int) -> dict[int, bytes]:
        """Returns the objects of the heap at an address, by number."""
        start = self.base + address
        head = self._read(start, _HEAP.size)
        signature, version, size = _HEAP.unpack(head)
        self._num_bytes_left -= size
        if (signature, version) != (b"GCOL", 1) or size < _HEAP.size or self._num_bytes_left < 0:
            raise ValueError("its texts are damaged")
        heap, position = self._read(start, size), _HEAP.size
        objects: dict[int, bytes] = {}
        while position + _OBJECT.size <= size:
            number, _, length = _OBJECT.unpack_from(heap, position)
            if number == 0:  # what is free
                break
            position += _OBJECT.size
            objects[number] = heap[position : position + length]
            position += -(-length // 8) * 8
        return objects

    def _read(self, start: int, size: int) -> bytes:
        if start + size > self.num_bytes:
            raise ValueError("its texts lie outside the file")
        return disk.read_at(self.file.fileno(), size, start)
