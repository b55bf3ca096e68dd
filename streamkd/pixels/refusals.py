"""Refusals of one image: it is not there, it cannot be read, or it cannot be decoded.

    with naming(images):
        files = read_files(images.paths(indices))

The three have three remedies. Only what cannot be decoded is the image's own fault, and may be
skipped: a lost mount, a failing disk or a full table of open files marks no image as bad.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
from collections.abc import Iterator

from streamkd.errors import BadImageError, UnreadableImageError, readable_key
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.file_batch import BadFileError
from streamkd.pixels.files import is_not_there

_AGAIN = "The file may be good. Look at the disk or the mount, and give the same command again."
# What to do where the system says why a file cannot be read; `_AGAIN` elsewhere.
_REMEDIES = {
    errno.EACCES: "Give yourself the right to read it: `chmod u+r {}`.",
    errno.EPERM: "Give yourself the right to read it: `chmod u+r {}`.",
    errno.EMFILE: "Allow more open files: `ulimit -n 65536`. Then give the same command again.",
    errno.ENFILE: "Close other programs: the system has too many open files.",
    errno.ENOMEM: "Free memory, and give the same command again.",
}


def undecodable(images: Manifest, path: bytes, reason: str) -> BadImageError:
    """Returns the refusal of an image whose file was read, and is no image that can be decoded."""
    key = _key(images, path)
    return BadImageError(
        f"The image '{readable_key(key)}' cannot be decoded: {reason}.\n"
        f"  file: {os.fsdecode(path)}\n"
        "Replace or remove the file; `streamkd scan --check` lists every bad file.",
        key=key,
    )


def unreadable(images: Manifest, path: bytes, error: OSError) -> UnreadableImageError:
    """Returns the refusal of an image whose file is not there, or cannot be read."""
    key, file = _key(images, path), os.fsdecode(path)
    reason = error.strerror or str(error)
    if not is_not_there(error):
        what = f"cannot be read: {reason}"
        remedy = _REMEDIES.get(error.errno or 0, _AGAIN).format(shlex.quote(file))
    elif not os.path.isdir(images.root):
        what = "is not there, nor is the directory of the images"
        remedy = (
            f"Mount or move {os.fsdecode(images.root)} back, and give the same command again; or "
            "list the images where they are now: `streamkd scan IMAGES`."
        )
    else:
        what = f"is not there: {reason}"
        root = shlex.quote(os.fsdecode(images.root))
        remedy = f"Put the file back, or list the images again: `streamkd scan {root}`."
    return UnreadableImageError(
        f"The image '{readable_key(key)}' {what}.\n  file: {file}\n{remedy}", key=key
    )


@contextlib.contextmanager
def naming(images: Manifest) -> Iterator[None]:
    """Turns the errors of `read_files` and `read_file` into refusals that name the image.

    Raises:
      UnreadableImageError: a file is not there, or cannot be read.
      BadImageError: a file cannot be decoded.
    """
    try:
        yield
    except BadFileError as error:
        raise undecodable(images, error.path, error.reason) from error
    except OSError as error:
        raise unreadable(images, error.filename, error) from error


def _key(images: Manifest, path: bytes) -> bytes:
    return path.removeprefix(os.path.join(images.root, b""))
