"""How a stream goes through its pixel cache.

    take what is there -> decode the rest -> keep it -> render

Files that are there are not opened. Whether a batch comes from files or from the cache makes no
difference to its pixels: in both cases views are cut from whole numbers of one size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.pixels.file_batch import BLACK_PIXEL, Files
from streamkd.stream.cache.buffer_pool import BufferPool
from streamkd.stream.cache.pixel_cache import PixelCache
from streamkd.views.render import decode_canonical
from streamkd.views.views import Views


class CachedImages:
    """Reads the images of a batch from the cache, and from their files where they are not there.

    Attributes:
      cache: where pixels are kept.
      canonical: what decides on them.
      kind: dtype and shape of what is handed on of one image.
    """

    def __init__(self, cache: PixelCache, *, as_float: bool) -> None:
        """Args: `as_float`, whether pixels are wanted as float32, since nothing is cut of them."""
        self.cache = cache
        self.canonical = canonical = cache.canonical
        self.kind: tuple[Any, tuple] = (tf.float32 if as_float else tf.uint8, canonical.shape)
        self._dtype = np.dtype(np.float32 if as_float else np.uint8)
        self._none = np.zeros((0, *canonical.shape), self._dtype)
        self._buffers = BufferPool()

    def take(
        self, indices: np.ndarray, rows: np.ndarray, stored_digests: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns which images need not be read, bool `[files]`, and the pixels of those.

        Args:
          indices: int64 `[files]`.
          rows: int64 `[files]`, -1 for images without logits.
          stored_digests: uint64 `[files]`, digests of the files that the teacher answered. An image
            in the cache that was decoded from another file is read again and compared.
        """
        there = self.cache.has(indices)
        before = self._content_digests_of(indices, there)
        if stored_digests is not None:
            there &= (before == stored_digests) | (rows < 0)
        pixels = self._copied(indices, there)
        # Another process may have replaced pixels in the meantime, of a file that was changed.
        replaced = there & (self._content_digests_of(indices, there) != before)
        if replaced.any():
            return there & ~replaced, pixels[~replaced[there]]
        return there, pixels

    def _content_digests_of(self, indices: np.ndarray, there: np.ndarray) -> np.ndarray:
        if not there.any():
            return np.zeros(len(indices), np.uint64)
        return self.cache.content_digests_of(np.where(there, indices, 0))

    def _copied(self, indices: np.ndarray, there: np.ndarray) -> np.ndarray:
        """Returns the pixels `[there, height, width, channels]`, as `kind` says."""
        if not there.any():
            return self._none
        some = indices if there.all() else indices[there]
        pixels = self._buffers.array((len(some), *self.canonical.shape), self._dtype)
        self.cache.copy_to(some, pixels)
        return pixels

    def read(
        self, indices: np.ndarray, there: np.ndarray, read: Callable[[np.ndarray], Files]
    ) -> Files:
        """Returns the files of a batch, with a black pixel for each that is in the cache.

        Where all of them are, there are no bytes and no digests.

        Args:
          indices: int64 `[files]`.
          there: which of them are in the cache, as `take` returned it.
          read: returns the files of some places in the batch, int64 `[some]`.
        """
        absent = np.flatnonzero(~there)
        self.cache.about_to_read(indices[absent])
        if len(absent) == len(indices):
            return read(absent)
        bad = np.zeros(len(indices), bool)
        if not len(absent):
            return Files(np.empty(0, object), np.bool_(False), np.empty(0, np.uint64), bad)
        file_bytes = np.full(len(indices), BLACK_PIXEL, object)
        known_digests = np.zeros(len(indices), np.uint64)
        files = read(absent)
        file_bytes[absent] = files.file_bytes
        known_digests[absent] = files.known_digests
        bad[absent] = files.bad
        return Files(file_bytes, np.bool_(False), known_digests, bad)

    def decode(self, found: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns uint8 `[files, height, width, channels]` of a batch that is not all there."""
        return decode_canonical(found["file_bytes"], found["one_size"], self.canonical)

    def keep(self, found: dict[str, tf.Tensor]) -> tf.Tensor:
        """Puts what was decoded into the cache and returns the pixels of the whole batch.

        Args:
          found: the batch's `indices`, `cached`, `cached_pixels`, `digests_now` and `decoded`, and
            `bad` where bad files are skipped.

        Returns:
          `[files, height, width, channels]`, float32 or uint8 as `kind` says.
        """
        cached = found["cached"]
        bad = found.get("bad", tf.zeros_like(cached))
        names = ("indices", "cached", "cached_pixels", "digests_now", "decoded")
        arguments = [*(found[name] for name in names), bad]
        pixels = tf.numpy_function(self._keep, arguments, self.kind[0])
        return tf.ensure_shape(pixels, [cached.shape[0], *self.canonical.shape])

    def _keep(
        self,
        indices: np.ndarray,
        cached: np.ndarray,
        cached_pixels: np.ndarray,
        digests_now: np.ndarray,
        decoded: np.ndarray,
        bad: np.ndarray,
    ) -> np.ndarray:
        new = np.flatnonzero(~cached & ~bad)
        self.cache.put(indices[new], decoded[new], digests_now[new])
        pixels = self._buffers.array((len(indices), *self.canonical.shape), self._dtype)
        pixels[:] = decoded
        pixels[cached] = cached_pixels
        return pixels


def cached_images(cache: PixelCache, shown: Views, options: ImageOptions) -> CachedImages:
    """Returns how a stream of these views goes through a cache.

    Args:
      cache: of images of the views' canonical size; of the student's where they have none.
      shown: the views that the student is shown.
      options: how files become pixels, and their size.
    """
    as_float = cache.canonical == options and "view_crop" not in shown.datasets()
    return CachedImages(cache, as_float=as_float)
