"""Fetches the files of a batch, and puts a black pixel in the place of those that are bad.

    files = read_files(paths)                     # raises where one cannot be read
    files = read_files(paths, on_bad=report)      # reports it, and goes on

What is handed over is what TensorFlow decodes. Where that is not the file's own bytes, the digest
of those goes along, so that content known_digests are always those of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from streamkd.image_options import MAX_PIXELS
from streamkd.pixels.content_digest import digest_each
from streamkd.pixels.files import read_file, why_unreadable
from streamkd.pixels.header import look_at
from streamkd.pixels.pillow_fallback import UndecodableError, decodable

# One black pixel, as PNG: whatever the size and the channels asked for, it decodes to zeros.
BLACK_PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~"
    b"\x9bU\x00\x00\x00\nIDATx\xdac`\x00\x00\x00\x02\x00\x01\xe5'\xde\xfc\x00\x00\x00\x00IEND\xaeB`"
    b"\x82"
)


class Files(NamedTuple):
    """The files of a batch.

    Attributes:
      file_bytes: object `[files]`, bytes as TensorFlow takes strings.
      one_size: bool, whether they hold images of one size, as `decode_batch` wants to know.
      known_digests: uint64 `[files]`, the digest of the original file where a converted or black
        image stands in; else 0.
      bad: bool `[files]`, where `file_bytes` has a black pixel instead.
    """

    file_bytes: np.ndarray
    one_size: np.bool_
    known_digests: np.ndarray
    bad: np.ndarray


def read_files(
    paths: Sequence[bytes],
    *,
    on_bad: Callable[[int, str], None] | None = None,
    known_bad: np.ndarray | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Files:
    """Returns the bytes of some files.

    Args:
      paths: of one file at the least.
      on_bad: called with the place and the reason of each file that cannot be read or is refused
        by its header; by default the first of them is an error. What the decoder will say of the
        others is not known yet.
      known_bad: bool `[files]`, files that are left out unread.
      max_pixels: an image of more is bad.

    Raises:
      OSError, UndecodableError: one of them is bad; the error names it.
    """
    data: list[bytes] = []
    bad = np.zeros(len(paths), bool)
    for place, path in enumerate(paths):
        if known_bad is not None and known_bad[place]:
            bad[place] = True
            data.append(b"")
            continue
        try:
            data.append(read_file(path))
        except OSError as error:
            if on_bad is None:
                raise
            on_bad(place, why_unreadable(error))
            bad[place] = True
            data.append(b"")
    one_size, odd = look_at(data, max_pixels)
    known_digests = np.zeros(len(paths), np.uint64)
    for place in odd:
        original = data[place]
        try:
            data[place] = BLACK_PIXEL if bad[place] else decodable(original, max_pixels)
        except UndecodableError as error:
            if on_bad is None:
                raise UndecodableError(f"{paths[place]!r}: {error}") from error
            on_bad(place, str(error))
            bad[place] = True
            data[place] = BLACK_PIXEL
        if data[place] is not original:
            # Of a file that could not be read it is the digest of nothing.
            known_digests[place] = digest_each([original])[0]
    file_bytes = np.empty(len(data), object)
    file_bytes[:] = data
    return Files(file_bytes, np.bool_(one_size), known_digests, bad)


def leave_out(files: Files, places: Sequence[int]) -> Files:
    """Returns files with a black pixel instead of some that turned out to be bad."""
    if not len(places):
        return files
    file_bytes, known_digests, bad = (
        files.file_bytes.copy(),
        files.known_digests.copy(),
        files.bad.copy(),
    )
    for place in places:
        if not known_digests[place]:
            known_digests[place] = digest_each([file_bytes[place]])[0]
        file_bytes[place] = BLACK_PIXEL
        bad[place] = True
    return Files(file_bytes, np.bool_(False), known_digests, bad)
