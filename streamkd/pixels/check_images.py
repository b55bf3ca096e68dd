"""Opens every image of a manifest: formats, sizes, and which files are bad."""

from __future__ import annotations

import collections
import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from streamkd.checks import check_count
from streamkd.image_options import MAX_PIXELS
from streamkd.manifest.manifest import Manifest, key_fields
from streamkd.pixels.bad_images import why_bad_bytes
from streamkd.pixels.files import read_file, why_unreadable
from streamkd.progress import image_progress

NUM_READERS = 4
MAGIC = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"RIFF": "webp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"\0\0\0\x0cjP  ": "jpeg2000",
}


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What was found.

    Attributes:
      num_bytes: of all files.
      formats: number of files of each format, by content and not by name.
      bad: one dict a file that cannot be decoded, with key and reason.
    """

    num_bytes: int
    formats: dict[str, int]
    bad: list[dict[str, Any]]


def check_images(
    images: Manifest, *, max_pixels: int = MAX_PIXELS, progress: bool = True
) -> CheckReport:
    """Returns what opening and decoding every image found; one of more pixels is bad."""
    check_count("--max-pixels", max_pixels)
    check = functools.partial(_check, max_pixels=max_pixels)
    num_bytes = 0
    formats: collections.Counter[str] = collections.Counter()
    bad = []
    with (
        ThreadPoolExecutor(NUM_READERS) as pool,
        image_progress(len(images), 0, "checking", progress) as bar,
    ):
        paths = (images.path(index) for index in range(len(images)))
        for index, (size, kind, reason) in enumerate(pool.map(check, paths)):
            num_bytes += size
            formats[kind] += 1
            if reason is not None:
                bad.append({**key_fields(images.keys[index]), "reason": reason})
            bar.update(1)
    return CheckReport(num_bytes, dict(sorted(formats.items())), bad)


def _check(path: bytes, max_pixels: int) -> tuple[int, str, str | None]:
    """Returns size, format and what is wrong with one file."""
    try:
        data = read_file(path)
    except OSError as error:
        return 0, "unreadable", why_unreadable(error)
    return len(data), _format(data), why_bad_bytes(data, max_pixels=max_pixels)


def _format(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] in (b"avif", b"avis") else "other"
    kinds = (kind for magic, kind in MAGIC.items() if data.startswith(magic))
    return next(kinds, "other")
