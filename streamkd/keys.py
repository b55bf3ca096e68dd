"""Keys: the names of images, many of them in one block of bytes.

    keys = Keys.from_list([b"cat/1.png", b"dog/2.png"])
    keys[1]                             # b'dog/2.png'
    keys.take(keys.sort_order())        # in the order of their bytes
    hash_keys(keys)                     # uint64, for look-up

A key is a POSIX path below the root, as bytes: a file name need not be UTF-8. A hundred million
keys are two arrays, in memory or mapped from a file; no Python object is kept for any of them.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from streamkd.public import public

# Keys handled at a time by steps that need memory for each: 65,536 keys of 60 bytes take 4 MB.
_CHUNK_KEYS = 65_536
# Longest key, in bytes. No system opens a path of more than 4,096 bytes; a longer key is a mistake,
# or a damaged offset that asks for gigabytes.
MAX_KEY_BYTES = 65_535
# Bytes of a key that are compared at once; few keys are longer.
_WINDOW_BYTES = 64


@public
class Keys:
    """N keys as one block of bytes.

    Attributes:
      data: uint8 `[total]`, the keys one after the other.
      offsets: uint64 `[N + 1]`; key i is `data[offsets[i]:offsets[i + 1]]`.

    Either array may be mapped from a file. Two `Keys` are equal if their keys are, in order.
    """

    __slots__ = ("data", "offsets")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: np.ndarray, offsets: np.ndarray) -> None:
        self.data = data
        self.offsets = offsets

    @classmethod
    def from_list(cls, keys: Iterable[bytes]) -> Keys:
        """Returns the keys of a list."""
        keys = list(keys)
        offsets = np.zeros(len(keys) + 1, np.uint64)
        np.cumsum([len(key) for key in keys], out=offsets[1:], dtype=np.uint64)
        return cls(np.frombuffer(b"".join(keys), np.uint8), offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Keys]) -> Keys:
        """Returns the keys of all `parts`, one part after the other."""
        data = np.concatenate([part._contiguous(0, len(part)).data for part in parts])
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        offsets = np.zeros(len(lengths) + 1, np.uint64)
        np.cumsum(lengths, out=offsets[1:], dtype=np.uint64)
        return cls(data, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"key {index} of {len(self)}")
        return self.data[int(self.offsets[position]) : int(self.offsets[position + 1])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self), _CHUNK_KEYS):
            yield from self._part(start, min(start + _CHUNK_KEYS, len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Keys):
            return NotImplemented
        return len(self) == len(other) and all(
            np.array_equal(piece, other_piece)
            for piece, other_piece in zip(_pieces(self), _pieces(other), strict=True)
        )

    def __repr__(self) -> str:
        return f"Keys({len(self):,} keys, {len(self.data):,} bytes)"

    def tolist(self) -> list[bytes]:
        """Returns the keys as a list of Python objects; meant for few keys."""
        return list(self)

    def take(self, indices: np.ndarray | range | slice) -> Keys:
        """Returns the keys at `indices`, in that order."""
        if isinstance(indices, slice):
            indices = range(*indices.indices(len(self)))
        if isinstance(indices, range) and indices.step == 1:
            return self._contiguous(indices.start, indices.stop)
        indices = np.asarray(indices)
        if indices.dtype == bool:
            indices = np.flatnonzero(indices)
        starts, lengths = self.spans(indices)
        offsets = np.zeros(len(indices) + 1, np.uint64)
        np.cumsum(lengths, out=offsets[1:], dtype=np.uint64)
        data = np.empty(int(offsets[-1]), np.uint8)
        for first in range(0, len(indices), _CHUNK_KEYS):
            part = slice(first, first + _CHUNK_KEYS)
            begin, end = int(offsets[part][0]), int(offsets[min(part.stop, len(indices))])
            # Byte j of the result is byte `j + shift` of the data; the shift is constant in a key.
            shifts = starts[part] - offsets[:-1][part].astype(np.int64)
            data[begin:end] = self.data[np.repeat(shifts, lengths[part]) + np.arange(begin, end)]
        return Keys(data, offsets)

    def sort_order(self) -> np.ndarray:
        """Returns int64 `[N]`, the indices that sort the keys by their bytes; equal keys stay put.

        Compares eight bytes at a time, each round only keys that agree so far. One million paths of
        40 bytes take about a second and no Python object.
        """
        order = np.arange(len(self), dtype=np.int64)
        if self.first_disorder(strictly=False) is None:
            return order
        starts, lengths = self.spans(order)
        # `unsettled` are positions in `order`; those of one `group` agree in all bytes so far.
        unsettled, group = order.copy(), np.zeros(len(self), np.int64)
        for depth in range(0, int(lengths.max()) + 8, 8):
            keys = order[unsettled]
            words = _words(self.data, starts[keys], lengths[keys], depth)
            left = np.maximum(lengths[keys] - depth, 0)
            left[left > 8] = 9  # the shorter of two keys with equal words is first
            by_word = np.lexsort((left, words, group))
            keys, words, left, group = (a[by_word] for a in (keys, words, left, group))
            order[unsettled] = keys
            starts_group = np.ones(len(keys), bool)
            starts_group[1:] = (
                (group[1:] != group[:-1]) | (words[1:] != words[:-1]) | (left[1:] != left[:-1])
            )
            group = np.cumsum(starts_group)
            # A group stays unsettled if it has a second member and bytes left; equal keys end here.
            alone = starts_group & np.append(starts_group[1:], True)
            again = ~alone & (left == 9)
            unsettled, group = unsettled[again], group[again]
            if not len(unsettled):
                break
        return order

    def first_disorder(self, *, strictly: bool = True) -> int | None:
        """Returns the first index whose key does not follow the key before it, or None."""
        for first in range(0, len(self) - 1, _CHUNK_KEYS):
            wrong = self._disorder_in(first, min(first + _CHUNK_KEYS, len(self) - 1), strictly)
            if wrong is not None:
                return wrong
        return None

    def equal_at(self, indices: np.ndarray, other: Keys, other_indices: np.ndarray) -> np.ndarray:
        """Returns bool `[M]`: whether key `indices[j]` is `other`'s key `other_indices[j]`."""
        starts, lengths = self.spans(np.asarray(indices))
        other_starts, other_lengths = other.spans(np.asarray(other_indices))
        equal = lengths == other_lengths
        undecided = np.flatnonzero(equal & (lengths > 0))
        depth = 0
        while len(undecided):
            left = lengths[undecided] - depth
            width = min(_WINDOW_BYTES, int(left.max()))
            window = _windows(self.data, starts[undecided] + depth, width)
            other_window = _windows(other.data, other_starts[undecided] + depth, width)
            same = ((window == other_window) | (np.arange(width) >= left[:, None])).all(axis=1)
            equal[undecided[~same]] = False
            undecided = undecided[same & (left > width)]
            depth += width
        return equal

    def is_divided(self) -> bool:
        """Returns whether the offsets divide the bytes; those of a damaged file may not."""
        offsets, end = self.offsets, len(self.data)
        return bool(not offsets[0] and offsets[-1] == end and (offsets[1:] >= offsets[:-1]).all())

    def first_invalid(self) -> tuple[int, str] | None:
        """Returns the index and the fault of the first key that is no path below a root, or None.

        A path below a root is not empty, does not start with '/', and has no part '..', no NUL
        byte, and at most `MAX_KEY_BYTES` bytes.
        """
        for first in range(0, len(self), _CHUNK_KEYS):
            part = self._contiguous(first, min(first + _CHUNK_KEYS, len(self)))
            for index in _suspects(part).tolist():
                fault = _fault(part[index])
                if fault:
                    return first + index, fault
        return None

    def spans(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the starts and lengths of the keys at `indices`, both int64."""
        starts = self.offsets[indices].astype(np.int64)
        return starts, self.offsets[np.asarray(indices) + 1].astype(np.int64) - starts

    def _part(self, start: int, stop: int) -> list[bytes]:
        """Returns the keys from `start` to `stop` as Python objects."""
        bounds = self.offsets[start : stop + 1].astype(np.int64)
        block = self.data[int(bounds[0]) : int(bounds[-1])].tobytes()
        ends = (bounds - bounds[0]).tolist()
        return [block[a:b] for a, b in itertools.pairwise(ends)]

    def _contiguous(self, start: int, stop: int) -> Keys:
        """Returns the keys from `start` to `stop`, sharing the bytes."""
        bounds = self.offsets[start : stop + 1].astype(np.uint64)
        if not len(bounds):  # an empty range beyond the end
            return Keys(self.data[:0], np.zeros(1, np.uint64))
        return Keys(self.data[int(bounds[0]) : int(bounds[-1])], bounds - bounds[0])

    def _disorder_in(self, first: int, last: int, strictly: bool) -> int | None:
        """Returns the first index in `first + 1` to `last` that is out of order, or None."""
        starts, lengths = self.spans(np.arange(first, last + 1))
        undecided, wrong, depth = np.arange(last - first), last - first, 0
        while len(undecided):
            before = _words(self.data, starts[undecided], lengths[undecided], depth)
            after = _words(self.data, starts[undecided + 1], lengths[undecided + 1], depth)
            depth += 8
            length, next_length = lengths[undecided], lengths[undecided + 1]
            ended = (before == after) & (np.minimum(length, next_length) <= depth)
            longer = length - next_length
            bad = (before > after) | (ended & (longer >= 0 if strictly else longer > 0))
            if bad.any():
                wrong = min(wrong, int(undecided[bad][0]))
            undecided = undecided[(before == after) & ~ended & ~bad]
            undecided = undecided[undecided < wrong]
        return first + wrong + 1 if wrong < last - first else None


def hash_keys(keys: Keys) -> np.ndarray:
    """Returns uint64 `[N]`: BLAKE2b with a digest of 8 bytes, read little-endian, of each key.

    Under 1 µs a key. A key has the same hash in every process and every version.
    """
    blake2b = hashlib.blake2b
    hashes = np.empty(len(keys), np.uint64)
    for start in range(0, len(keys), _CHUNK_KEYS):
        part = keys._part(start, min(start + _CHUNK_KEYS, len(keys)))
        joined = b"".join([blake2b(key, digest_size=8).digest() for key in part])
        hashes[start : start + len(part)] = np.frombuffer(joined, "<u8")
    return hashes


def key_fields(key: bytes, name: str = "key") -> dict[str, str]:
    """Returns a key as JSON fields; a key that is not UTF-8 also has its bytes in base64."""
    text = key.decode("utf-8", "backslashreplace")
    if text.encode() == key:
        return {name: text}
    return {name: text, f"{name}_base64": base64.b64encode(key).decode()}


def key_of_fields(entry: dict[str, Any], name: str = "key") -> bytes:
    """Returns the key of JSON fields; KeyError, TypeError or ValueError if they hold none."""
    encoded = entry.get(f"{name}_base64")
    if encoded:
        return base64.b64decode(encoded, validate=True)
    text = entry[name]
    if not isinstance(text, str) or not text:
        raise ValueError(f"a {name} {text!r}")
    return text.encode("utf-8", "surrogateescape")


def _words(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray, depth: int) -> np.ndarray:
    """Returns uint64 `[M]`: bytes `depth` to `depth + 8` of each key, first byte highest.

    Bytes beyond the end of a key are zero. A position outside `data` (a damaged file) gives other
    bytes instead of an error; no caller relies on them.
    """
    if len(data) < 8:
        data = np.concatenate([data, np.zeros(8, np.uint8)])
    last = len(data) - 8
    windows = np.ndarray((last + 1,), ">u8", np.ascontiguousarray(data), strides=(1,))
    wanted = starts + depth
    position = np.clip(wanted, 0, last)
    words = windows[position].astype(np.uint64)
    # Within 8 bytes of the end of `data` the window starts earlier, and its head is pushed out.
    words <<= np.clip(8 * (wanted - position), 0, 63).astype(np.uint64)
    num_bytes = np.clip(lengths - depth, 0, 8)
    words &= _MASKS[num_bytes]
    return words


def _windows(data: np.ndarray, positions: np.ndarray, width: int) -> np.ndarray:
    """Returns uint8 `[M, width]`: the bytes from each position on; zero beyond the end of `data`.

    A negative position (a damaged file) gives other bytes instead of an error.
    """
    if len(data) < width:
        data = np.concatenate([data, np.zeros(width, np.uint8)])
    last = len(data) - width
    # A window as one element of a void type is copied in one piece.
    windows = np.ndarray((last + 1,), f"V{width}", np.ascontiguousarray(data), strides=(1,))
    inside = np.clip(positions, 0, last)
    rows = windows[inside].view(np.uint8).reshape(len(positions), width)
    for row in np.flatnonzero(positions != inside).tolist():
        tail = data[max(int(positions[row]), 0) :][:width]
        rows[row] = 0
        rows[row, : len(tail)] = tail
    return rows


# _MASKS[n] keeps the first n of 8 bytes.
_MASKS = np.array(
    [(0xFFFFFFFFFFFFFFFF << 8 * (8 - n)) & 0xFFFFFFFFFFFFFFFF for n in range(9)], "u8"
)


def _pieces(keys: Keys) -> Iterator[np.ndarray]:
    """Yields offsets and bytes in turns; equal keys give equal pieces, mapped or not."""
    for start in range(0, len(keys), _CHUNK_KEYS):
        part = keys._contiguous(start, min(start + _CHUNK_KEYS, len(keys)))
        yield part.offsets
        yield part.data


def _suspects(keys: Keys) -> np.ndarray:
    """Returns the indices of all invalid keys and of look-alikes, without a Python loop."""
    data, offsets = keys.data, keys.offsets.astype(np.int64)
    lengths = offsets[1:] - offsets[:-1]
    impossible = np.flatnonzero((lengths == 0) | (lengths > MAX_KEY_BYTES))
    if not len(data):
        return impossible
    dots = np.flatnonzero((data[:-1] == ord(".")) & (data[1:] == ord(".")))
    nul = np.flatnonzero(data == 0)
    slash = np.flatnonzero(data[np.minimum(offsets[:-1], len(data) - 1)] == ord("/"))
    inside = np.searchsorted(offsets, np.concatenate([dots, nul]), side="right") - 1
    return np.unique(np.concatenate([impossible, slash, inside])).astype(np.int64)


def _fault(key: bytes) -> str | None:
    """Returns the fault of a key, or None."""
    if not key:
        return "is empty"
    if key.startswith(b"/"):
        return "is an absolute path"
    if b"\0" in key:
        return "has a NUL byte"
    if b".." in key.split(b"/"):
        return "leads out of the directory by a part '..'"
    if len(key) > MAX_KEY_BYTES:
        return f"has {len(key):,} bytes, more than any path"
    return None
