"""Image files with other lengths, counts and offsets in their headers, as `fuzz_images.py` asks.

The headers are walked as a decoder walks them, so that each number that is changed is one that a
decoder believes: chunk lengths, sizes of tiles, entries of directories, boxes within boxes.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import fuzz_images

# Where a number lies: first byte, number of bytes, byte order.
Field = tuple[int, int, str]
BOXES_OF_BOXES = (b"meta", b"iprp", b"ipco", b"jp2h", b"iinf", b"moov", b"dinf")


def _png(data: bytes) -> Iterator[Field]:
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield at, 4, "big"
        if data[at + 4 : at + 8] in (b"IHDR", b"tRNS", b"PLTE", b"eXIf"):
            wide = [(at + 8, 4, "big"), (at + 12, 4, "big")]
            yield from wide + [(at + 16 + step, 1, "big") for step in range(5)]
        at += 12 + length


def _jpeg(data: bytes) -> Iterator[Field]:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield at + 1, 1, "big"
        yield at + 2, 2, "big"
        if 0xC0 <= data[at + 1] <= 0xCF:
            yield at + 4, 1, "big"
            yield at + 5, 2, "big"
            yield at + 7, 2, "big"
        yield from ((at + 9 + step, 1, "big") for step in range(min(length - 7, 12)))
        at += 2 + length
    yield from ((at + step, 1, "big") for step in range(2, 14))


def _gif(data: bytes) -> Iterator[Field]:
    yield from ((at, 2, "little") for at in (6, 8))
    yield from ((at, 1, "little") for at in (10, 11))
    at = data.find(b"\x2c\0\0")
    while at >= 0:
        yield from ((at + step, 2, "little") for step in (1, 3, 5, 7))
        yield from ((at + step, 1, "little") for step in (9, 10, 11))
        at = data.find(b"\x2c\0\0", at + 1)


def _bmp(_: bytes) -> Iterator[Field]:
    yield from ((at, 4, "little") for at in (2, 10, 14, 18, 22, 30, 34, 46, 50))
    yield from ((at, 2, "little") for at in (26, 28))


def _riff(data: bytes) -> Iterator[Field]:
    yield 4, 4, "little"
    at = 12
    while at + 8 <= len(data):
        yield at + 4, 4, "little"
        yield from ((at + 8 + step, 3, "little") for step in (0, 3, 4, 6, 7, 9, 12))
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")


def _tiff(data: bytes) -> Iterator[Field]:
    order = "little" if data.startswith(b"II") else "big"
    yield 4, 4, order
    at = int.from_bytes(data[4:8], order)
    count = int.from_bytes(data[at : at + 2], order)
    yield at, 2, order
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        yield from ((entry + step, 2, order) for step in (0, 2, 8))
        yield from ((entry + step, 4, order) for step in (4, 8))
    yield at + 2 + 12 * count, 4, order


def _boxes(data: bytes, at: int = 0, end: int | None = None) -> Iterator[Field]:
    end = len(data) if end is None else end
    while at + 8 <= end:
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        yield at, 4, "big"
        yield from ((step, 4, "big") for step in range(at + 8, min(at + 48, end - 4), 4))
        yield from ((step, 1, "big") for step in range(at + 8, min(at + 24, end)))
        if name in BOXES_OF_BOXES:
            inner = {b"meta": 12, b"iinf": 14}.get(name, 8)
            yield from _boxes(data, at + inner, min(at + length, end))
        if length < 8:
            return
        at += length


WALKS = {"PNG": _png, "JPEG": _jpeg, "GIF": _gif, "BMP": _bmp, "WEBP": _riff, "TIFF": _tiff}
WALKS |= {"JPEG2000": _boxes, "AVIF": _boxes}


def _with_checksums(data: bytearray) -> None:
    """Gives the chunks of a PNG that can be walked the right checksums."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            return
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4


def with_other_numbers(name: str, data: bytes, chance: random.Random) -> bytes:
    """Returns the file with one to three numbers of its headers changed."""
    changed = bytearray(data)
    fields = [field for field in WALKS[name](data) if field[0] + field[1] <= len(data)]
    for at, width, order in chance.choices(fields, k=chance.choice((1, 1, 2, 3))):
        most = (1 << 8 * width) - 1
        now = int.from_bytes(changed[at : at + width], order)
        near = (now + 1, now - 1, now * 2, now // 2, now * 256, now ^ (1 << chance.randrange(16)))
        far = (0, 1, 2, 8, 255, 1000, 30_000, most, most >> 1, (most >> 1) + 1, len(data), at)
        value = chance.choice(chance.choice((near, far))) & most
        changed[at : at + width] = value.to_bytes(width, order)
    if name == "PNG" and chance.random() < 0.9:
        _with_checksums(changed)
    return bytes(changed)


class Fuzz(fuzz_images.Fuzz):
    """Changes numbers in headers and decodes as `scan --check` and as `teach` do."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        with_fields = [name for name, data in self.formats if len(list(WALKS[name](data))) > 4]
        assert len(with_fields) == len(self.formats), "a header is not walked"

    def data(self, number: int) -> tuple[str, bytes, random.Random]:
        chance = random.Random(f"parts {self.seed} {number}")
        name, data = chance.choice(self.formats)
        return name, with_other_numbers(name, data, chance), chance
