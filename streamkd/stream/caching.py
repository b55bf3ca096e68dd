"""How a stream goes through its pixel cache.

    look up -> decode what is not there -> keep it, and take all from the cache -> render

Files that are there are not opened. Whether a batch comes from files or from the cache makes no
difference to its pixels: in both cases views are cut from whole numbers of one size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from streamkd.images.decode import decode_through
from streamkd.images.fetching import BLACK_PIXEL, Files
from streamkd.images.rendering import to_canonical
from streamkd.images.scaled import Original
from streamkd.options import ImageOptions
from streamkd.stream.buffers import BufferPool
from streamkd.stream.pixel_cache import PixelCache


class CachedImages:
    """Reads the images of a batch from the cache, and from their files where they are not there.

    Attributes:
      cache: where pixels are kept.
      canonical: what decides on them.
    """

    def __init__(self, cache: PixelCache, canonical: ImageOptions, *, as_float: bool) -> None:
        """Args: `as_float`, whether pixels are wanted as float32, since nothing is cut of them."""
        self.cache = cache
        self.canonical = canonical
        self._dtype = np.float32 if as_float else np.uint8
        self._buffers = BufferPool()

    def there(
        self, indices: np.ndarray, rows: np.ndarray, contents: np.ndarray | None
    ) -> np.ndarray:
        """Returns bool `[batch]`, the images that need not be read.

        Args:
          indices: int64 `[batch]`.
          rows: int64 `[batch]`, -1 for images without logits.
          contents: uint64 `[batch]`, digests of the files that the teacher answered: an image that
            was made of another file is read again, and is then compared as any file is.
        """
        there = self.cache.has(indices)
        if contents is not None and there.any():
            same = self.cache.contents_of(np.where(there, indices, 0)) == contents
            there &= same | (rows < 0)
        return there

    def read(
        self, indices: np.ndarray, there: np.ndarray, read: Callable[[np.ndarray], Files]
    ) -> Files:
        """Returns the files of a batch, with a black pixel for each that is in the cache.

        Args:
          indices: int64 `[batch]`.
          there: what `there` returned.
          read: returns the files of some places in the batch, int64 `[some]`.
        """
        if not there.any():
            return read(np.arange(len(indices)))
        contents = np.full(len(indices), BLACK_PIXEL, object)
        digests = np.zeros(len(indices), np.uint64)
        bad = np.zeros(len(indices), bool)
        digests[there] = self.cache.contents_of(indices[there])
        absent = np.flatnonzero(~there)
        if len(absent):
            files = read(absent)
            contents[absent], digests[absent] = files.contents, files.digests
            bad[absent] = files.bad
        return Files(contents, np.bool_(False), digests, bad)

    def decode(self, found: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns uint8 `[batch, height, width, channels]`, or `[0, …]` where all are there."""
        shape = self.canonical.shape

        def fit_rounded(images: tf.Tensor, original: Original | None = None) -> tf.Tensor:
            return tf.cast(to_canonical(images, self.canonical, original), tf.float32)

        def decode_all() -> tf.Tensor:
            pixels = decode_through(
                (found["files"],), found["one_size"], self.canonical, fit_rounded, shape
            )
            return tf.cast(pixels, tf.uint8)

        pixels = tf.cond(
            tf.reduce_all(found["cached"]), lambda: tf.zeros([0, *shape], tf.uint8), decode_all
        )
        return tf.ensure_shape(pixels, [None, *shape])

    def keep(self, found: dict[str, tf.Tensor], decoded: tf.Tensor) -> tf.Tensor:
        """Puts what was decoded into the cache and returns the pixels of the whole batch.

        Args:
          found: of the batch, `indices`, `cached` and `contents_now`, and `bad` where bad files
            are skipped.
          decoded: what `decode` returned.

        Returns:
          `[batch, height, width, channels]`, float32 or uint8.
        """
        cached = found["cached"]
        bad = found.get("bad", tf.zeros_like(cached))
        arguments = [found["indices"], cached, bad, found["contents_now"], decoded]
        pixels = tf.numpy_function(self._keep, arguments, tf.as_dtype(self._dtype))
        return tf.ensure_shape(pixels, [cached.shape[0], *self.canonical.shape])

    def _keep(
        self,
        indices: np.ndarray,
        cached: np.ndarray,
        bad: np.ndarray,
        contents: np.ndarray,
        decoded: np.ndarray,
    ) -> np.ndarray:
        pixels = self._buffers.array((len(indices), *self.canonical.shape), self._dtype)
        if cached.all():
            self.cache.copy_to(indices, pixels)
            return pixels
        new = np.flatnonzero(~cached & ~bad)
        self.cache.put(indices[new], decoded[new], contents[new])
        pixels[:] = decoded
        there = np.flatnonzero(cached)
        if len(there):
            some = np.empty((len(there), *self.canonical.shape), np.uint8)
            self.cache.copy_to(indices[there], some)
            pixels[there] = some
        return pixels
