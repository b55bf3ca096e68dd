"""The size of an image as its header gives it, without decoding.

    one_size, odd = look_at(contents)       # a microsecond a file; all else looks at `odd` only
    dimensions(contents[0])                 # (width, height)

Whether all images of a batch have one size chooses the faster of two ways to the same pixels. An
image of more than `max_pixels` is not decoded: a PNG of one megabyte can hold 400 million.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from streamkd.image_options import MAX_PIXELS

_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_JPEG_HEAD = b"\xff\xd8\xff"
# Start-of-frame markers: C0 to CF without C4 (Huffman tables), C8 (reserved), CC (arithmetic).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone: a filled byte, TEM, and restarts.
_ALONE = frozenset([0x01, *range(0xD0, 0xD9)])


def size_in_header(data: bytes) -> bytes | None:
    """Returns the bytes that hold height and width, equal for images of one size and format.

    None for anything but PNG and JPEG, and for a header that cannot be followed.
    """
    end = _end_of_size(data)
    return None if end is None else data[end - (8 if data[0] == 0x89 else 4) : end]


def have_one_size(contents: Sequence[bytes]) -> bool:
    """Returns whether all files are known to hold images of one size, and not too large."""
    return look_at(contents)[0]


def look_at(contents: Sequence[bytes], max_pixels: int = MAX_PIXELS) -> tuple[bool, list[int]]:
    """Returns whether all files hold images of one size, and which of them are out of the ordinary.

    Args:
      contents: the bytes of some files, of one at the least.
      max_pixels: how many an ordinary file has at most.

    Returns:
      the bool, and the places of files that are no PNG or JPEG, have a header that cannot be
      followed, or more than `max_pixels`.
    """
    end = _end_of_size(contents[0])
    if end is not None:
        # Files of one program are mostly the same up to the size: a comparison, not a walk.
        head = contents[0][:end]
        ordinary = _num_pixels(size_in_header(contents[0])) <= max_pixels
        if ordinary and all(data.startswith(head) for data in contents):
            return True, []
    sizes = [size_in_header(data) for data in contents]
    different = set(sizes)
    strange = {size for size in different if size is None or _num_pixels(size) > max_pixels}
    if not strange:
        return len(different) == 1, []
    return False, [place for place, size in enumerate(sizes) if size in strange]


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Returns width and height in pixels of a PNG, JPEG, GIF, BMP or WebP; None where unknown.

    Of a GIF it is the larger of its screen and its first frame.
    """
    if data.startswith(_PNG_HEAD):
        return _number(data, 16, 4, "big"), _number(data, 20, 4, "big")
    if data.startswith(_JPEG_HEAD):
        return _of_jpeg(data)
    if data.startswith(b"GIF8"):
        return _of_gif(data)
    if data.startswith(b"BM"):
        if _number(data, 14, 4) == 12:  # the header of OS/2
            return _number(data, 18, 2), _number(data, 20, 2)
        height = _number(data, 22, 4)
        return _number(data, 18, 4), min(height, 2**32 - height)  # negative: from the top
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _of_webp(data)
    return None


def is_animated_webp(data: bytes) -> bool:
    """Returns whether the header says that a WebP has several frames."""
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and bool(_number(data, 20, 1) & 2)


def _num_pixels(size: bytes | None) -> int:
    """Returns the product of the two numbers that `size_in_header` returned."""
    assert size is not None
    half = len(size) // 2
    return int.from_bytes(size[:half], "big") * int.from_bytes(size[half:], "big")


def _number(data: bytes, start: int, length: int, order: str = "little") -> int:
    return int.from_bytes(data[start : start + length], order)  # type: ignore[arg-type]


def _end_of_size(data: bytes) -> int | None:
    """Returns where height and width end in the header of a PNG or JPEG."""
    if data.startswith(_PNG_HEAD):
        return 24
    if not data.startswith(_JPEG_HEAD):
        return None
    position, end = 2, len(data) - 9
    while position < end and data[position] == 0xFF:
        if data[position + 1] in _FRAMES:
            return position + 9
        position += 2 + (data[position + 2] << 8) + data[position + 3]
    return None


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    """Returns the size in the first frame header, found as libjpeg finds it: garbage is skipped."""
    position = 2
    while (
        found := re.compile(rb"\xff+([^\x00\xff])", re.DOTALL).search(data, position)
    ) is not None:
        marker, position = data[found.start(1)], found.end()
        if marker in _FRAMES:
            return _number(data, position + 5, 2, "big"), _number(data, position + 3, 2, "big")
        if marker not in _ALONE:
            position += max(2, _number(data, position, 2, "big"))
    return None


def _of_gif(data: bytes) -> tuple[int, int]:
    width, height = _number(data, 6, 2), _number(data, 8, 2)
    flags = _number(data, 10, 1)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while data[position : position + 1] == b"!":  # extensions before the first frame
        position += 2
        while length := _number(data, position, 1):
            position += 1 + length
        position += 1
    if data[position : position + 1] == b",":
        width = max(width, _number(data, position + 5, 2))
        height = max(height, _number(data, position + 7, 2))
    return width, height


def _of_webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        return _number(data, 26, 2) & 0x3FFF, _number(data, 28, 2) & 0x3FFF
    if kind == b"VP8L":
        bits = _number(data, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return _number(data, 24, 3) + 1, _number(data, 27, 3) + 1
    return None
