"""Images of any format, mode, depth and rotation tag for a seed, and the pixels that they show.

    image = drawn(seed)             # image.data, image.kind, image.num_channels, image.exif
    expected(image)                 # float64 [height, width, channels], 0 to 255

Pillow is the oracle. Where Pillow shows fewer bits than the file has, the drawn levels are.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
COLOR_MODES = {1: "grayscale", 3: "rgb", 4: "rgba"}
ORIENTATION = 0x0112
JPEG_QUALITIES = (50, 75, 90, 95)
# Formats with the modes that Pillow writes them in, and how often each is drawn.
KINDS = {
    "JPEG": ("L", "RGB", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "L+", "RGB+", "I;16", "RGB;16", "RGBA;16"),
    "GIF": ("1", "L", "P", "PA", "RGB"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("L", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("L", "RGB", "RGBA"),
}
# Modes of 32-bit numbers, which are refused: no file says which number is white.
REFUSED = (("TIFF", "I"), ("TIFF", "F"))
ALL_KINDS = [(name, mode) for name, modes in KINDS.items() for mode in modes] + list(REFUSED)


class Drawn(NamedTuple):
    """One image: its bytes, and how it is to be decoded.

    `levels` are those of 16 bits, uint16 `[height, width, channels]`; None for other depths.
    """

    data: bytes
    kind: tuple[str, str]
    num_channels: int
    exif: str
    levels: np.ndarray | None


def picture(chance: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns smooth colours with an alpha, float64 `[height, width, 4]`, 0 to 1."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    phases = chance.uniform(0, 6, 4)
    planes = [0.5 + 0.48 * np.sin(3 * x + 2 * y + phase) for phase in phases]
    return np.stack(planes, -1)


def drawn(seed: int, kinds: list[tuple[str, str]] | None = None) -> Drawn:
    """Returns the image of a seed."""
    chance = np.random.default_rng(seed)
    choices = kinds or ALL_KINDS
    kind = choices[seed % len(choices)]
    largest = 250 if kind[0] == "JPEG" and seed % 3 == 0 else 60
    height, width = (int(side) for side in chance.integers(1, largest, 2))
    colours = picture(chance, height, width)
    write = _write_sixteen_bits if "16" in kind[1] else _write
    data, levels = write(kind, colours, chance)
    num_channels = (1, 3, 4)[chance.integers(3)]
    return Drawn(data, kind, num_channels, ("ignore", "apply")[chance.integers(2)], levels)


def _write(
    kind: tuple[str, str], colours: np.ndarray, chance: np.random.Generator
) -> tuple[bytes, None]:
    """Returns a file of 8 bits or fewer, or of 32; with a rotation tag where the format has one."""
    file_format, mode = kind[0], kind[1].removesuffix("+")
    image = Image.fromarray((colours * 255).astype(np.uint8), "RGBA")
    if mode in ("P", "PA"):
        image = image.convert("RGB").quantize(int(chance.choice([2, 4, 16, 32, 256])))
    elif mode in ("I", "F"):
        image = image.convert("L").convert(mode)
    elif mode != "RGBA":
        image = image.convert("LA" if mode == "LA" else "RGB").convert(mode)
    options = dict(_options(file_format, chance))
    exif = Image.Exif()
    exif[ORIENTATION] = int(chance.integers(1, 9))
    if file_format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") and chance.integers(2):
        options["exif"] = exif
    if mode == "PA" or kind[1].endswith("+"):  # one colour is transparent
        colour = image.getpixel((0, 0))
        options["transparency"] = colour if mode != "RGB" else tuple(colour)
    data = io.BytesIO()
    image.save(data, file_format, **options)
    return data.getvalue(), None


def _options(file_format: str, chance: np.random.Generator) -> dict[str, object]:
    """Returns options of a format's encoder that change how the file is laid out."""
    if file_format == "JPEG":
        quality = int(chance.choice(JPEG_QUALITIES))
        subsampling, progressive = int(chance.integers(3)), bool(chance.integers(2))
        return {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    if file_format == "TIFF":
        return {"compression": str(chance.choice(["raw", "tiff_lzw", "tiff_deflate", "packbits"]))}
    if file_format == "WEBP":
        return {"lossless": True, "exact": True}
    return {"JPEG2000": {"no_jp2": bool(chance.integers(2))}}.get(file_format, {})


def _write_sixteen_bits(
    kind: tuple[str, str], colours: np.ndarray, _: np.random.Generator
) -> tuple[bytes, np.ndarray]:
    """Returns a file of 16 bits and its levels; a TIFF in either byte order."""
    file_format, mode = kind
    num_planes = {"I": 1, "RGB": 3, "RGBA": 4}[mode.partition(";")[0]]
    levels = (colours[..., :num_planes] * 65535).astype(np.uint16)
    if file_format == "TIFF":
        data = io.BytesIO()
        order = ">u2" if mode.endswith("B") else "<u2"
        Image.fromarray(levels[..., 0].astype(order)).save(data, "TIFF")
        return data.getvalue(), levels
    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    color_type = {1: 0, 3: 2, 4: 6}[num_planes]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks), levels


def _chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def size_of(image: Drawn) -> tuple[int, int]:
    """Returns height and width of the image as it is to be shown."""
    return expected(image).shape[:2]


def expected(image: Drawn) -> np.ndarray:
    """Returns the pixels that are to be shown, float64 `[height, width, channels]`, 0 to 255."""
    if image.levels is not None:
        return _of_levels(image.levels / 257, image.num_channels)
    with Image.open(io.BytesIO(image.data)) as opened:
        if image.exif == "apply":
            opened = ImageOps.exif_transpose(opened)
        return _shown_by_pillow(opened, image)


def _shown_by_pillow(opened: Image.Image, image: Drawn) -> np.ndarray:
    """Returns the pixels of an opened image; the colours behind transparency are shown in rgb."""
    if image.num_channels == 4 or (image.num_channels == 3 and opened.mode in ("RGBA", "LA", "P")):
        pixels = np.asarray(opened.convert("RGBA"), np.float64)
        if image.num_channels == 4:
            return pixels
        if image.kind == ("GIF", "PA"):  # TensorFlow has black there
            return pixels[..., :3] * (pixels[..., 3:] > 0)
        return pixels[..., :3]
    pixels = np.asarray(opened.convert(MODES[image.num_channels]), np.float64)
    return pixels.reshape(*pixels.shape[:2], image.num_channels)


def _of_levels(levels: np.ndarray, num_channels: int) -> np.ndarray:
    colours = levels[..., :3] if levels.shape[-1] > 1 else levels[..., [0, 0, 0]]
    if num_channels == 1:
        return colours @ np.array([[0.299], [0.587], [0.114]])
    if num_channels == 3:
        return colours
    alpha = levels[..., 3:] if levels.shape[-1] == 4 else np.full((*levels.shape[:2], 1), 255.0)
    return np.concatenate([colours, alpha], -1)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns pixels at another size by Pillow's antialiased bilinear filter."""
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels[..., plane], np.float32)).resize(
                size[::-1], Image.Resampling.BILINEAR
            )
        )
        for plane in range(pixels.shape[-1])
    ]
    return np.stack(planes, -1)


def damaged(data: bytes, chance: np.random.Generator) -> bytes:
    """Returns a file that is cut or has a few other bytes."""
    if chance.integers(2):
        return data[: int(chance.integers(1, len(data)))]
    changed = bytearray(data)
    for _ in range(int(chance.integers(1, 6))):
        changed[int(chance.integers(len(changed)))] = int(chance.integers(256))
    return bytes(changed)
