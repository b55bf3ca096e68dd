"""Renders batches, in the graph: checks digests, decodes, and shows the views.

renderer = BatchRenderer(spec, columns)
images, targets, weights = renderer.from_files(batch)

renderer = CachedBatchRenderer(spec, columns, columns.cached)      # the same in three stages
images, targets, weights = renderer.from_pixels(renderer.keep(renderer.decode(batch)))
"""

from __future__ import annotations

import tensorflow as tf

from streamkd.pixels.crop import cut
from streamkd.pixels.decode import content_digests, decode_canonical, decoder_of
from streamkd.pixels.exact_decode import fit
from streamkd.stream.batch_fetch import BatchColumns
from streamkd.stream.cache.cached_images import CachedImages
from streamkd.stream.columns import READ_COLUMNS
from streamkd.stream.stream_spec import StreamSpec
from streamkd.views.render import canonical_options, render_rows


class BatchRenderer:
    """Renders the batches that `BatchFetcher` fetched, from their files."""

    def __init__(self, spec: StreamSpec, columns: BatchColumns) -> None:
        self._columns = columns
        self._options = spec.options
        self._decoder = decoder_of(spec.options, canonical_options(spec.shown, spec.options))
        self._operation = spec.operation
        self._per_file = spec.views_per_decode

    def from_files(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict, tf.Tensor]:
        """Returns images, targets and weights, rendered from the files of a batch."""
        file_bytes, one_size, boxes = batch["file_bytes"], batch["one_size"], self._boxes(batch)
        digests = content_digests(file_bytes, batch["known_digests"])
        with tf.control_dependencies(self._columns.checks(batch, digests)):
            if boxes is None:
                crops = self._per_row(self._decoder.whole(file_bytes, one_size))
            else:
                crops = self._flat(self._decoder.crops(file_bytes, one_size, boxes))
        return self._shown(crops, batch)

    def _boxes(self, batch: dict[str, tf.Tensor]) -> tf.Tensor | None:
        """Returns float32 `[files, views_per_decode, 4]`, the crops of each file, or None."""
        if "view_crop" not in batch:
            return None
        boxes = batch["view_crop"]
        return tf.reshape(boxes, (boxes.shape[0] // self._per_file, self._per_file, 4))

    def _flat(self, crops: tf.Tensor) -> tf.Tensor:
        """Returns `[files, views_per_decode, …]` crops as rows, `[rows, …]`."""
        return tf.reshape(crops, (-1, *self._options.shape))

    def _per_row(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the value of each file once for each of its rows."""
        return values if self._per_file == 1 else tf.repeat(values, self._per_file, axis=0)

    def _shown(
        self, crops: tf.Tensor, batch: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, dict, tf.Tensor]:
        """Returns images, targets and weights of a batch.

        Args:
          crops: float32 `[rows, height, width, channels]`, before flips, colours and mixing.
          batch: all columns.
        """
        pixels = render_rows(crops, batch, self._operation)
        if "bad" in batch:
            bad = self._per_row(batch["bad"])
            pixels = tf.cond(tf.reduce_any(bad), lambda: _blackened(pixels, bad), lambda: pixels)
        return pixels, self._columns.targets(batch), batch["weights"]


class CachedBatchRenderer(BatchRenderer):
    """Renders batches from files or from the pixel cache, in three stages.

    Attributes:
      shows_cached_pixels: whether the student is shown cached pixels as they are.
    """

    def __init__(self, spec: StreamSpec, columns: BatchColumns, cached: CachedImages) -> None:
        super().__init__(spec, columns)
        self._cached = cached
        self.shows_cached_pixels = cached.as_float

    def decode(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the columns with the images decoded that are not in the cache."""
        num_files = batch["cached"].shape[0]
        canonical = self._cached.canonical
        nothing = tf.zeros([0, *canonical.shape], tf.uint8), tf.zeros([0], tf.uint64)

        def decode_files() -> tuple[tf.Tensor, tf.Tensor]:
            read = {name: tf.ensure_shape(batch[name], [num_files]) for name in READ_COLUMNS}
            file_bytes = read["file_bytes"]
            digests = content_digests(file_bytes, read["known_digests"])
            with tf.control_dependencies(self._columns.checks({**batch, **read}, digests)):
                decoded = decode_canonical(file_bytes, batch["one_size"], canonical)
                return decoded, tf.identity(digests)

        all_cached = tf.reduce_all(batch["cached"])
        decoded, digests = tf.cond(all_cached, lambda: nothing, decode_files)
        rest = {name: part for name, part in batch.items() if name not in READ_COLUMNS}
        return {**rest, "decoded": decoded, "digests_now": digests}

    def keep(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the columns with all pixels at the canonical size, and caches the new ones."""
        cached = self._cached
        pixels = tf.cond(
            tf.reduce_all(batch["cached"]),
            lambda: batch["cached_pixels"],
            lambda: cached.keep(batch),
        )
        pixels = tf.ensure_shape(pixels, [batch["cached"].shape[0], *cached.canonical.shape])
        rest = {name: part for name, part in batch.items() if name != "cached_pixels"}
        return {**rest, "pixels": pixels}

    def cached(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the columns of images that all come from the cache, as `keep` does."""
        shape = [batch["cached"].shape[0], *self._cached.canonical.shape]
        dropped = ("cached_pixels", *READ_COLUMNS)
        rest = {name: part for name, part in batch.items() if name not in dropped}
        return {**rest, "pixels": tf.ensure_shape(batch["cached_pixels"], shape)}

    def from_pixels(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict, tf.Tensor]:
        """Returns images, targets and weights, rendered from pixels of the canonical size."""
        pixels, boxes = batch["pixels"], self._boxes(batch)
        if boxes is not None:
            return self._shown(self._flat(cut(pixels, boxes, self._options)), batch)
        if not self.shows_cached_pixels:
            pixels = fit(pixels, self._options)
        return self._shown(self._per_row(pixels), batch)


def _blackened(pixels: tf.Tensor, bad: tf.Tensor) -> tf.Tensor:
    """Returns pixels `[batch, …]` with zeros for the images that are `bad`, bool `[batch]`."""
    return tf.where(bad[:, None, None, None], tf.zeros_like(pixels), pixels)
