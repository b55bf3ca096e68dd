"""Reads the files of a batch, and replaces each bad file by a black pixel.

    files = read_files(paths)                     # raises at the first bad file
    files = read_files(paths, report_bad=report)  # report(3, "it is empty"), and a black pixel

A file that is not there, or that the system does not read, is an error in both cases.

TensorFlow decodes the bytes in `files.file_bytes`. An image that Pillow has converted, one that is
to be turned, or a black pixel, has other bytes than its file. `files.known_digests` then has the
digest of the file, so that a content digest is always that of a file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from streamkd.image_options import MAX_PIXELS, Background
from streamkd.pixels.content_digest import digest_each
from streamkd.pixels.files import is_no_file, read_file, why_unreadable
from streamkd.pixels.header import inspect_headers
from streamkd.pixels.pillow_fallback import UndecodableError, decodable
from streamkd.pixels.who_decodes import is_odd_for

# A PNG of one black pixel: it decodes to zeros at any size and with any channels.
BLACK_PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~"
    b"\x9bU\x00\x00\x00\nIDATx\xdac`\x00\x00\x00\x02\x00\x01\xe5'\xde\xfc\x00\x00\x00\x00IEND\xaeB`"
    b"\x82"
)


class BadFileError(UndecodableError):
    """A file of a batch that is no image.

    Attributes:
      path: of the file.
      reason: in words.
    """

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__(f"{path!r}: {reason}")
        self.path, self.reason = path, reason


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
    exif: str = "ignore",
    background: Background = None,
) -> Files:
    """Returns the bytes of the files of a batch, which has at least one.

    Args:
      paths: the paths of the files.
      report_bad: called with the index and the reason of each file that its header refuses, or that
        is no file but a folder or a device; by default the first such file is an error. Files that
        only the decoder refuses are not known yet.
      known_bad: bool `[files]`, bad files that are not even read.
      max_pixels: largest number of pixels of an image; one with more is bad.
      num_channels: of the pixels that the files are decoded to.
      exif, background: as in `ImageOptions`.

    Raises:
      OSError: a file is not there or cannot be read; `filename` is its path.
      BadFileError: a file is bad.
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
            if not is_no_file(error):
                raise
            reason = why_unreadable(error)
            if report_bad is None:
                raise BadFileError(path, reason) from error
            report_bad(index, reason)
            bad[index] = True
            data.append(b"")
    one_size, odd = inspect_headers(data, max_pixels)
    if num_channels != 3 or exif == "apply" or background is not None:
        more = (i for i, d in enumerate(data) if is_odd_for(d, num_channels, exif, background))
        odd = sorted({*odd, *more})
        one_size = one_size and not odd
    known_digests = np.zeros(len(paths), np.uint64)
    for index in odd:
        original = data[index]
        try:
            data[index] = (
                BLACK_PIXEL
                if bad[index]
                else decodable(original, max_pixels, num_channels, exif, background)
            )
        except MemoryError as error:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), paths[index]) from error
        except UndecodableError as error:
            if report_bad is None:
                raise BadFileError(paths[index], str(error)) from error
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
