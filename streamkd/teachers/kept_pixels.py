"""Pixels that a teacher's pass leaves for training: it decodes each image, and keeps it on disk.

    kept = kept_pixels(images, options, views, "disk", directory=None, num_bytes=None)
    kept.open()                                  # refuses a disk without room
    kept.about_to_read(indices)                  # before the files of these images are read
    kept.keep(indices, pixels, content_digests)

The files are those of `train --cache disk` (`pixels/cache/pixel_cache.py`), which finds them filled
if it trains on the same list of images at the same size. Nothing in the store depends on them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import numpy as np

from streamkd import disk
from streamkd.checks import check_count
from streamkd.errors import DiskFullError, OptionError
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.cache.cache_place import cache_path, present_on_disk
from streamkd.pixels.cache.free_space import RECORD_BYTES, free_disk, image_bytes
from streamkd.pixels.cache.pixel_cache import PixelCache
from streamkd.store.collection import flatten
from streamkd.store.row_store import RowStore
from streamkd.views.render import cached_options
from streamkd.views.views import Views


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptPixels:
    """Where a pass, or a part of it, leaves the pixels of its images.

    Attributes:
      listed: the images as training will list them: their order is the cache's.
      canonical: the size of cached images, and all else that decides on their pixels.
      positions: int64 `[images]`, where the images of the pass stand in `listed`.
      directory, num_bytes: as in `PixelCache.on_disk`.
    """

    listed: Manifest
    canonical: ImageOptions
    positions: np.ndarray
    directory: str | os.PathLike | None
    num_bytes: int | None

    def selected(self, indices: np.ndarray | slice) -> KeptPixels:
        """Returns the same for some of the images of the pass."""
        return dataclasses.replace(self, positions=self.positions[indices])

    def open(self) -> None:
        """Opens the cache, or makes it.

        Raises:
          DiskFullError: the disk has no room for the pixels of this pass.
          OutputError: the directory cannot be written, or has another user's cache.
        """
        folder = cache_path(self.listed, self.canonical, self.directory).parent
        with disk.refusals(str(folder), ending="Give another one: `--cache-directory`."):
            self._refuse_without_room()
        _ = self._cache

    def about_to_read(self, indices: np.ndarray) -> None:
        """Notes size and time of change of the files of images of the pass, int64 `[images]`."""
        self._cache.about_to_read(self.positions[indices])

    def keep(self, indices: np.ndarray, pixels: np.ndarray, content_digests: np.ndarray) -> None:
        """Keeps pixels of images of the pass, as `PixelCache.put` does; warns of a full disk."""
        self._cache.put(self.positions[indices], pixels, content_digests)

    @functools.cached_property
    def _cache(self) -> PixelCache:
        # A part of a pass fills its part of the file, and need not have room for all.
        whole = len(self.listed) * image_bytes(self.canonical)
        return PixelCache.on_disk(
            self.listed, self.canonical, self.directory, num_bytes=self.num_bytes or whole
        )

    def _refuse_without_room(self) -> None:
        """Refuses a pass whose pixels would fill the disk, before the teacher is asked."""
        path = cache_path(self.listed, self.canonical, self.directory)
        one = image_bytes(self.canonical)
        capacity = len(self.listed) if self.num_bytes is None else self.num_bytes // one
        wanted = self.positions[self.positions < capacity]
        present = present_on_disk(path, len(self.listed))
        needed = int((~present[wanted]).sum()) * one
        needed += 0 if path.exists() else capacity * RECORD_BYTES
        free = free_disk(path.parent)
        if needed <= free:
            return
        raise DiskFullError(
            f"The disk has no room for the decoded pixels of {len(wanted):,} images.\n"
            f"  needed: {needed / 1e9:,.2f} GB, at {_size(self.canonical)}\n"
            f"  free:   {free / 1e9:,.2f} GB in {path.parent}\n"
            "Free some, give another `--cache-directory` or a limit with `--cache-bytes`, or leave "
            "`--cache disk` out."
        )


def kept_pixels(
    images: Manifest,
    options: ImageOptions,
    views: Views,
    cache: str | None,
    *,
    directory: str | os.PathLike | None,
    num_bytes: int | None,
) -> KeptPixels | None:
    """Returns where a pass over images, in key order, leaves their pixels; None without a cache.

    Args:
      images: as they are listed.
      options, views: what the teacher sees.
      cache, directory, num_bytes: the arguments `cache`, `cache_directory`, `cache_bytes`.

    Raises:
      OptionError: another kind of cache, or views that are not cut from one size.
    """
    check_cache(cache, directory, num_bytes)
    if cache is None:
        return None
    return KeptPixels(
        listed=images,
        canonical=cached_options(views, options),
        positions=images.keys.sort_order(),
        directory=directory,
        num_bytes=num_bytes,
    )


def check_cache(
    cache: str | None, directory: str | os.PathLike | None, num_bytes: int | None
) -> None:
    """Refuses, as an OptionError, arguments of a cache that a pass cannot fill."""
    if cache not in (None, "disk"):
        raise OptionError(
            f"The cache of a teacher's pass is {cache!r}, and the pass leaves pixels for other "
            "processes, on the disk.\nGive cache='disk', or leave it out."
        )
    if num_bytes is not None:
        check_count("cache_bytes", num_bytes)
    for flag, value in (("--cache-directory", directory), ("--cache-bytes", num_bytes)):
        if cache is None and value is not None:
            raise OptionError(
                f"{flag} is {value}, and no cache is asked for.\n"
                f"Add `--cache disk`, or leave {flag} out."
            )


def pixels_kept(
    images: Manifest, store: RowStore, directory: str | os.PathLike | None
) -> dict[str, Any]:
    """Returns what the cache of a finished store holds.

    Returns:
      `path`; `image_size`, [height, width] of its images; `num_images`, how many of `images` it has
      as far as its records say.
    """
    header = flatten([store])[0].header
    options = ImageOptions.from_dict(header.images)
    canonical = cached_options(Views.from_dict(header.views), options)
    path = cache_path(images, canonical, directory)
    num_images = int(present_on_disk(path, len(images)).sum())
    return {"path": str(path), "image_size": list(canonical.image_size), "num_images": num_images}


def _size(options: ImageOptions) -> str:
    return "x".join(map(str, options.image_size))
