"""The size of an image as its header gives it, without decoding: PNG and JPEG.

Only ever used to choose the faster of two ways to the same pixels, so that an unknown format or a
strange header costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_JPEG_HEAD = b"\xff\xd8\xff"
# Start-of-frame markers: C0 to CF without C4 (Huffman tables), C8 (reserved), CC (arithmetic).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def size_in_header(data: bytes) -> bytes | None:
    """Returns the bytes that hold height and width, equal for images of one size and format.

    None for anything but PNG and JPEG, and for a header that cannot be followed.
    """
    if data.startswith(_PNG_HEAD):
        return data[16:24]
    if not data.startswith(_JPEG_HEAD):
        return None
    position, end = 2, len(data) - 9
    while position < end and data[position] == 0xFF:
        if data[position + 1] in _FRAMES:
            return data[position + 5 : position + 9]
        position += 2 + (data[position + 2] << 8) + data[position + 3]
    return None


def have_one_size(contents: Iterable[bytes]) -> bool:
    """Returns whether all files are known to hold images of one size."""
    sizes = {size_in_header(data) for data in contents}
    return len(sizes) == 1 and None not in sizes
