"""Which pixel cache a stream has: in memory, on disk, or the one that the teacher's pass filled.

cache = choose_cache(images, listed, canonical, "disk", directory=None, num_bytes=None)
"""

from __future__ import annotations

import os

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.cache.cache_part import CachePart, places_among
from streamkd.pixels.cache.cache_place import cache_path
from streamkd.pixels.cache.pixel_cache import PixelCache


def choose_cache(
    images: Manifest,
    listed: Manifest,
    canonical: ImageOptions,
    kind: str,
    *,
    directory: str | os.PathLike | None,
    num_bytes: int | None,
) -> PixelCache | CachePart:
    """Returns the cache of a stream.

    Args:
      images: those of the stream.
      listed: the same, and those that the stream leaves out. A cache on disk that was filled for
        all of them serves, unless there is one of `images`.
      canonical: as in `PixelCache`.
      kind: 'memory' or 'disk'.
      directory, num_bytes: as in `PixelCache`.
    """
    if kind == "memory":
        return PixelCache.in_memory(images, canonical, num_bytes=num_bytes)
    own, of_all = (cache_path(part, canonical, directory) for part in (images, listed))
    if own != of_all and of_all.exists() and not own.exists():
        places = places_among(listed, images)
        if places is not None:
            whole = PixelCache.on_disk(listed, canonical, directory, num_bytes=num_bytes)
            return CachePart(whole, places)
    return PixelCache.on_disk(images, canonical, directory, num_bytes=num_bytes)
