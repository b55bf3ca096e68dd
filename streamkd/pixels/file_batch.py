"""Reads the files of a batch, and replaces each bad file by a black pixel.

    files = read_files(paths)                     # raises at the first bad file
    files = read_files(paths, report_bad=report)  # report(3, "the file is gone"), and a black pixel

TensorFlow decodes the bytes in `files.file_bytes`. An image that Pillow has converted, or a black
pixel, has other bytes than its file. `files.known_digests` then has the digest of the file, so that
a content digest is always that of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from streamkd.image_options import MAX_PIXELS
from streamkd.pixels.content_digest import digest_each
from streamkd.pixels.files import read_file, why_unreadable
from streamkd.pixels.header import inspect_headers
from streamkd.pixels.pillow_fallback import UndecodableError, decodable
from streamkd.pixels.who_decodes import is_odd_for

# A PNG of one black pixel: it decodes to zeros at any size and with any channels.
BLACK_PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~"
    b"\x9bU\x00\x00\x00\nIDATx\xdac`\x00\x00\x00\x02\x00\x01\xe5'\xde\xfc\x00\x00\x00\x00IEND\xaeB`"
    b"\x82"
)


class Files(NamedTuple):
    """The files of a batch.

    Attributes:
      file_bytes: object `[files]`, bytes objects, which TensorFlow takes as strings.
      one_size: bool, whether all images are known to have one size, as `decode_batch` asks.
      known_digests: uint64 `[files]`, the digest of the original file for which a converted image
        or a black pixel stands in; 0 for a file that stands for itself.
      bad: bool `[files]`, files for which `file_bytes` has a black pixel.
    """

    file_bytes: np.ndarray
    one_size: np.bool_
    known_digests: np.ndarray
    bad: np.ndarray


def read_files(
    paths: Sequence[bytes],
    *,
    report_bad: Callable[[int, str], None] | None = None,
    known_bad: np.ndarray | None = None,
    max_pixels: int = MAX_PIXELS,
    num_channels: int = 3,
) -> Files:
    """Returns the bytes of the files of a batch, which has at least one.

    Args:
      paths: the paths of the files.
      report_bad: called with the index and the reason of each file that cannot be read, or that its
        header refuses; by default the first such file is an error. Files that only the decoder
        refuses are not known yet.
      known_bad: bool `[files]`, bad files that are not even read.
      max_pixels: largest number of pixels of an image; one with more is bad.
      num_channels: of the pixels that the files are decoded to.

    Raises:
      OSError, UndecodableError: a file is bad; the error names it.
    """
    data: list[bytes] = []
    bad = np.zeros(len(paths), bool)
    for index, path in enumerate(paths):
        if known_bad is not None and known_bad[index]:
            bad[index] = True
            data.append(b"")
            continue
        try:
            data.append(read_file(path))
        except OSError as error:
            if report_bad is None:
                raise
            report_bad(index, why_unreadable(error))
            bad[index] = True
            data.append(b"")
    one_size, odd = inspect_headers(data, max_pixels)
    if num_channels != 3:
        odd = sorted({*odd, *(i for i, d in enumerate(data) if is_odd_for(d, num_channels))})
        one_size = one_size and not odd
    known_digests = np.zeros(len(paths), np.uint64)
    for index in odd:
        original = data[index]
        try:
            data[index] = (
                BLACK_PIXEL if bad[index] else decodable(original, max_pixels, num_channels)
            )
        except UndecodableError as error:
            if report_bad is None:
                raise UndecodableError(f"{paths[index]!r}: {error}") from error
            report_bad(index, str(error))
            bad[index] = True
            data[index] = BLACK_PIXEL
        if data[index] is not original:
            # A file that could not be read has the digest of no bytes.
            known_digests[index] = digest_each([original])[0]
    return Files(np.array(data, object), np.bool_(one_size), known_digests, bad)


def leave_out(files: Files, indices: Sequence[int]) -> Files:
    """Returns the files of a batch with black pixels for more bad files, those at `indices`."""
    if not len(indices):
        return files
    file_bytes, known_digests = files.file_bytes.copy(), files.known_digests.copy()
    bad = files.bad.copy()
    for index in indices:
        if not known_digests[index]:
            known_digests[index] = digest_each([file_bytes[index]])[0]
        file_bytes[index] = BLACK_PIXEL
        bad[index] = True
    return Files(file_bytes, np.bool_(False), known_digests, bad)
