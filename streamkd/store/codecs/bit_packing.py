"""Bit packing: small whole numbers side by side in bytes, and back as floats.

    packed = pack(codes, bits=3)                         # uint8 [rows, ceil(3 * C / 8)]
    unpack(packed, bits=3, num_codes=codes.shape[1])     # float32 [rows, C]

Code i of a row lies in the bits `i * bits` to `i * bits + bits - 1` of the row, counted from the
lowest bit of its first byte; so 8 codes of 3 bits are one little-endian number of 24.
"""

from __future__ import annotations

import math

import numpy as np

# Numbers of bits that a code may have.
BITS = (8, 4, 3, 2)


def packed_bytes(num_codes: int, bits: int) -> int:
    """Returns the bytes of one row."""
    return math.ceil(num_codes * bits / 8)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Returns uint8 `[rows, packed_bytes]` for uint8 `[rows, num_codes]` below `2 ** bits`."""
    rows, num_codes = codes.shape
    width = packed_bytes(num_codes, bits)
    if bits == 8:
        return np.ascontiguousarray(codes)
    # 8 codes are `bits` whole bytes, whatever the number of bits.
    words = np.zeros((rows, math.ceil(num_codes / 8), 8), "<u4")
    words.reshape(rows, -1)[:, :num_codes] = codes
    words <<= np.arange(0, 8 * bits, bits, dtype="<u4")
    packed = np.bitwise_or.reduce(words, axis=2).view(np.uint8).reshape(rows, -1, 4)
    return np.ascontiguousarray(packed[:, :, :bits].reshape(rows, -1)[:, :width])


def unpack(packed: np.ndarray, bits: int, num_codes: int) -> np.ndarray:
    """Returns float32 `[rows, num_codes]`, a new array, for uint8 `[rows, packed_bytes]`.

    Groups of codes are looked up as floats at once: for 256 rows of 1,000 classes that takes a
    third of the time of shifting and converting.
    """
    if bits == 8:
        return packed.astype(np.float32)
    groups = _twelve_bits(packed) if bits == 3 else packed
    # As items of 8 or 16 bytes, which `take` moves as a whole.
    codes = np.take(_GROUPS[bits], groups).view(np.float32)
    return codes if codes.shape[1] == num_codes else codes[:, :num_codes].copy()


def _twelve_bits(packed: np.ndarray) -> np.ndarray:
    """Returns int64 `[rows, 2 * triplets]`: every three bytes as two numbers of 12 bits."""
    rows, width = packed.shape
    triplets = math.ceil(width / 3)
    # Four bytes are read at every third byte, so one more byte follows the last.
    data = np.zeros(rows * triplets * 3 + 1, np.uint8)
    data[:-1].reshape(rows, triplets * 3)[:, :width] = packed
    words = np.ndarray((rows, triplets), "<u4", data, strides=(3 * triplets, 3)).astype(np.int64)
    numbers = np.empty((rows, triplets, 2), np.int64)
    np.bitwise_and(words, 0xFFF, out=numbers[:, :, 0])
    words >>= 12
    np.bitwise_and(words, 0xFFF, out=numbers[:, :, 1])
    return numbers.reshape(rows, 2 * triplets)


def _groups(group_bits: int, bits: int) -> np.ndarray:
    """Returns the codes in every number of `group_bits`, float32, as an item of 8 or 16 bytes."""
    numbers = np.arange(1 << group_bits)[:, None] >> np.arange(0, group_bits, bits)
    codes = (numbers & ((1 << bits) - 1)).astype(np.float32)
    return codes.view({2: np.complex64, 4: np.complex128}[codes.shape[1]]).reshape(-1)


_GROUPS = {4: _groups(8, 4), 3: _groups(12, 3), 2: _groups(8, 2)}
