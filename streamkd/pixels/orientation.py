"""How a photograph is turned, by its EXIF or XMP tag: read from the header, without decoding.

    orientation(data)          # 6: turned by a quarter; 1: upright, or nothing says otherwise
    marked(data, 6)            # bytes that `pixels/turned.py` decodes to the upright image

Numbers are those of EXIF, 1 to 8. JPEG, PNG and WebP are read here, as Pillow's `exif_transpose`
reads them: the tag of EXIF, else that of XMP. A TIFF is always upright, since Pillow turns it; the
turn of an AVIF is a part of its boxes, which Pillow reads.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

UPRIGHT = 1
# First bytes of a file that is to be turned; the number follows as one digit, then the file.
MARK = b"\0streamkd: turn \0"
# Segments or chunks of one file that are looked at, and bytes of each: no file has to be walked
# for longer than a few milliseconds, whatever it says of itself.
MAX_PARTS, MAX_PART_BYTES = 1 << 16, 1 << 20

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_PNG_XMP, _PNG_PROFILE = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
_XMP_TAG = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# The next marker of a JPEG behind any other bytes.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_JPEG_APP1, _JPEG_STARTS_SCAN, _JPEG_END = 0xE1, 0xDA, 0xD9
# Markers without a segment behind them: TEM, restarts, the start.
_JPEG_ALONE = frozenset([0x01, *range(0xD0, 0xD9)])
# Blocks of a WebP, and the bits by which its header announces them.
_WEBP_BLOCKS = {b"EXIF": 8, b"XMP ": 4}
_TAG = 0x0112
# TIFF's types of whole numbers, by their `struct` letters.
_NUMBERS = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}


def orientation(data: bytes) -> int:
    """Returns how the image of a file is turned, 1 to 8; 1 for other formats and damaged tags."""
    if data.startswith(b"\xff\xd8\xff"):
        parts = _of_jpeg(data)
    elif data.startswith(b"\x89PNG"):
        parts = _of_png(data)
    elif data.startswith(b"RIFF") and data[8:16] == b"WEBPVP8X":
        parts = _of_webp(data)
    else:
        return UPRIGHT
    blocks: dict[str, bytes] = {}
    for kind, block in parts:
        blocks.setdefault(kind, block)
    number = _in_exif(blocks.get("exif") or blocks.get("profile", b""))
    if number is None and (found := _XMP_TAG.search(blocks.get("xmp", b""))):
        number = int(found[1])
    return number if number is not None and 1 <= number <= 8 else UPRIGHT


def marked(data: bytes, number: int) -> bytes:
    """Returns bytes that decode to an image turned by an orientation, 1 to 8."""
    return data if number == UPRIGHT else b"%s%d%s" % (MARK, number, data)


def _of_jpeg(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the EXIF and XMP blocks before the pixels of a JPEG."""
    position = 2
    for _ in range(MAX_PARTS):
        found = _JPEG_MARKER.search(data, position)
        if found is None or found[1][0] in (_JPEG_STARTS_SCAN, _JPEG_END):
            return
        position = found.end()
        if found[1][0] in _JPEG_ALONE:
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        if found[1][0] == _JPEG_APP1:
            segment = data[position + 2 : end]
            if segment.startswith(_EXIF):
                yield "exif", segment
            elif segment.startswith(_XMP):
                yield "xmp", segment
        position = end


def _of_png(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the EXIF and XMP blocks of a PNG, which may follow the pixels."""
    position = 8
    for _ in range(MAX_PARTS):
        num_bytes = int.from_bytes(data[position : position + 4], "big")
        kind, start = data[position + 4 : position + 8], position + 8
        if kind in (b"IEND", b""):
            break
        block = b""
        if kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
            block = data[start : start + min(num_bytes, MAX_PART_BYTES)]
        if kind == b"eXIf":
            yield "exif", block
        elif kind == b"iTXt" and block.startswith(_PNG_XMP):
            is_packed, text = block[18:19] == b"\1", block[20:].split(b"\0", 2)[-1]
            yield "xmp", _unpacked(text) if is_packed else text
        elif kind in (b"zTXt", b"tEXt") and block.startswith(_PNG_PROFILE):  # of ImageMagick
            text = block[len(_PNG_PROFILE) :]
            yield "profile", _unhexed(_unpacked(text[1:]) if kind == b"zTXt" else text)
        position = start + num_bytes + 4


def _unpacked(stream: bytes) -> bytes:
    """Returns what zlib has packed, at most so many bytes; nothing for a damaged stream."""
    try:
        return zlib.decompressobj().decompress(stream, MAX_PART_BYTES)
    except zlib.error:
        return b""


def _unhexed(text: bytes) -> bytes:
    """Returns the bytes of a profile: name and length in lines of their own, then hexadecimal."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _of_webp(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the EXIF and XMP blocks of a WebP."""
    position = 12
    for _ in range(MAX_PARTS):
        kind, start = data[position : position + 4], position + 8
        num_bytes = int.from_bytes(data[position + 4 : start], "little")
        if not kind or len(data) < 21:
            return
        if kind in _WEBP_BLOCKS and data[20] & _WEBP_BLOCKS[kind]:
            block = data[start : start + min(num_bytes, MAX_PART_BYTES)]
            yield ("exif" if kind == b"EXIF" else "xmp"), block
        position = start + num_bytes + num_bytes % 2


def _in_exif(block: bytes) -> int | None:
    """Returns the orientation's number in an EXIF block, 0 if it is no number; None without it."""
    while block.startswith(_EXIF):
        block = block[len(_EXIF) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start + 2 > len(block):
        return None
    (num_entries,) = struct.unpack_from(f"{order}H", block, start)
    number = None
    entries = block[start + 2 : start + 2 + 12 * num_entries]
    for tag, kind, count, value in struct.iter_unpack(
        f"{order}HHI4s", entries[: len(entries) // 12 * 12]
    ):
        if tag == _TAG:
            is_number = count == 1 and kind in _NUMBERS
            number = struct.unpack_from(order + _NUMBERS[kind], value)[0] if is_number else 0
    return number
