"""`scan --check`: opens and decodes every image of a manifest, and lists the bad files.

report = check_images(scan("photos/train"))
report.formats, report.bad        # {"jpeg": 49_998, "png": 1}, [{"key": …, "reason": …}]
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from streamkd.checks import check_choice, check_count
from streamkd.errors import readable_key
from streamkd.image_options import COLOR_CHANNELS, EXIFS, MAX_PIXELS, Background, as_background
from streamkd.keys import key_fields
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.notes import MAX_EXAMPLES, Note
from streamkd.pixels.bad_images import why_bad_bytes
from streamkd.pixels.files import read_file, why_unreadable
from streamkd.pixels.image_notes import NOTHING_ODD, ImageNotes, Oddities, oddities
from streamkd.progress import image_progress
from streamkd.tf_support import native_lines

# Files that are decoded at once.
NUM_READERS = 4
_ADVICE = "Decoders read these images and complained; look at them, or save them anew."
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
      notes: what is odd about good files; see `pixels/image_notes.py`. One note is of files about
        which a decoder complained.
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
    complaints: dict[int, str] = {}
    with native_lines.listening():
        with (
            ThreadPoolExecutor(NUM_READERS) as pool,
            image_progress(len(images), 0, "checking", progress) as bar,
        ):
            paths = (images.path(index) for index in range(len(images)))
            for index, checked in enumerate(pool.map(check, paths)):
                num_bytes += checked.num_bytes
                formats[checked.file_format] += 1
                noted.add(images.keys[index], checked.odd)
                if checked.reason is not None:
                    bad.append({**key_fields(images.keys[index]), "reason": checked.reason})
                elif checked.complaint is not None:
                    complaints[index] = checked.complaint
                bar.update(1)
        for index in [index for index, complaint in complaints.items() if not complaint]:
            complaints[index] = _complaint_about(images.path(index), check)
    return CheckReport(
        num_bytes=num_bytes,
        formats=dict(sorted(formats.items())),
        bad=bad,
        notes=noted.notes() + _suspicious(images, complaints),
    )


class _Checked(NamedTuple):
    """One file: its bytes, its format, why it cannot be decoded, or None, and what is odd.

    `complaint` is what a decoder wrote about it; empty if it may have been about another file that
    was decoded meanwhile; None if nothing was written.
    """

    num_bytes: int
    file_format: str
    reason: str | None
    odd: Oddities = NOTHING_ODD
    complaint: str | None = None


def _check(path: bytes, max_pixels: int, num_channels: int, background: Background) -> _Checked:
    """Reads and decodes one file."""
    try:
        data = read_file(path)
    except OSError as error:
        return _Checked(0, "unreadable", why_unreadable(error))
    native_lines.take_own()
    before = native_lines.num_bytes()
    reason = why_bad_bytes(
        data, max_pixels=max_pixels, num_channels=num_channels, background=background
    )
    complaint = native_lines.take_own()
    if complaint is None and native_lines.num_bytes() != before:
        complaint = ""
    odd = oddities(data, max_pixels) if reason is None else NOTHING_ODD
    return _Checked(len(data), _format(data), reason, odd, complaint)


def _complaint_about(path: bytes, check: Callable[[bytes], _Checked]) -> str:
    """Returns what decoders write about a file while no other file is decoded; often nothing."""
    native_lines.take()
    check(path)
    return next(iter(native_lines.take()[1]), "")


def _suspicious(images: Manifest, complaints: dict[int, str]) -> list[Note]:
    """Returns the note of the files about which decoders complained, in a list."""
    examples = [
        f"{readable_key(images.keys[index])}: {complaint}"
        for index, complaint in sorted(complaints.items())
        if complaint
    ]
    if not examples:
        return []
    return [Note("suspicious_images", len(examples), examples[:MAX_EXAMPLES], _ADVICE)]


def _format(data: bytes) -> str:
    """Returns the format of a file by its first bytes."""
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] in (b"avif", b"avis") else "other"
    formats = (name for magic, name in MAGIC.items() if data.startswith(magic))
    return next(formats, "other")
