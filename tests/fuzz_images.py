"""Damaged image files: each is decoded, or refused with a reason, in bounded time and memory.

`scan --check` and `teach` must agree about each of them. See `fuzz_runner.py`.
"""

from __future__ import annotations

import io
import itertools
import random
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from streamkd.image_options import COLOR_CHANNELS, ImageOptions
from streamkd.pixels.bad_images import why_bad_bytes

MAX_PIXELS = 1_000_000
# A case may need all pixels of all frames a few times, as float32.
MOST_GROWTH = 600 << 20


def _formats() -> Iterator[tuple[str, bytes]]:
    """Yields sound files of all formats and kinds."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 4), np.uint8)
    rgba = Image.fromarray(noise, "RGBA")
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", rgb, {}),
        ("JPEG", rgb, {"progressive": True, "exif": exif}),
        ("JPEG", grey, {"quality": 30}),
        ("JPEG", rgb.convert("CMYK"), {}),
        ("PNG", rgb, {}),
        ("PNG", rgba, {"exif": exif}),
        ("PNG", grey.convert("1"), {}),
        ("PNG", rgb.convert("P"), {"transparency": 3}),
        ("PNG", deep, {}),
        ("GIF", rgb.convert("P"), {}),
        ("GIF", rgb, frames),
        ("BMP", rgb, {}),
        ("BMP", grey, {}),
        ("BMP", rgba, {}),
        ("WEBP", rgb, {}),
        ("WEBP", rgba, {"lossless": True, "exif": exif}),
        ("WEBP", rgb, frames),
        ("TIFF", rgb, {"compression": "tiff_lzw"}),
        ("TIFF", deep, {}),
        ("TIFF", rgba, {"compression": "tiff_deflate"}),
        ("TIFF", rgb, {"compression": "jpeg"}),
        ("JPEG2000", rgb, {}),
        ("AVIF", rgb, {}),
    ]
    for kind, image, options in kinds:
        out = io.BytesIO()
        image.save(out, kind, **options)
        yield kind, out.getvalue()


def _flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 9)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _odd_numbers(data: bytes, chance: random.Random) -> bytes:
    """Writes an odd number over 1, 2 or 4 bytes, mostly in the header: sizes, counts, offsets."""
    changed = bytearray(data)
    end = len(data) if chance.random() < 0.3 else min(len(data), 200)
    width = chance.choice((1, 2, 4))
    at = chance.randrange(max(1, end - width))
    value = chance.choice((0, 1, 2, 3, 127, 255, 256, 4095, 30_000, 65_535, 1 << 24, (1 << 32) - 1))
    order = chance.choice("<>")
    kind = {1: "B", 2: "H", 4: "I"}[width]
    changed[at : at + width] = struct.pack(order + kind, value & ((1 << 8 * width) - 1))
    return bytes(changed)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _moved(data: bytes, chance: random.Random) -> bytes:
    """Repeats, removes or puts in a piece."""
    start = chance.randrange(len(data))
    piece = data[start : start + chance.choice((1, 4, 12, 100))]
    how = chance.randrange(3)
    if how == 0:
        return data[:start] + piece * chance.choice((2, 3, 500)) + data[start:]
    if how == 1:
        return data[:start] + data[start + len(piece) :]
    return data[:start] + chance.randbytes(chance.choice((1, 4, 100))) + data[start:]


def _png_chunk(data: bytes, chance: random.Random) -> bytes:
    """Changes a chunk of a PNG and gives it the right checksum, so that its reader sees it."""
    if not data.startswith(b"\x89PNG"):
        return _odd_numbers(data, chance)
    chunks, at = [], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    if not chunks:
        return _flipped(data, chance)
    chunk = chance.choice(chunks)
    if chunk[1]:
        chunk[1] = chance.choice((_flipped, _odd_numbers))(chunk[1], chance)
    if chance.random() < 0.2:
        chunks.insert(chance.randrange(len(chunks)), list(chance.choice(chunks)))
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return data[:8] + b"".join(packed)


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_flipped, _odd_numbers, _odd_numbers, _cut, _moved, _png_chunk),
)


class Fuzz:
    """Damages image files and decodes them as `scan --check` and as `teach` do."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.formats = list(_formats())
        modes = itertools.product(COLOR_CHANNELS, ("exact", "scaled"))
        self.options = [
            ImageOptions(image_size=(8, 8), color_mode=mode, decode=how, max_pixels=MAX_PIXELS)
            for mode, how in modes
        ]
        for options in self.options:  # what is made once is no growth of a case
            why_bad_bytes(self.formats[0][1], options)

    def data(self, number: int) -> tuple[str, bytes, random.Random]:
        """Returns format and bytes of a case, and its random numbers."""
        chance = random.Random(f"{self.seed} {number}")
        name, data = chance.choice(self.formats)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            data = chance.choice(CHANGES)(data, chance) or b"\0"
        return name, data, chance

    def run(self, number: int) -> str | None:
        name, data, chance = self.data(number)
        options = chance.choice(self.options)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        taught = why_bad_bytes(data, options)
        checked = why_bad_bytes(data, max_pixels=MAX_PIXELS, num_channels=options.num_channels)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        where = f"{name}, {options.color_mode}, {options.decode}"
        if grown > MOST_GROWTH:
            return f"{where}: takes {grown >> 20} MiB"
        if (taught is None) != (checked is None):
            return f"{where}: teach says {taught!r:.150}, scan --check {checked!r:.150}"
        return None
