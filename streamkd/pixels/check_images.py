"""`scan --check`: opens and decodes every image of a manifest, and lists the bad files.

report = check_images(scan("photos/train"))
report.formats, report.bad        # {"jpeg": 49_998, "png": 1}, [{"key": …, "reason": …}]
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from streamkd.checks import check_choice, check_count
from streamkd.errors import readable_key
from streamkd.image_options import COLOR_CHANNELS, MAX_PIXELS
from streamkd.keys import key_fields
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.notes import MAX_EXAMPLES, Note
from streamkd.pixels.bad_images import why_bad_bytes
from streamkd.pixels.files import read_file, why_unreadable
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
      notes: what looks odd about files that can be decoded.
    """

    num_bytes: int
    formats: dict[str, int]
    bad: list[dict[str, Any]]
    notes: list[Note] = dataclasses.field(default_factory=list)


def check_images(
    images: Manifest,
    *,
    max_pixels: int = MAX_PIXELS,
    color_mode: str = "rgb",
    progress: bool = True,
) -> CheckReport:
    """Returns formats, sizes and bad files of a manifest, after decoding every image.

    Args:
      images: the manifest.
      max_pixels: largest number of pixels of an image; one with more is bad.
      color_mode: 'grayscale', 'rgb' or 'rgba': the channels that the teacher will be shown, since
        another decoder may read a file for other channels.
      progress: show the progress on standard error.
    """
    check_count("--max-pixels", max_pixels)
    check_choice("color_mode", color_mode, COLOR_CHANNELS)
    num_channels = COLOR_CHANNELS[color_mode]
    check = functools.partial(_check, max_pixels=max_pixels, num_channels=num_channels)
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
                if checked.reason is not None:
                    bad.append({**key_fields(images.keys[index]), "reason": checked.reason})
                elif checked.complaint is not None:
                    complaints[index] = checked.complaint
                bar.update(1)
        for index in [index for index, complaint in complaints.items() if not complaint]:
            complaint = _complaint_about(images.path(index), check)
            if complaint:
                complaints[index] = complaint
            else:
                del complaints[index]
    return CheckReport(
        num_bytes=num_bytes,
        formats=dict(sorted(formats.items())),
        bad=bad,
        notes=_notes(images, complaints),
    )


class _Checked(NamedTuple):
    """One file: its bytes, its format, and why it cannot be decoded, or None.

    `complaint` is what a decoder wrote about it; empty if it may have been about another file that
    was decoded meanwhile; None if nothing was written.
    """

    num_bytes: int
    file_format: str
    reason: str | None
    complaint: str | None = None


def _check(path: bytes, max_pixels: int, num_channels: int) -> _Checked:
    """Reads and decodes one file."""
    try:
        data = read_file(path)
    except OSError as error:
        return _Checked(0, "unreadable", why_unreadable(error))
    before = native_lines.num_bytes()
    reason = why_bad_bytes(data, max_pixels=max_pixels, num_channels=num_channels)
    own = native_lines.take_own()
    complaint = "" if native_lines.num_bytes() != before else None
    return _Checked(len(data), _format(data), reason, complaint if own is None else own)


def _complaint_about(path: bytes, check: Callable[[bytes], _Checked]) -> str:
    """Returns what decoders write about a file while no other file is decoded; often nothing."""
    native_lines.take()
    check(path)
    return next(iter(native_lines.take()[1]), "")


def _notes(images: Manifest, complaints: dict[int, str]) -> list[Note]:
    """Returns the note of the files about which decoders complained."""
    if not complaints:
        return []
    examples = [
        f"{readable_key(images.keys[index])}: {complaint}"
        for index, complaint in itertools.islice(sorted(complaints.items()), MAX_EXAMPLES)
    ]
    return [Note("suspicious_images", len(complaints), examples, _ADVICE)]


def _format(data: bytes) -> str:
    """Returns the format of a file by its first bytes."""
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] in (b"avif", b"avis") else "other"
    formats = (name for magic, name in MAGIC.items() if data.startswith(magic))
    return next(formats, "other")
