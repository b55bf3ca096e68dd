"""`scan --check`: opens and decodes every image of a manifest, and lists the bad files.

report = check_images(scan("photos/train"))
report.formats, report.bad        # {"jpeg": 49_998, "png": 1}, [{"key": …, "reason": …}]
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from streamkd.checks import check_choice, check_count
from streamkd.image_options import COLOR_CHANNELS, EXIFS, MAX_PIXELS, Background, as_background
from streamkd.keys import key_fields
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.notes import Note
from streamkd.pixels.bad_images import why_bad_bytes
from streamkd.pixels.files import read_file, why_unreadable
from streamkd.pixels.image_notes import NOTHING_ODD, ImageNotes, Oddities, oddities
from streamkd.progress import image_progress

# Files that are decoded at once.
NUM_READERS = 4
# Formats by the first bytes of a file.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The files of a manifest.

    Attributes:
      num_bytes: bytes of all files.
      formats: number of files of each format, by content and not by name.
      bad: a dict with key and reason for each file that cannot be decoded.
      notes: what is odd about good files; see `pixels/image_notes.py`.
    """

    num_bytes: int
    formats: dict[str, int]
    bad: list[dict[str, Any]]
    notes: list[Note]


def check_images(
    images: Manifest,
    *,
    max_pixels: int = MAX_PIXELS,
    color_mode: str = "rgb",
    exif: str = "ignore",
    background: Background = None,
    progress: bool = True,
) -> CheckReport:
    """Returns formats, sizes and bad files of a manifest, after decoding every image.

    Args:
      images: the manifest.
      max_pixels: largest number of pixels of an image; one with more is bad.
      color_mode: 'grayscale', 'rgb' or 'rgba': the channels that the teacher will be shown, since
        another decoder may read a file for other channels.
      exif, background: what the teacher will be shown; see `ImageOptions`.
      progress: show the progress on standard error.
    """
    check_count("--max-pixels", max_pixels)
    check_choice("color_mode", color_mode, COLOR_CHANNELS)
    check_choice("exif", exif, EXIFS)
    check = functools.partial(
        _check,
        max_pixels=max_pixels,
        num_channels=COLOR_CHANNELS[color_mode],
        background=as_background(background),
    )
    noted = ImageNotes(exif, background, color_mode)
    num_bytes = 0
    formats: collections.Counter[str] = collections.Counter()
    bad = []
    with (
        ThreadPoolExecutor(NUM_READERS) as pool,
        image_progress(len(images), 0, "checking", progress) as bar,
    ):
        paths = (images.path(index) for index in range(len(images)))
        for index, (file_size, file_format, reason, odd) in enumerate(pool.map(check, paths)):
            num_bytes += file_size
            formats[file_format] += 1
            if reason is not None:
                bad.append({**key_fields(images.keys[index]), "reason": reason})
            noted.add(images.keys[index], odd)
            bar.update(1)
    return CheckReport(
        num_bytes=num_bytes,
        formats=dict(sorted(formats.items())),
        bad=bad,
        notes=noted.notes(),
    )


def _check(
    path: bytes, max_pixels: int, num_channels: int, background: Background
) -> tuple[int, str, str | None, Oddities]:
    """Returns bytes and format of one file, why it cannot be decoded, or None, and what is odd."""
    try:
        data = read_file(path)
    except OSError as error:
        return 0, "unreadable", why_unreadable(error), NOTHING_ODD
    reason = why_bad_bytes(
        data, max_pixels=max_pixels, num_channels=num_channels, background=background
    )
    odd = oddities(data, max_pixels) if reason is None else NOTHING_ODD
    return len(data), _format(data), reason, odd


def _format(data: bytes) -> str:
    """Returns the format of a file by its first bytes."""
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] in (b"avif", b"avis") else "other"
    formats = (name for magic, name in MAGIC.items() if data.startswith(magic))
    return next(formats, "other")
