"""The images of a batch, from the pixel cache or from their files.

    cached = CachedImages(spec, cache)
    batch = cached.gather(slots, gathered)    # pixels from the cache, files of the other images
    batch |= {"decoded": …, "digests_now": …}
    pixels = cached.keep(batch)               # caches the decoded images, returns all pixels

Files whose images are in the cache are not opened. A batch has the same pixels whether it comes
from files or from the cache: in both cases views are cut from whole numbers of one size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.pixels.cache.cache_part import CachePart
from streamkd.pixels.cache.pixel_cache import PixelCache
from streamkd.pixels.file_batch import BLACK_PIXEL, Files
from streamkd.stream.cache.buffer_pool import BufferPool
from streamkd.stream.columns import FILE, READ_COLUMNS, SOME_FILES, Column, FileColumns, Slots
from streamkd.stream.stream_spec import StreamSpec
from streamkd.tf_support.python_calls import python_call


class CachedImages(FileColumns):
    """Pixels of the images in the cache, and files of the other images.

    Attributes:
      canonical: the size of cached images, and all else that decides on their pixels.
      as_float: whether pixels are float32, since nothing is cut from them; else uint8.
    """

    def __init__(self, spec: StreamSpec, cache: PixelCache | CachePart) -> None:
        super().__init__(spec)
        self.canonical = canonical = cache.canonical
        self.as_float = canonical == spec.options and "view_crop" not in spec.shown.datasets()
        self._cache = cache
        self._dtype = np.dtype(np.float32 if self.as_float else np.uint8)
        self._tf_dtype = tf.as_dtype(self._dtype)
        self._no_pixels = np.zeros((0, *canonical.shape), self._dtype)
        self._buffers = BufferPool()
        self.columns = {
            **self.columns,
            **{name: self.columns[name]._replace(per=SOME_FILES) for name in READ_COLUMNS},
            "cached": Column(tf.bool, per=FILE),
            "cached_pixels": Column(self._tf_dtype, canonical.shape, per=SOME_FILES),
        }

    def gather(self, slots: Slots, gathered: dict[str, Any]) -> dict[str, Any]:
        indices = slots.indices
        cached, pixels = self._take(indices, slots.first_rows, gathered.get("stored_digests"))
        known_bad = self._known_bad(indices)
        if known_bad.any():
            cached, pixels = _with_blanks(cached, pixels, known_bad)
        paths, files = self._read_others(indices, cached)
        files = files._replace(bad=files.bad | known_bad)
        return {"paths": paths, **files._asdict(), "cached": cached, "cached_pixels": pixels}

    def _take(
        self, indices: np.ndarray, first_rows: np.ndarray, stored_digests: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns bool `[files]`, the images that need not be read, and their pixels.

        Args:
          indices, first_rows: of `Slots`.
          stored_digests: uint64 `[files]`, digests of the files that the teacher answered. An image
            in the cache that was decoded from another file is read again and compared.
        """
        present = self._cache.has(indices)
        before = self._content_digests_of(indices, present)
        if stored_digests is not None:
            present &= (before == stored_digests) | (first_rows < 0)
        pixels = self._copied(indices, present)
        # Another process may have replaced pixels in the meantime, of a file that was changed.
        replaced = present & (self._content_digests_of(indices, present) != before)
        if replaced.any():
            return present & ~replaced, pixels[~replaced[present]]
        return present, pixels

    def _content_digests_of(self, indices: np.ndarray, present: np.ndarray) -> np.ndarray:
        if not present.any():
            return np.zeros(len(indices), np.uint64)
        return self._cache.content_digests_of(np.where(present, indices, 0))

    def _copied(self, indices: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Returns the pixels of the present images, `[present, height, width, channels]`."""
        if not present.any():
            return self._no_pixels
        wanted = indices if present.all() else indices[present]
        pixels = self._buffers.array((len(wanted), *self.canonical.shape), self._dtype)
        self._cache.copy_to(wanted, pixels)
        return pixels

    def _read_others(self, indices: np.ndarray, cached: np.ndarray) -> tuple[np.ndarray, Files]:
        """Returns paths and files of a batch, with a black pixel for each image in the cache.

        Paths, bytes and digests are empty if all images are in the cache.
        """
        absent = np.flatnonzero(~cached)
        self._cache.about_to_read(indices[absent])
        if not len(absent):
            nothing, no_digests = np.empty(0, object), np.empty(0, np.uint64)
            return nothing, Files(nothing, np.bool_(False), no_digests, np.zeros(len(cached), bool))
        read_paths, read = self._read(indices[absent], np.zeros(len(absent), bool))
        if len(absent) == len(indices):
            return read_paths, read
        paths = np.full(len(indices), b"", object)
        file_bytes = np.full(len(indices), BLACK_PIXEL, object)
        known_digests = np.zeros(len(indices), np.uint64)
        bad = np.zeros(len(indices), bool)
        paths[absent] = read_paths
        file_bytes[absent] = read.file_bytes
        known_digests[absent] = read.known_digests
        bad[absent] = read.bad
        return paths, Files(file_bytes, np.bool_(False), known_digests, bad)

    def keep(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Puts the decoded images into the cache and returns the pixels of the whole batch.

        Args:
          batch: all columns, and `decoded`, uint8 `[files, height, width, channels]`, and
            `digests_now`, uint64 `[files]`.

        Returns:
          float32 or uint8 `[files, height, width, channels]`.
        """
        cached = batch["cached"]
        names = ("indices", "cached", "cached_pixels", "digests_now", "decoded")
        arguments = [*(batch[name] for name in names), batch.get("bad", tf.zeros_like(cached))]
        shape = (cached.shape[0], *self.canonical.shape)
        spec = {"pixels": tf.TensorSpec(shape, self._tf_dtype)}
        return python_call(self._keep, arguments, spec)["pixels"]

    def _keep(
        self,
        indices: np.ndarray,
        cached: np.ndarray,
        cached_pixels: np.ndarray,
        digests_now: np.ndarray,
        decoded: np.ndarray,
        bad: np.ndarray,
    ) -> dict[str, np.ndarray]:
        new = np.flatnonzero(~cached & ~bad)
        self._cache.put(indices[new], decoded[new], digests_now[new])
        pixels = self._buffers.array((len(indices), *self.canonical.shape), self._dtype)
        pixels[:] = decoded
        pixels[cached] = cached_pixels
        return {"pixels": pixels}


def _with_blanks(
    cached: np.ndarray, pixels: np.ndarray, skipped: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks and pixels in which skipped images count as cached, and are black.

    A batch with a skipped image is then not read and decoded as if the image were new.

    Args:
      cached, skipped: bool `[files]`.
      pixels: `[cached, height, width, channels]`.
    """
    with_skipped = cached | skipped
    blank = np.zeros((int(with_skipped.sum()), *pixels.shape[1:]), pixels.dtype)
    blank[cached[with_skipped]] = pixels
    return with_skipped, blank
