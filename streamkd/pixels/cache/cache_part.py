"""Some images of a pixel cache, as a cache of their own: those that a stream has not left out.

    part = CachePart(cache, np.array([0, 1, 3]))
    part.has(np.array([2]))                          # asks the cache about image 3

A teacher's pass keeps the pixels of all images that it was given, and a stream may leave some out,
such as those that could not be decoded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamkd.image_options import ImageOptions
from streamkd.keys import hash_keys
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.cache.pixel_cache import PixelCache


class CachePart:
    """Images of a cache by their positions in a shorter list; methods as in `PixelCache`.

    Args:
      cache: of all images.
      places: int64 `[images]`, where the images of the shorter list stand among all.
    """

    def __init__(self, cache: PixelCache, places: np.ndarray) -> None:
        self._cache, self._places = cache, places

    @property
    def canonical(self) -> ImageOptions:
        return self._cache.canonical

    @property
    def path(self) -> Path | None:
        return self._cache.path

    @property
    def capacity(self) -> int:
        """Number of these images that the cache may keep."""
        return int((self._places < self._cache.capacity).sum())

    @property
    def is_filled(self) -> bool:
        return self._cache.are_recorded(self._places)

    def has(self, indices: np.ndarray) -> np.ndarray:
        return self._cache.has(self._places[indices])

    def about_to_read(self, indices: np.ndarray) -> None:
        self._cache.about_to_read(self._places[indices])

    def put(self, indices: np.ndarray, pixels: np.ndarray, content_digests: np.ndarray) -> None:
        self._cache.put(self._places[indices], pixels, content_digests)

    def content_digests_of(self, indices: np.ndarray) -> np.ndarray:
        return self._cache.content_digests_of(self._places[indices])

    def copy_to(self, indices: np.ndarray, out: np.ndarray) -> None:
        self._cache.copy_to(self._places[indices], out)

    def close(self) -> None:
        self._cache.close()


def places_among(listed: Manifest, images: Manifest) -> np.ndarray | None:
    """Returns int64, where images stand among those listed; None unless they are some in order."""
    if listed.root != images.root:
        return None
    places = np.flatnonzero(np.isin(hash_keys(listed.keys), hash_keys(images.keys)))
    same = len(places) == len(images) and listed.keys.take(places) == images.keys
    return places if same else None
