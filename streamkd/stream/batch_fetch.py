"""What batches are made of: bytes of files, labels, stored logits, parameters of views.

    parts = BatchFetcher(images, store, sequence, …)
    found = parts.look_up(numbers, sequence)         # in the graph: a dict of tensors

Everything here is done by the batch, in NumPy, within one Python call that tf.data makes. Some
parts are per row and some per file: with several views of a decode, a file makes several rows,
which stand next to each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import StreamkdError
from streamkd.image_options import ImageOptions
from streamkd.keys import hash_keys
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.bad_images import leave_out_undecodable
from streamkd.pixels.content_digest import digest_each
from streamkd.pixels.file_batch import Files, leave_out, read_files
from streamkd.store.row_store import RowStore
from streamkd.stream.cache.cached_images import CachedImages
from streamkd.stream.order.sequence import Sequence
from streamkd.views.views import NEUTRAL, Views

# What is needed of files that are read; of none where the pixel cache has the whole batch.
FILE_COLUMNS = ("paths", "file_bytes", "known_digests")
# Why an image was skipped that can be decoded.
CHANGED = "it is not the file that the teacher answered"


@dataclasses.dataclass(frozen=True)
class _Kind:
    """Dtype of a part, its shape for one row or file, and whether it is per file."""

    dtype: Any
    shape: tuple = ()
    per_file: bool = False


class BatchFetcher:
    """Looks up what the batches of some steps are made of.

    Attributes:
      skipped: images that are left out, and why, by their places in the manifest.
      refusal: what the last look-up that failed had to say.
    """

    def __init__(
        self,
        images: Manifest,
        store: RowStore | None,
        sequence: Sequence,
        *,
        rows: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        options: ImageOptions,
        shown: Views,
        drawn_seed: int | None,
        on_bad: str,
        cached: CachedImages | None,
    ) -> None:
        """
        Args:
          images, store, sequence, options: of the stream.
          rows: int64 `[num_images]`, the row of each image's view 0; -1 without logits.
          labels: int32 `[num_images]`, class numbers of the logits.
          num_classes: number of logits.
          shown: the views that the student is shown.
          drawn_seed: where they are drawn anew for every epoch, the seed; None to read them from
            the store.
          on_bad: 'raise' or 'skip'.
          cached: the images in the pixel cache, or None.
        """
        self.skipped: dict[int, str] = {}
        self.refusal: StreamkdError | None = None
        self._images = images
        self._store = store
        self._sequence = sequence
        self._rows = rows
        self._labels = labels
        self._options = options
        self._shown = shown
        self._drawn_seed = drawn_seed
        self._on_bad = on_bad
        self._cached = cached
        self._per_file = sequence.views_per_decode
        self._kinds = self._make_kinds(num_classes)

    def look_up(self, numbers: tf.Tensor, sequence: Sequence) -> dict[str, tf.Tensor]:
        """Returns what some batches of a sequence are made of, in the graph.

        Args:
          numbers: of the batches, int64 `[batches]`.
          sequence: that of the stream, or of the pieces of its batches.
        """
        count = numbers.shape[0] * sequence.batch_size
        return self._call(self._gather, sequence.units(numbers), count)

    def without_bad(self, found: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the same without the files for which it could not be decoded."""
        count = found["rows"].shape[0]
        return self._call(self._without_bad, [found[name] for name in self._kinds], count)

    def _call(self, function: Callable, arguments: Any, count: int) -> dict[str, tf.Tensor]:
        kinds = self._kinds
        values = tf.numpy_function(function, arguments, [kind.dtype for kind in kinds.values()])
        found = dict(zip(kinds, values, strict=True))
        for name, kind in kinds.items():
            number = count // self._per_file if kind.per_file else count
            if name == "one_size":
                found[name].set_shape([])
            elif name == "cached_pixels" or (name in FILE_COLUMNS and self._cached is not None):
                found[name].set_shape([None, *kind.shape])  # of some of the files
            else:
                found[name].set_shape([number, *kind.shape])
        return found

    def _make_kinds(self, num_classes: int) -> dict[str, _Kind]:
        """Returns the names of all parts, in the order in which they leave Python."""
        kinds = {
            "paths": _Kind(tf.string, per_file=True),
            "file_bytes": _Kind(tf.string, per_file=True),
            "one_size": _Kind(tf.bool),
            "known_digests": _Kind(tf.uint64, per_file=True),
            "labels": _Kind(tf.int32),
            "rows": _Kind(tf.int64),
            "weights": _Kind(tf.float32),
        }
        if self._on_bad == "skip" or self._cached is not None:
            kinds["indices"] = _Kind(tf.int64, per_file=True)
        if self._on_bad == "skip":
            kinds["bad"] = _Kind(tf.bool, per_file=True)
        if self._cached is not None:
            kinds["cached"] = _Kind(tf.bool, per_file=True)
            kinds["cached_pixels"] = _Kind(*self._cached.kind, per_file=True)
        if self._store is not None:
            kinds["stored_digests"] = _Kind(tf.uint64, per_file=True)
            kinds["teacher_logits"] = _Kind(tf.float32, (num_classes,))
        for name, (dtype, shape) in self._shown.datasets().items():
            kinds[name] = _Kind(tf.as_dtype(np.dtype(dtype)), shape)
        return kinds

    def _gather(self, units: np.ndarray, epochs: np.ndarray) -> list[Any]:
        try:
            return self._gathered(units, epochs)
        except StreamkdError as refusal:
            # TensorFlow keeps the words of an exception and loses its class; see `Stream.refuse`.
            self.refusal = refusal
            raise

    def _gathered(self, units: np.ndarray, epochs: np.ndarray) -> list[Any]:
        indices, views = self._sequence.places(units, epochs)
        first = self._rows[indices]
        rows = np.where(first[:, None] < 0, -1, first[:, None] + views).reshape(-1)
        found = {
            "indices": indices,
            "labels": self._of_rows(self._labels[indices]),
            "rows": rows,
            "weights": self._weights(indices),
        }
        if self._store is not None:
            found |= self._stored(self._store, rows)
        if self._drawn_seed is not None:
            found |= self._drawn_anew(indices, epochs, self._drawn_seed)
        found |= self._pixels_or_files(found)
        values = [found[name] for name in self._kinds]
        return self._weighed(values) if self.skipped else values

    def _of_rows(self, values: np.ndarray) -> np.ndarray:
        """Returns what is known of files for each of their rows."""
        return values if self._per_file == 1 else np.repeat(values, self._per_file, axis=0)

    def _weights(self, indices: np.ndarray) -> np.ndarray:
        weights = np.ones(len(indices) * self._per_file, np.float32)
        if self._images.weights is not None:
            weights *= self._of_rows(self._images.weights[indices])
        if self._sequence.pairs is not None:  # an odd one stands in its unit twice, counts once
            weights[1::2][indices[0::2] == indices[1::2]] = 0
        return weights

    def _stored(self, store: RowStore, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns content digests, logits and the parameters of the views that are shown.

        An image without logits (row -1) gets zeros, which the loss leaves out, and is shown plain.
        """
        of_files = rows[:: self._per_file]
        with_logits = of_files >= 0
        stored_digests = np.zeros(len(of_files), np.uint64)
        stored_digests[with_logits] = store.content_of(of_files[with_logits] // store.num_views)
        there = np.flatnonzero(rows >= 0)
        some = rows[there]
        found = {"teacher_logits": store.gather(some)}
        if self._drawn_seed is None and self._shown.count:
            found |= store.view_parameters(some)
        if len(there) == len(rows):
            return {"stored_digests": stored_digests, **found}
        whole = {"stored_digests": stored_digests}
        for name, part in found.items():
            filled = np.empty((len(rows), *part.shape[1:]), part.dtype)
            filled[:] = np.asarray(NEUTRAL.get(name, 0), part.dtype)
            filled[there] = part
            whole[name] = filled
        return whole

    def _drawn_anew(
        self, indices: np.ndarray, epochs: np.ndarray, seed: int
    ) -> dict[str, np.ndarray]:
        """Returns parameters of views that are drawn for these epochs."""
        hashes = hash_keys(self._images.keys.take(indices))
        parts: dict[str, np.ndarray] = {}
        for epoch in np.unique(epochs).tolist():
            views = dataclasses.replace(
                self._shown, count=self._per_file, seed=(seed * 1_000_003 + epoch) % 2**32
            )
            for name, values in views.draw(hashes).items():
                whole = parts.setdefault(name, values[:, 1:].copy())
                whole[epochs == epoch] = values[epochs == epoch, 1:]
        return {name: part.reshape(-1, *part.shape[2:]) for name, part in parts.items()}

    def _pixels_or_files(self, found: dict[str, np.ndarray]) -> dict[str, Any]:
        """Returns the pixels of a batch that are in the cache, and the files of the others."""
        indices = found["indices"]
        cached = np.zeros(len(indices), bool)
        kept = None
        if self._cached is not None:
            rows = found["rows"][:: self._per_file]
            cached, kept = self._cached.take(indices, rows, found.get("stored_digests"))
        skipped = self._known_bad(indices)
        if kept is not None and skipped.any():
            cached, kept = _with_blanks(cached, kept, skipped)
        paths = np.full(0 if cached.all() else len(indices), b"", object)
        if self._cached is None:
            files = self._read(indices, paths, skipped, np.arange(len(indices)))
        else:
            files = self._cached.read(
                indices, cached, lambda places: self._read(indices, paths, skipped, places)
            )
        return {
            "paths": paths,
            "file_bytes": files.file_bytes,
            "one_size": files.one_size,
            "known_digests": files.known_digests,
            "bad": files.bad | skipped,
            "cached": cached,
            "cached_pixels": kept,
        }

    def _read(
        self, indices: np.ndarray, paths: np.ndarray, skipped: np.ndarray, places: np.ndarray
    ) -> Files:
        """Returns the files of some places in a batch, and puts their paths into `paths`."""
        some = indices[places]
        paths[places] = self._images.paths(some)
        limit = self._options.max_pixels
        if self._on_bad == "raise":
            return read_files(paths[places], max_pixels=limit)

        def skip(place: int, reason: str) -> None:
            self.skipped[int(some[place])] = reason

        known = skipped[places] if skipped.any() else None
        return read_files(paths[places], on_bad=skip, known_bad=known, max_pixels=limit)

    def _known_bad(self, indices: np.ndarray) -> np.ndarray:
        """Returns bool `[files]`, images that were skipped before."""
        if not self.skipped:
            return np.zeros(len(indices), bool)
        return np.array([index in self.skipped for index in indices.tolist()])

    def _without_bad(self, *values: Any) -> list[Any]:
        found: dict[str, Any] = dict(zip(self._kinds, values, strict=True))
        files = Files(*(found[name] for name in ("file_bytes", "one_size", "known_digests", "bad")))
        kept, reasons = leave_out_undecodable(files, self._options)
        if self._store is not None:
            now = np.where(kept.known_digests, kept.known_digests, digest_each(kept.file_bytes))
            taught = found["rows"][:: self._per_file] >= 0
            if self._cached is not None:  # what is in the cache was compared when it was taken
                taught &= ~found["cached"]
            changed = np.flatnonzero((now != found["stored_digests"]) & taught & ~kept.bad).tolist()
            reasons |= dict.fromkeys(changed, CHANGED)
            kept = leave_out(kept, changed)
        for place, reason in reasons.items():
            self.skipped[int(found["indices"][place])] = reason
        found |= dict(zip(("file_bytes", "one_size", "known_digests", "bad"), kept, strict=True))
        return self._weighed(list(found.values()))

    def _weighed(self, values: list[Any]) -> list[Any]:
        """Returns the parts of a batch with no weight where a file is bad, or its partner's."""
        found = dict(zip(self._kinds, values, strict=True))
        bad = self._of_rows(found["bad"])
        if self._sequence.pairs is not None:
            theirs = bad.reshape(-1, 2)[:, ::-1].reshape(-1)
            bad = bad | (theirs & (found["view_partner"] >= 0))
        found["weights"] = np.where(bad, np.float32(0), found["weights"])
        return list(found.values())


def _with_blanks(
    cached: np.ndarray, kept: np.ndarray, skipped: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same with skipped images among those that are cached, black.

    So that a batch with one of them is not read and decoded as if it were new.

    Args:
      cached: bool `[files]`.
      kept: `[cached, height, width, channels]`, their pixels.
      skipped: bool `[files]`.
    """
    with_them = cached | skipped
    pixels = np.zeros((int(with_them.sum()), *kept.shape[1:]), kept.dtype)
    pixels[cached[with_them]] = kept
    return with_them, pixels
