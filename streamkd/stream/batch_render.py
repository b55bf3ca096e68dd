"""Makes batches of their parts, in the graph: decodes, checks digests, renders views.

rendering = BatchRenderer(images, options, shown, …)
batch = rendering.from_files(found)               # in one go; or, with a pixel cache, in three:
found = rendering.keep(rendering.decode(found))
batch = rendering.from_pixels(found)
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.crop import cut
from streamkd.pixels.decode import content_digests
from streamkd.pixels.exact_decode import fit
from streamkd.stream import content_check
from streamkd.stream.batch_fetch import FILE_COLUMNS
from streamkd.stream.cache.cached_images import CachedImages
from streamkd.views.operation import ViewOperation
from streamkd.views.render import (
    canonical_options,
    change,
    decode_canonical,
    decode_views,
    erase,
    mix,
    mixing_of,
)
from streamkd.views.views import Views


class BatchRenderer:
    """Renders what `BatchFetcher` found."""

    def __init__(
        self,
        images: Manifest,
        options: ImageOptions,
        shown: Views,
        *,
        operation: ViewOperation | None,
        has_store: bool,
        is_paired: bool,
        views_per_decode: int,
        on_bad: str,
        cached: CachedImages | None,
    ) -> None:
        """
        Args:
          images, options, on_bad: of the stream.
          shown: the views that the student is shown.
          operation: of the user's own, with its function, that they have; or None.
          has_store: whether there are teacher logits.
          is_paired: whether neighbours in a batch are mixed with each other.
          views_per_decode: rows a file.
          cached: the images in the pixel cache, or None.
        """
        self._images = images
        self._options = options
        self._canonical = canonical_options(shown, options)
        self._has_store = has_store
        self._is_paired = is_paired
        self._per_file = views_per_decode
        self._on_bad = on_bad
        self._cached = cached
        self._operation = operation

    @property
    def shows_cached_pixels(self) -> bool:
        """Whether the student is shown what is in the cache as it is there."""
        return self._cached is not None and self._cached.kind[0] == tf.float32

    def from_files(self, found: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict, tf.Tensor]:
        """Returns a batch, rendered from its files."""
        digests = content_digests(found["file_bytes"], found["known_digests"])
        with tf.control_dependencies(self._check(found, digests)):
            if self._canonical is not None:
                decoded = decode_canonical(found["file_bytes"], found["one_size"], self._canonical)
                pixels = self._crops(decoded, found)
            else:
                pixels = self._crops_of_files(found)
        return self._batch(found, pixels)

    def decode(self, found: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns what a batch is made of, with the images decoded that are not in the cache."""
        cached = self._cached
        assert cached is not None
        number = found["cached"].shape[0]
        nothing = tf.zeros([0, *cached.canonical.shape], tf.uint8), tf.zeros([0], tf.uint64)

        def decode_files() -> tuple[tf.Tensor, tf.Tensor]:
            there = {name: tf.ensure_shape(found[name], [number]) for name in FILE_COLUMNS}
            digests = content_digests(there["file_bytes"], there["known_digests"])
            with tf.control_dependencies(self._check({**found, **there}, digests)):
                return cached.decode({**found, **there}), tf.identity(digests)

        decoded, digests = tf.cond(tf.reduce_all(found["cached"]), lambda: nothing, decode_files)
        rest = {name: part for name, part in found.items() if name not in FILE_COLUMNS}
        return {**rest, "decoded": decoded, "digests_now": digests}

    def keep(self, found: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the same with pixels of the canonical size, and puts new ones in the cache."""
        cached = self._cached
        assert cached is not None
        all_cached = tf.reduce_all(found["cached"])
        pixels = tf.cond(all_cached, lambda: found["cached_pixels"], lambda: cached.keep(found))
        pixels = tf.ensure_shape(pixels, [found["cached"].shape[0], *cached.canonical.shape])
        rest = {name: part for name, part in found.items() if name != "cached_pixels"}
        return {**rest, "pixels": pixels}

    def from_pixels(self, found: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict, tf.Tensor]:
        """Returns a batch, rendered from pixels of the canonical size."""
        return self._batch(found, self._crops(found["pixels"], found))

    def _crops_of_files(self, found: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the crops of a batch, cut from the files' own pixels, before anything else."""
        boxes = self._boxes(found)
        pixels = decode_views(found["file_bytes"], found["one_size"], boxes, None, self._options)
        pixels = tf.reshape(pixels, (-1, *self._options.shape))
        return self._of_rows(pixels) if boxes is None else pixels

    def _crops(self, pixels: tf.Tensor, found: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the crops of a batch, cut from pixels of the canonical size."""
        boxes = self._boxes(found)
        if boxes is not None:
            return tf.reshape(cut(pixels, boxes, self._options), (-1, *self._options.shape))
        if pixels.dtype != tf.float32:
            pixels = fit(pixels, self._options)
        return self._of_rows(pixels)

    def _boxes(self, found: dict[str, tf.Tensor]) -> tf.Tensor | None:
        """Returns float32 `[files, views_per_decode, 4]`, the crops of each file, if there are."""
        if "view_crop" not in found:
            return None
        boxes = found["view_crop"]
        return tf.reshape(boxes, (boxes.shape[0] // self._per_file, self._per_file, 4))

    def _of_rows(self, values: tf.Tensor) -> tf.Tensor:
        """Returns what is known of files for each of their rows."""
        return values if self._per_file == 1 else tf.repeat(values, self._per_file, axis=0)

    def _check(self, found: dict[str, tf.Tensor], digests: tf.Tensor) -> list[tf.Tensor]:
        """Returns what fails where a file is not the one the teacher answered."""
        if not self._has_store:
            return []
        compared = found["rows"]
        if self._per_file > 1:
            compared = compared[:: self._per_file]
        for name in ("bad", "cached"):  # what is in the cache was compared when it was looked up
            if name in found:
                compared = tf.where(found[name], tf.constant(-1, tf.int64), compared)
        stored = found["stored_digests"]
        return [
            content_check.check_content_digests(
                self._images, found["paths"], digests, stored, compared
            )
        ]

    def _finish(self, pixels: tf.Tensor, found: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns crops with all else that their views do to them."""
        pixels = change(pixels, found, self._operation)
        if self._is_paired:
            # Of a unit of two that are shown plain, each has a share of 1.
            pixels = mix(pixels, _swapped(pixels), mixing_of(found))
        return erase(pixels, found)

    def _batch(
        self, found: dict[str, tf.Tensor], pixels: tf.Tensor
    ) -> tuple[tf.Tensor, dict, tf.Tensor]:
        """Returns a batch of crops, float32 `[batch, height, width, channels]`."""
        pixels = self._finish(pixels, found)
        if self._on_bad == "skip":
            bad = self._of_rows(found["bad"])
            pixels = tf.cond(tf.reduce_any(bad), lambda: _blackened(pixels, bad), lambda: pixels)
        labels = others = found["labels"]
        share = tf.ones(labels.shape, tf.float32)
        if self._is_paired:
            others, share = _swapped(labels), found["view_share"]
        targets: dict[str, Any] = {
            "labels": tf.stack([labels, others], axis=1),
            "label_shares": tf.stack([share, 1 - share], axis=1),
            "rows": found["rows"],
        }
        if self._has_store:
            targets["teacher_logits"] = found["teacher_logits"]
        return pixels, targets, found["weights"]


def _blackened(pixels: tf.Tensor, bad: tf.Tensor) -> tf.Tensor:
    """Returns pixels `[batch, height, width, channels]` with zeros where bad, bool `[batch]`."""
    return tf.where(bad[:, None, None, None], tf.zeros_like(pixels), pixels)


def _swapped(values: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, …]` with the two of each pair in each other's place."""
    shape = values.shape
    return tf.reshape(tf.reverse(tf.reshape(values, (shape[0] // 2, 2, -1)), [1]), shape)
