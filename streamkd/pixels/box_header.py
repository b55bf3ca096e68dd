"""The size of an AVIF or JPEG 2000 as the codes themselves give it, whatever the boxes say.

    box_dimensions(data)      # (width, height) of the largest image that is coded, or None

A box beside the codes repeats their size, and Pillow believes the box until the decoder has taken
memory for the codes.
"""

from __future__ import annotations

from collections.abc import Iterator

# Boxes, places and units that are looked at; a photograph has a few dozen, a film two a frame.
_MAX_PARTS = 1 << 16
# Boxes that hold boxes, and the bytes before the first of them.
_HOLDERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0}
_HOLDERS |= {b"stbl": 0, b"stsd": 8}
# Kind of a unit of AV1, and the bytes of it that are looked at.
_SEQUENCE_HEADER, _MAX_HEADER_BYTES = 1, 512
# Beginning of the codes of JPEG 2000: start, then sizes.
_CODESTREAM = b"\xff\x4f\xff\x51"


class TooManyPartsError(ValueError):
    """A file has more parts than a file of its size needs: looking at all would take long."""

    def __init__(self) -> None:
        super().__init__("it has more parts than an image of its size needs")


class Steps:
    """Counts the parts of one file that were looked at.

    Args:
      num_parts: how many may be looked at.
    """

    def __init__(self, num_parts: int) -> None:
        self._num_left = num_parts

    def take(self) -> None:
        """Counts one part more.

        Raises:
          TooManyPartsError: it is one too many.
        """
        self._num_left -= 1
        if self._num_left < 0:
            raise TooManyPartsError


def box_dimensions(data: bytes) -> tuple[int, int] | None:
    """Returns the largest width and the largest height of what an AVIF or JPEG 2000 codes.

    Raises:
      TooManyPartsError: the file has very many boxes or units.
    """
    sizes = _sizes(data, Steps(_MAX_PARTS))
    if not sizes:
        return None
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def _sizes(data: bytes, steps: Steps) -> list[tuple[int, int]]:
    """Returns width and height wherever a file gives them, in its boxes and in its codes."""
    if data.startswith(_CODESTREAM):
        return _codestream_sizes(data, 0)
    sizes = []
    for kind, start, end in _boxes(data, steps):
        if kind == b"jp2c":
            sizes += _codestream_sizes(data, start)
        elif kind == b"ispe":
            sizes.append((_number(data, start + 4, 4), _number(data, start + 8, 4)))
        elif kind == b"av1C":
            sizes += _sequence_sizes(data, start + 4, end, steps)
        elif kind in (b"iloc", b"stco", b"co64"):
            for place in _places(data, kind, start, end, steps):
                sizes += _sequence_sizes(data, place, len(data), steps)
    return sizes


def _number(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "big")


def _boxes(data: bytes, steps: Steps) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, start and end of the contents of every box, outer ones first."""
    waiting = [(0, len(data))]
    while waiting:
        position, end = waiting.pop()
        if position + 8 > end:
            continue
        steps.take()
        num_bytes, kind, start = _number(data, position, 4), data[position + 4 : position + 8], 8
        if num_bytes == 1:
            num_bytes, start = _number(data, position + 8, 8), 16
        own_end = end if num_bytes == 0 else min(end, position + num_bytes)
        if own_end < position + start:
            continue
        yield kind, position + start, own_end
        waiting.append((own_end, end))
        if kind in _HOLDERS:
            waiting.append((position + start + _HOLDERS[kind], own_end))


def _codestream_sizes(data: bytes, start: int) -> list[tuple[int, int]]:
    """Returns the sizes of the image and of its tiles in codes of JPEG 2000."""
    if data[start : start + 4] != _CODESTREAM:
        return []
    right, bottom, left, top, tile_width, tile_height = (
        _number(data, start + 8 + 4 * number, 4) for number in range(6)
    )
    # A tile is no larger than the image, by the memory that it takes.
    width, height = max(right - left, 0), max(bottom - top, 0)
    return [(width, height), (min(tile_width, right), min(tile_height, bottom))]


def _places(data: bytes, kind: bytes, start: int, end: int, steps: Steps) -> Iterator[int]:
    """Yields where the items of a picture, or the chunks of a film, begin in the file."""
    if kind == b"iloc":
        yield from _item_places(data, start, end, steps)
        return
    num_bytes = 8 if kind == b"co64" else 4
    num_chunks = min(_number(data, start + 4, 4), (end - start) // num_bytes)
    for number in range(num_chunks):
        steps.take()
        yield _number(data, start + 8 + number * num_bytes, num_bytes)


def _item_places(data: bytes, start: int, end: int, steps: Steps) -> Iterator[int]:
    """Yields where the items of an `iloc` box begin."""
    version = _number(data, start, 1)
    sizes = _number(data, start + 4, 2)
    offset_bytes, length_bytes = sizes >> 12, sizes >> 8 & 15
    base_bytes, index_bytes = sizes >> 4 & 15, sizes & 15 if version else 0
    id_bytes = 4 if version == 2 else 2
    # Offsets of method 1 count from the contents of the box `idat`.
    inner = data.find(b"idat") + 4
    position = start + 6 + id_bytes
    while position < end:
        steps.take()
        position += id_bytes
        method = _number(data, position, 2) & 15 if version else 0
        position += 4 if version else 2
        base = _number(data, position, base_bytes)
        position += base_bytes
        num_extents = _number(data, position, 2)
        position += 2
        offset = _number(data, position + index_bytes, offset_bytes)
        yield base + offset + (inner if method == 1 else 0)
        position += num_extents * (index_bytes + offset_bytes + length_bytes)


def _sequence_sizes(data: bytes, position: int, end: int, steps: Steps) -> list[tuple[int, int]]:
    """Returns the sizes in all sequence headers of AV1 among the units from a position on."""
    sizes = []
    while position < end:
        steps.take()
        unit = data[position]
        position += 2 if unit & 4 else 1
        num_bytes, shift = end - position, 0
        if unit & 2:  # the unit has its own size, in seven bits a byte
            num_bytes = 0
            while shift < 56 and position < end:
                byte = data[position]
                num_bytes |= (byte & 127) << shift
                position, shift = position + 1, shift + 7
                if byte < 128:
                    break
        if unit >> 3 == _SEQUENCE_HEADER:
            unit_bytes = data[position : position + min(num_bytes, _MAX_HEADER_BYTES)]
            sizes.append(_size_in_sequence_header(unit_bytes))
        elif not unit & 2 or unit & 0x80:
            break  # no unit follows, or this is no unit
        position += num_bytes
    return sizes


def _size_in_sequence_header(data: bytes) -> tuple[int, int]:
    """Returns width and height, as the specification of AV1 lays out a sequence header."""
    bits = _Bits(data)
    bits.take(3)  # profile
    bits.take(1)  # still picture
    if bits.take(1):  # the short header of a still picture
        bits.take(5)
    else:
        decoder_model_bits = 0
        has_decoder_model = False
        if bits.take(1):  # timing
            bits.take(64)
            if bits.take(1):
                bits.take_exponential()
            has_decoder_model = bool(bits.take(1))
            if has_decoder_model:
                decoder_model_bits = bits.take(5) + 1
                bits.take(42)
        has_delay = bits.take(1)
        for _ in range(bits.take(5) + 1):  # operating points
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if has_decoder_model and bits.take(1):
                bits.take(2 * decoder_model_bits + 1)
            if has_delay and bits.take(1):
                bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


class _Bits:
    """Takes numbers of any number of bits from bytes; behind the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """Returns the next number of `count` bits."""
        self._left -= count
        shifted = self._number >> self._left if self._left >= 0 else 0
        return shifted & (1 << count) - 1

    def take_exponential(self) -> int:
        """Returns the next number in AV1's code of any length."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        return self.take(zeros) + (1 << zeros) - 1
