"""The size of an image as its header gives it, without decoding.

    one_size, odd = inspect_headers(file_bytes)     # a microsecond a file
    dimensions(file_bytes[odd[0]])                  # (width, height)

Images of one size are decoded by the faster of two ways to the same pixels. An image of more than
`max_pixels` is not decoded: a PNG of one megabyte can hold 400 million pixels.

Pillow also reads headers, in 5 to 9 µs, but gives no size for a WebP or a BMP that is cut short
after its header. TensorFlow would reserve memory for the pixels of such a file before it fails.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from streamkd.image_options import MAX_PIXELS
from streamkd.pixels.box_header import Steps, TooManyPartsError, box_dimensions

_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_JPEG_HEAD = b"\xff\xd8\xff"
# Start-of-frame markers: C0 to CF without C4 (Huffman tables), C8 (reserved), CC (arithmetic).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Second bytes without a segment behind them: data, TEM, restarts, the start, and filling.
_WITHOUT_SEGMENT = frozenset([0x00, 0x01, *range(0xD0, 0xD9), 0xFF])
# The next marker behind any other bytes.
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
# Parts of a WebP that hold pixels: alpha before a frame, a frame with losses, one without.
_WEBP_FRAMES = (b"ALPH", b"VP8 ", b"VP8L")
# Blocks that a GIF of any size may have, and bytes of a block in the mean of a larger one; a
# program writes blocks of 255 bytes.
_FEW_BLOCKS, _MIN_BLOCK_BYTES = 1 << 16, 64
# First bytes of JPEG 2000, in boxes and bare.
_CODES = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
# Chunks of a PNG or WebP, or segments of a JPEG, that are looked at before its pixels.
_MAX_CHUNKS = 1 << 16


def size_in_header(data: bytes) -> bytes | None:
    """Returns the bytes of height and width, equal for images of one size and format.

    None for a file that is neither PNG nor JPEG, or whose segments do not follow each other.
    """
    end = _end_of_size(data)
    return None if end is None else data[end - (8 if data[0] == 0x89 else 4) : end]


def inspect_headers(
    file_bytes: Sequence[bytes], max_pixels: int = MAX_PIXELS
) -> tuple[bool, list[int]]:
    """Returns whether all files hold images of one size, and the indices of odd files.

    Odd are files that are neither PNG nor JPEG, whose header cannot be followed, or whose image has
    more than `max_pixels`. `file_bytes` has at least one file.
    """
    end = _end_of_size(file_bytes[0])
    if end is not None:
        # Files of one program are mostly equal up to the size: one comparison, no walk.
        head = file_bytes[0][:end]
        ordinary = _num_pixels(size_in_header(file_bytes[0])) <= max_pixels
        if ordinary and all(data.startswith(head) for data in file_bytes):
            return True, []
    sizes = [size_in_header(data) for data in file_bytes]
    distinct = set(sizes)
    odd = {size for size in distinct if size is None or _num_pixels(size) > max_pixels}
    if not odd:
        return len(distinct) == 1, []
    return False, [index for index, size in enumerate(sizes) if size in odd]


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Returns width and height in pixels of an image; None for a TIFF or another format.

    Those of a GIF are the largest of its screen and of all its frames; those of an AVIF or JPEG
    2000 are the largest of its boxes and its codes.

    Raises:
      TooManyPartsError: the file has very many parts.
    """
    if data.startswith(_PNG_HEAD):
        return _number(data, 16, 4, "big"), _number(data, 20, 4, "big")
    if data.startswith(_JPEG_HEAD):
        end = _end_of_jpeg_size(data, skip_garbage=True)
        if end is None:
            return None
        return _number(data, end - 2, 2, "big"), _number(data, end - 4, 2, "big")
    if data.startswith(b"GIF8"):
        return _gif_dimensions(data)
    if data.startswith(b"BM"):
        if _number(data, 14, 4) == 12:  # the header of OS/2
            return _number(data, 18, 2), _number(data, 20, 2)
        height = _number(data, 22, 4)
        return _number(data, 18, 4), min(height, 2**32 - height)  # negative: from the top
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_dimensions(data)
    return box_dimensions(data) if data.startswith(_CODES) or data[4:8] == b"ftyp" else None


def is_animated_webp(data: bytes) -> bool:
    """Returns whether the header says that a WebP has several frames."""
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and bool(_number(data, 20, 1) & 2)


def _num_pixels(size: bytes | None) -> int:
    """Returns the product of the two numbers in the bytes of `size_in_header`."""
    assert size is not None
    half = len(size) // 2
    return int.from_bytes(size[:half], "big") * int.from_bytes(size[half:], "big")


def _number(data: bytes, start: int, length: int, order: str = "little") -> int:
    return int.from_bytes(data[start : start + length], order)  # type: ignore[arg-type]


def _end_of_size(data: bytes) -> int | None:
    """Returns the index behind height and width in the header of a PNG or JPEG."""
    if data.startswith(_PNG_HEAD):
        return 24
    return _end_of_jpeg_size(data) if data.startswith(_JPEG_HEAD) else None


def _end_of_jpeg_size(data: bytes, *, skip_garbage: bool = False) -> int | None:
    """Returns the index behind height and width in the first frame header of a JPEG.

    With `skip_garbage`, looks for the next marker wherever a segment does not begin with one, as
    libjpeg does; by default such a file has no size.

    Raises:
      TooManyPartsError: very many segments come before it; by default such a file has no size.
    """
    position, last = 2, len(data) - 9
    for _ in range(_MAX_CHUNKS):
        if position > last:
            return None
        marker = data[position + 1]
        if data[position] == 0xFF and marker not in _WITHOUT_SEGMENT:
            if marker in _FRAMES:
                return position + 9
            position += 2 + (data[position + 2] << 8) + data[position + 3]
        elif not skip_garbage or (next_marker := _MARKER.search(data, position)) is None:
            return None
        else:
            is_alone = data[next_marker.start() + 1] in _WITHOUT_SEGMENT
            position = next_marker.end() if is_alone else next_marker.start()
    if skip_garbage:
        raise TooManyPartsError
    return None


def gif_screen(data: bytes) -> tuple[int, int]:
    """Returns width and height of a GIF's screen."""
    return _number(data, 6, 2), _number(data, 8, 2)


def gif_frames(data: bytes) -> list[tuple[int, int, int, int]]:
    """Returns left, top, width and height of every frame of a GIF.

    Raises:
      TooManyPartsError: the file is mostly of tiny blocks.
    """
    frames = []
    steps = Steps(_FEW_BLOCKS + len(data) // _MIN_BLOCK_BYTES)
    position = 13 + _palette_bytes(_number(data, 10, 1))
    while position < len(data):
        steps.take()
        block = data[position : position + 1]
        if block == b"!":  # an extension
            position = _after_sub_blocks(data, position + 2, steps)
        elif block == b",":
            left, top, width, height = (_number(data, position + n, 2) for n in (1, 3, 5, 7))
            frames.append((left, top, width, height))
            palette = _palette_bytes(_number(data, position + 9, 1))
            position = _after_sub_blocks(data, position + 11 + palette, steps)
        else:
            break
    return frames


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, position: int, steps: Steps) -> int:
    while length := _number(data, position, 1):
        steps.take()
        position += 1 + length
    return position + 1


def _gif_dimensions(data: bytes) -> tuple[int, int]:
    """Returns the largest width and the largest height of the screen and of all frames."""
    width, height = gif_screen(data)
    for _, _, frame_width, frame_height in gif_frames(data):
        width, height = max(width, frame_width), max(height, frame_height)
    return width, height


def png_bit_depth(data: bytes) -> int:
    """Returns the bits of a PNG's channel, or of its index into a palette: 1, 2, 4, 8 or 16."""
    return _number(data, 24, 1)


def is_transparent_png(data: bytes) -> bool:
    """Returns whether a PNG has an alpha channel or transparent colours, by its header."""
    if _number(data, 25, 1) & 4:
        return True
    position = 8
    for _ in range(_MAX_CHUNKS):
        kind = data[position + 4 : position + 8]
        if kind in (b"tRNS", b"IDAT", b""):
            return kind == b"tRNS"
        position += 12 + _number(data, position, 4, "big")
    return True  # Pillow says what is wrong


def num_jpeg_channels(data: bytes) -> int | None:
    """Returns the number of components in the first frame header of a JPEG: 1, 3 or 4."""
    end = _end_of_jpeg_size(data, skip_garbage=True)
    return None if end is None else _number(data, end, 1)


def is_plain_bmp(data: bytes) -> bool:
    """Returns whether a BMP has 24 bits a pixel, without a palette or compression."""
    return _number(data, 14, 4) >= 40 and _number(data, 28, 2) == 24 and not _number(data, 30, 4)


def is_transparent_webp(data: bytes) -> bool:
    """Returns whether a WebP has an alpha channel, by its header or by that of its frame."""
    position = 12
    if data[12:16] == b"VP8X":
        if _number(data, 20, 1) & 0x10:
            return True
        for _ in range(_MAX_CHUNKS):
            if data[position : position + 4] in (*_WEBP_FRAMES, b""):
                break
            num_bytes = _number(data, position + 4, 4)
            position += 8 + num_bytes + num_bytes % 2
    kind = data[position : position + 4]
    return kind == b"ALPH" or (kind == b"VP8L" and bool(_number(data, position + 9, 4) >> 28 & 1))


def _webp_dimensions(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        return _number(data, 26, 2) & 0x3FFF, _number(data, 28, 2) & 0x3FFF
    if kind == b"VP8L":
        bits = _number(data, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return _number(data, 24, 3) + 1, _number(data, 27, 3) + 1
    return None
