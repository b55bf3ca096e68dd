"""A zoo: good, odd and bad image files of real folders, each with the outcome that it must have.

    manifest, expected = zoo.draw(tmp_path)
    expected[b"zoo/cmyk.jpg"]       # uint8 [32, 48, 3], the pixels that it must be decoded to
    expected[b"zoo/half.jpg"]       # a pattern: why it cannot be decoded

All good files show `PICTURE`, as far as their format can.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from streamkd.keys import Keys
from streamkd.manifest.manifest import Manifest

PICTURE = np.full((32, 48, 3), (40, 120, 180), np.uint8)
PICTURE[:16, :32] = (200, 50, 20)

INVALID = "Invalid|Trying to|mismatch|decode|damaged|Truncated|[Tt]runcated|corrupt|Unable|failed"
UNKNOWN = "Unknown image file format"
TOO_MANY = r"pixels, and at most 89,478,485 are decoded"


def saved(kind: str, mode: str = "RGB", pixels: np.ndarray = PICTURE, **options: Any) -> bytes:
    """Returns the bytes of `pixels` in a format of Pillow's."""
    file = io.BytesIO()
    image = Image.fromarray(pixels).convert(mode)
    image.save(file, kind, **options)
    return file.getvalue()


def shown(mode: str) -> np.ndarray:
    """Returns `PICTURE` in a mode of Pillow's, and back in RGB."""
    return np.asarray(Image.fromarray(PICTURE).convert(mode).convert("RGB"))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width: int, height: int) -> bytes:
    """Returns a valid black PNG of any size, whose pixels are never in memory."""
    num_bytes = height * (1 + 3 * width)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = last.compress(bytes(num_bytes % (1 << 20))) + last.flush()
    checksum = struct.pack(">I", (num_bytes % 65521) << 16 | 1)  # Adler-32 of zeros
    packed = b"\x78\xda" + part * (num_bytes >> 20) + rest + checksum
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def deep_png(num_channels: int) -> bytes:
    """Returns `PICTURE` with 16 bits a channel; grey is its red channel."""
    pixels = PICTURE[:, :, :num_channels].astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", 48, 32, 16, 0 if num_channels == 1 else 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def edited(data: bytes, position: int, new: bytes) -> bytes:
    """Returns bytes with others written over them from a position on."""
    return data[:position] + new + data[position + len(new) :]


def _frames() -> list[Image.Image]:
    return [Image.fromarray(255 - PICTURE), Image.fromarray(PICTURE[::-1].copy())]


def good_files() -> dict[bytes, tuple[bytes, np.ndarray]]:
    """Returns good files by name: their bytes, and the pixels that they show."""
    jpeg, png, moving = saved("JPEG", quality=95), saved("PNG"), {"save_all": True}
    moving |= {"append_images": _frames()}
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees, says the camera
    red = np.repeat(PICTURE[:, :, :1], 3, axis=2)
    deep = io.BytesIO()
    Image.fromarray(PICTURE[:, :, 0].astype(np.uint16) * 257).save(deep, "TIFF")
    palette_alpha = saved("PNG", "P", transparency=0)
    colour = {
        b"plain.jpg": jpeg,
        b"UPPER.JPEG": jpeg,
        b"progressive.jpg": saved("JPEG", quality=95, progressive=True),
        b"subsampled.jpg": saved("JPEG", quality=95, subsampling=2),
        b"turned.jpg": saved("JPEG", quality=95, exif=exif),
        b"much-exif.jpg": saved("JPEG", quality=95, exif=b"Exif\0\0" + b"x" * 60_000),
        b"trailing.jpg": jpeg + b"and then some",
        b"filled.jpg": jpeg[:2] + b"\xff\xff\xff" + jpeg[2:],
        b"cmyk.jpg": saved("JPEG", "CMYK", quality=95),
        b"plain.png": png,
        b"alpha.png": saved("PNG", "RGBA"),
        b"deep.png": deep_png(3),
        b"moving.png": saved("PNG", **moving),
        b"trailing.png": png + bytes(1000),
        b"plain.bmp": saved("BMP"),
        b"plain.gif": saved("GIF"),
        b"moving.gif": saved("GIF", **moving),
        b"lossless.webp": saved("WEBP", lossless=True),
        b"alpha.webp": saved("WEBP", "RGBA", lossless=True),
        b"lossy.webp": saved("WEBP", quality=95),
        b"moving.webp": saved("WEBP", lossless=True, **moving),
        b"really-png.jpg": png,
        b"really-jpeg.png": jpeg,
        b"really-gif.jpg": saved("GIF"),
        b"really-bmp.jpg": saved("BMP"),
        b"really-webp.png": saved("WEBP", lossless=True),
        b"really-tiff.jpg": saved("TIFF"),
        b"plain.tif": saved("TIFF"),
        b"packed.tiff": saved("TIFF", compression="tiff_lzw"),
        b"alpha.tiff": saved("TIFF", "RGBA"),
        b"cmyk.tiff": saved("TIFF", "CMYK"),
        b"pages.tiff": saved("TIFF", **moving),
        b"plain.avif": saved("AVIF", quality=95),
        b"plain.jp2": saved("JPEG2000"),
        b"line\nbreak.jpg": jpeg,
        b"'quoted\".jpg": jpeg,
        b" leading space.jpg": jpeg,
        b"latin-\xe9.jpg": jpeg,
        "naïve 图.jpg".encode(): jpeg,
        b"-dash.jpg": jpeg,
    }
    files = {name: (data, PICTURE) for name, data in colour.items()}
    return files | {
        b"grey.jpg": (saved("JPEG", "L", quality=95), shown("L")),
        b"grey.png": (saved("PNG", "L"), shown("L")),
        b"grey-alpha.png": (saved("PNG", "LA"), shown("L")),
        b"palette.png": (saved("PNG", "P"), shown("P")),
        b"palette-alpha.png": (palette_alpha, shown("P")),
        b"one-bit.png": (saved("PNG", "1"), shown("1")),
        b"one-bit.tif": (saved("TIFF", "1"), shown("1")),
        b"palette.tif": (saved("TIFF", "P"), shown("P")),
        b"deep-grey.png": (deep_png(1), red),
        b"deep-grey.tif": (deep.getvalue(), red),
    }


def bad_files() -> dict[bytes, tuple[bytes, str]]:
    """Returns bad files by name: their bytes, and a pattern of the reason."""
    jpeg, png, gif = saved("JPEG", quality=95), saved("PNG"), saved("GIF")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    large = saved("JPEG", pixels=noise)
    large_png, webp = saved("PNG", pixels=noise), saved("WEBP", pixels=noise)
    tiff, avif = saved("TIFF", pixels=noise), saved("AVIF", pixels=noise)
    moving = saved("WEBP", pixels=noise, save_all=True, append_images=_frames_of(noise))
    frame = jpeg.index(b"\xff\xc0")
    wide = struct.pack("<HH", 60_000, 60_000)
    float_tiff = io.BytesIO()
    Image.fromarray(PICTURE[:, :, 0].astype(np.float32)).save(float_tiff, "TIFF")
    return {
        b"half.jpg": (large[: len(large) // 2], INVALID),
        b"short-200.jpg": (large[:-200], INVALID),
        b"short-2.jpg": (large[:-2], INVALID),
        b"zero-tail.jpg": (large[: len(large) // 2] + bytes(len(large) // 2), INVALID),
        b"start.jpg": (jpeg[:3], "."),
        b"half.png": (large_png[: len(large_png) // 2], "."),
        b"no-end.png": (png[:-12], "."),
        b"zero-tail.png": (large_png[: len(large_png) // 2] + bytes(len(large_png) // 2), "."),
        b"flipped.png": (edited(png, len(png) - 24, bytes([png[-24] ^ 1])), "."),
        b"start.png": (png[:8], "."),
        b"no-pixels.png": (
            png[:16] + struct.pack(">II", 0, 0) + png[24:29] + png[29:],
            ".",
        ),
        b"half.gif": (gif[: len(gif) // 2], "."),
        b"start.gif": (gif[:6], "."),
        b"half.bmp": (saved("BMP")[:500], "."),
        b"start.bmp": (b"BM", "."),
        b"half.webp": (webp[: len(webp) // 2], "."),
        b"start.webp": (webp[:12], "."),
        b"half-moving.webp": (moving[: len(moving) // 3], "Pillow cannot decode it"),
        b"half.tif": (tiff[:5000], "Pillow|neither"),
        b"start.tif": (tiff[:8], "Pillow|neither"),
        b"half.avif": (avif[: len(avif) // 2], "Pillow|neither"),
        b"float.tif": (float_tiff.getvalue(), "its pixels are numbers of 32 bits"),
        b"phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "neither TensorFlow"),
        b"film.jpg": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(100), "neither TensorFlow"),
        b"empty.jpg": (b"", "the file is empty"),
        b"zeros.jpg": (bytes(3000), UNKNOWN),
        b"page.jpg": (b"<!DOCTYPE html><html>404 Not Found</html>", UNKNOWN),
        b"text.png": (b"no image at all\n", UNKNOWN),
        b"wide-text.png": ("no image at all".encode("utf-16"), UNKNOWN),
        b"archive.jpg": (b"PK\x03\x04" + bytes(60), UNKNOWN),
        b"drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UNKNOWN),
        b"paper.jpg": (b"%PDF-1.7\n" + bytes(60), UNKNOWN),
        b"folder-view.png": (b"\0\0\0\1Bud1\0\0\x10\0" + bytes(60), UNKNOWN),
        b"beside.jpg": (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60), UNKNOWN),
        b"program.jpg": (b"\x7fELF\2\1\1" + bytes(60), UNKNOWN),
        b"pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", UNKNOWN),
        b"random.jpg": (b"\x07" + np.random.default_rng(1).bytes(999), UNKNOWN),
        b"huge.png": (
            edited(png, 16, struct.pack(">II", 100_000, 100_000)),
            rf"100,000 x 100,000 {TOO_MANY}",
        ),
        b"huge.jpg": (
            edited(jpeg, frame + 5, struct.pack(">HH", 65_000, 65_500)),
            rf"65,500 x 65,000 {TOO_MANY}",
        ),
        b"huge-filled.jpg": (
            jpeg[:2]
            + b"\xff\xff"
            + edited(jpeg, frame + 5, struct.pack(">HH", 65_000, 65_500))[2:],
            rf"65,500 x 65,000 {TOO_MANY}",
        ),
        b"huge.gif": (edited(gif, 6, wide), rf"60,000 x 60,000 {TOO_MANY}"),
        b"huge-frame.gif": (
            edited(gif, gif.index(b",\0\0\0\0") + 5, wide),
            rf"60,000 x 60,000 {TOO_MANY}",
        ),
        b"huge.bmp": (
            edited(saved("BMP"), 18, struct.pack("<ii", 30_000, -30_000)),
            rf"30,000 x 30,000 {TOO_MANY}",
        ),
        b"huge.webp": (
            edited(moving, 24, b"\xff\xff\0\xff\xff\0"),
            rf"65,536 x 65,536 {TOO_MANY}",
        ),
        b"huge-lossless.webp": (
            edited(saved("WEBP", lossless=True), 21, struct.pack("<I", 0x0FFFFFFF)),
            rf"16,384 x 16,384 {TOO_MANY}",
        ),
        b"huge-lossy.webp": (
            edited(saved("WEBP"), 26, struct.pack("<HH", 16_000, 16_000)),
            rf"16,000 x 16,000 {TOO_MANY}",
        ),
        b"bomb.png": (png_of_zeros(20_000, 20_000), rf"20,000 x 20,000 {TOO_MANY}"),
        b"bomb.tif": (_tiff_bomb(), rf"400,000,000 {TOO_MANY}"),
    }


def _frames_of(pixels: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(255 - pixels)]


def _tiff_bomb() -> bytes:
    """Returns a TIFF whose header says 20,000 x 20,000."""
    entries = [
        *((256, 4, 1, 20_000), (257, 4, 1, 20_000), (258, 3, 1, 8), (259, 3, 1, 1)),
        *((262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 20_000), (279, 4, 1, 1)),
    ]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + packed + bytes(4)


def draw(root: Path) -> tuple[Manifest, dict[bytes, Any]]:
    """Writes the zoo into `root`/zoo; returns the manifest and the outcome of each key.

    The manifest has one class. It also lists files that a directory's listing would leave out.
    """
    folder = os.path.join(os.fsencode(root), b"zoo")
    os.makedirs(folder)
    expected: dict[bytes, Any] = {}
    for name, (data, outcome) in {**good_files(), **bad_files()}.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
        expected[name] = outcome
    for name, target in {
        b"link.jpg": b"plain.jpg",
        b"loop.jpg": b"loop.jpg",
        b"endless.jpg": b"/dev/zero",
    }.items():
        os.symlink(target, os.path.join(folder, name))
    os.mkdir(os.path.join(folder, b"folder.jpg"))
    os.mkfifo(os.path.join(folder, b"pipe.jpg"))
    expected |= {
        b"link.jpg": PICTURE,
        b"loop.jpg": "cannot be read: Too many levels of symbolic links",
        b"endless.jpg": "cannot be read: Not a file",
        b"folder.jpg": "cannot be read: Is a directory",
        b"pipe.jpg": "the file is empty",
    }
    keys = sorted(b"zoo/" + name for name in expected)
    labels = np.zeros(len(keys), np.int32)
    manifest = Manifest(os.fsencode(root), Keys.from_list(keys), labels, ["zoo"])
    return manifest, {b"zoo/" + name: outcome for name, outcome in expected.items()}
