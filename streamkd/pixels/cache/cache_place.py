"""Where the files of a pixel cache lie, and how much of it is there before anybody opens it.

path = cache_path(images, canonical, directory=None)       # …/NAME.pixels, and NAME.records beside
present = present_on_disk(path, len(images))               # bool [images]
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path

import numpy as np

from streamkd import disk
from streamkd.image_options import DECODER, ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.cache.free_space import RECORD_BYTES

VERSION = 2


def default_directory() -> Path:
    """Returns the directory of pixel caches unless a user names another one."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "streamkd" / "pixels"


def cache_path(
    images: Manifest, canonical: ImageOptions, directory: str | os.PathLike | None
) -> Path:
    """Returns the file of the pixels; arguments as in `PixelCache.on_disk`."""
    folder = default_directory() if directory is None else Path(directory)
    return folder / f"{_name_of(images, canonical)}.pixels"


def present_on_disk(path: Path, num_images: int) -> np.ndarray:
    """Returns bool `[num_images]`, the images of a cache that have a record; nothing is compared.

    A file that is missing or shorter has no more records, and one that is no file has none.
    """
    present = np.zeros(num_images, bool)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        descriptor = os.open(path.with_suffix(".records"), flags)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                data = disk.read_at(descriptor, num_images * RECORD_BYTES, 0)
                data = data[: len(data) // RECORD_BYTES * RECORD_BYTES]
                records = np.frombuffer(data, np.uint64).reshape(-1, RECORD_BYTES // 8)
                present[: len(records)] = records[:, 1] != 0
        finally:
            os.close(descriptor)
    return present


def _name_of(images: Manifest, canonical: ImageOptions) -> str:
    """Returns the name of a cache; it differs wherever an image's index or pixels could differ."""
    digest = hashlib.blake2b(digest_size=12)
    made_with = {"version": VERSION, "decoder": DECODER, "images": canonical.to_dict()}
    digest.update(json.dumps(made_with, sort_keys=True).encode())
    digest.update(os.path.abspath(images.root) + b"\0")
    digest.update(images.keys.offsets.tobytes())
    digest.update(images.keys.data.tobytes())
    return digest.hexdigest()
