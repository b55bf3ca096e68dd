"""The size of an image as its header gives it, without decoding: PNG and JPEG.

Only ever used to choose the faster of two ways to the same pixels, so that an unknown format or a
strange header costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_JPEG_HEAD = b"\xff\xd8\xff"
# Start-of-frame markers: C0 to CF without C4 (Huffman tables), C8 (reserved), CC (arithmetic).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def size_in_header(data: bytes) -> bytes | None:
    """Returns the bytes that hold height and width, equal for images of one size and format.

    None for anything but PNG and JPEG, and for a header that cannot be followed.
    """
    end = _end_of_size(data)
    return None if end is None else data[end - (8 if data[0] == 0x89 else 4) : end]


def have_one_size(contents: Sequence[bytes]) -> bool:
    """Returns whether all files are known to hold images of one size."""
    end = _end_of_size(contents[0])
    if end is None:
        return False
    # Files of one program are mostly the same up to the size: a comparison, not a walk, for each.
    head = contents[0][:end]
    if all(data.startswith(head) for data in contents):
        return True
    size = size_in_header(contents[0])
    return all(size_in_header(data) == size for data in contents)


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
