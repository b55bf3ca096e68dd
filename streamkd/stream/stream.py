"""The stream: images and their stored logits, batch after batch, from any step on.

    stream = join(images, store, image_size=(160, 160), batch_size=128, seed=1)
    for pixels, targets, weights in stream.dataset():
        targets["teacher_logits"]

A batch is `(images, targets, sample_weight)` with
  images          float32 `[batch, height, width, channels]`, 0 to 255
  labels          int32   `[batch, 2]`, the image's and its mixing partner's; -1 is no label
  label_shares    float32 `[batch, 2]`, how much of the label loss each of them gets
  teacher_logits  float32 `[batch, num_classes]`; absent in a stream without a store
  rows            int64   `[batch]`, rows of the store; -1 where there is none
  sample_weight   float32 `[batch]`
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import StreamkdError
from streamkd.images.decode import content_digests, decode_batch, fit, leave_out_undecodable
from streamkd.images.digest import digest_contents
from streamkd.images.fetching import Files, leave_out, read_files
from streamkd.images.manifest import Manifest
from streamkd.images.operations import ViewOperation
from streamkd.images.pipeline import read_pipeline
from streamkd.images.rendering import canonical_options, change, cut, decode_views, erase, mix
from streamkd.images.views import NEUTRAL, Views
from streamkd.keys import hash_keys
from streamkd.options import ImageOptions
from streamkd.store.collection import StoreCollection
from streamkd.store.reader import LogitStore
from streamkd.stream import batches, order
from streamkd.stream.caching import CachedImages
from streamkd.stream.pairs import Pairs
from streamkd.stream.pixel_cache import PixelCache

# Why an image was skipped that can be decoded.
CHANGED = "it is not the file that the teacher answered"


class Stream:
    """Joined images in an order that is a pure function of seed and step; made by `join`.

    Attributes:
      images: the manifest.
      store: the logit store, or None in a stream of labels alone.
      class_names: the classes in the order of the logits, or None.
      num_classes: their number.
      options: how files become pixels.
      batch_size, seed, shuffle: as given to `join`.
      views: those that the teacher answered; epoch e shows view 1 + e mod V of every image, or the
        plain image where there is no other.
      independent: views that are drawn anew for every epoch instead, while the logits stay those
        of the plain image; for comparison.
      operation: of the user's own, with its function, that the views shown have; or None.
      on_bad: what becomes of a file that cannot be decoded, or is not the one the teacher
        answered: 'raise', or 'skip': its slot in the batch is black and has sample weight 0, and
        an image that is mixed with it has weight 0 too.
      skipped: the images that were skipped so far in this process, and why, by their places in the
        manifest; they are not read again.
      cache: where decoded pixels are kept after the first time, or None.
    """

    def __init__(
        self,
        images: Manifest,
        store: LogitStore | StoreCollection | None,
        *,
        rows: np.ndarray,
        labels: np.ndarray,
        class_names: list[str] | None,
        num_classes: int,
        options: ImageOptions,
        batch_size: int,
        seed: int,
        shuffle: bool,
        independent: Views | None = None,
        operation: ViewOperation | None = None,
        on_bad: str = "raise",
        cache: PixelCache | None = None,
    ) -> None:
        self.images = images
        self.store = store
        self.rows = rows
        self.labels = labels
        self.class_names = class_names
        self.num_classes = num_classes
        self.options = options
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.independent = independent
        self.operation = operation
        self.on_bad = on_bad
        self.skipped: dict[int, str] = {}
        self.views = Views(0) if store is None else Views.from_dict(store.header.views)
        self._pairs: Pairs | None = None
        if store is not None and self.views.mixes and independent is None:
            self._pairs = Pairs(store, rows // store.num_views)
        self._refusal: StreamkdError | None = None
        self.cache = cache
        self._cached: CachedImages | None = None
        if cache is not None:
            canonical = canonical_options(self._shown, options) or options
            as_float = canonical == options and "view_crop" not in self._shown.datasets()
            self._cached = CachedImages(cache, canonical, as_float=as_float)

    @property
    def _shown(self) -> Views:
        """The views that the student is shown."""
        return self.independent or self.views

    @property
    def num_images(self) -> int:
        return len(self.images)

    def end_of_epoch(self, epoch: int) -> int:
        """Returns the number of steps after which every image was seen `epoch` times."""
        num_units, units_per_batch = self._units()
        return order.end_of_epoch(epoch, num_images=num_units, batch_size=units_per_batch)

    def dataset(self, start: int = 0, stop: int | None = None) -> tf.data.Dataset:
        """Returns the batches of the steps `start` to `stop` (without end where None)."""
        self._refusal = None
        last = np.iinfo(np.int64).max if stop is None else stop
        steps = tf.data.Dataset.range(start, last)
        rescue = self._rescue if self.on_bad == "skip" else None
        if self._cached is None:
            return read_pipeline(steps, self._look_up, self._decode, rescue)
        after = [self._keep, self._rendered_batch]
        return read_pipeline(steps, self._look_up, self._decode_new, rescue, after)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """Yields the batches of `dataset`; a file that fails is named in the error.

        Raises:
          ChangedImageError: a file is not the one the teacher answered.
          BadImageError: a file cannot be decoded.
        """
        return batches.named_errors(
            iter(self.dataset(start, stop)),
            lambda error, number: self.refuse(error, range(start + number, start + number + 1)),
        )

    def refuse(self, error: tf.errors.OpError, steps: range) -> None:
        """Raises the refusal that an error of TensorFlow in some steps stands for, if any.

        Raises:
          ChangedImageError: a file is not the one the teacher answered.
          BadImageError: a file cannot be decoded.
          StoreError, MissingLogitsError: what the store said.
        """
        if self._refusal is not None:
            raise self._refusal from error
        indices = np.concatenate([self.indices(step) for step in steps])
        batches.raise_named(error, self.images, self.options, indices)

    def indices(self, step: int) -> np.ndarray:
        """Returns the images of one step, int64 `[batch]`, as positions in the manifest."""
        return self._places(*(part.numpy() for part in self._order(tf.constant(step, tf.int64))))[0]

    def _units(self) -> tuple[int, int]:
        """Returns how many units an epoch and a batch have: images, or pairs of them."""
        if self._pairs is not None:
            return self._pairs.num_units, self.batch_size // 2
        return self.num_images, self.batch_size

    def _order(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the units of a batch and their epochs, both int64."""
        num_units, units_per_batch = self._units()
        units = order.indices_of_batch(
            step,
            num_images=num_units,
            batch_size=units_per_batch,
            seed=self.seed,
            shuffle=self.shuffle,
        )
        return units, order.epochs_of_batch(step, num_images=num_units, batch_size=units_per_batch)

    def _places(self, units: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images of a batch and their views, both int64 `[batch]`."""
        if not self.views.count or self.independent is not None:
            return units, np.zeros_like(units)
        views = 1 + epochs % self.views.count
        if self._pairs is None:
            return units, views
        found = np.empty((2, len(units), 2), np.int64)
        for view in np.unique(views).tolist():
            images, shown = self._pairs.of(view)
            mine = views == view
            found[0, mine], found[1, mine] = images[units[mine]], shown[units[mine]]
        return found[0].reshape(-1), found[1].reshape(-1)

    def _kinds(self) -> dict[str, tuple[Any, tuple]]:
        """Returns dtype and shape, for one image, of all that a batch is made of."""
        kinds: dict[str, tuple[Any, tuple]] = {
            "paths": (tf.string, ()),
            "files": (tf.string, ()),
            "one_size": (tf.bool, ()),
            "digests": (tf.uint64, ()),
            "labels": (tf.int32, ()),
            "rows": (tf.int64, ()),
            "weights": (tf.float32, ()),
        }
        if self.on_bad == "skip":
            kinds = {"indices": (tf.int64, ()), "bad": (tf.bool, ()), **kinds}
        if self._cached is not None:
            kinds = {"cached": (tf.bool, ()), "indices": (tf.int64, ()), **kinds}
        if self.store is not None:
            kinds["contents"] = (tf.uint64, ())
            kinds["teacher_logits"] = (tf.float32, (self.num_classes,))
        for name, (dtype, shape) in self._shown.datasets().items():
            kinds[name] = (tf.as_dtype(np.dtype(dtype)), shape)
        return kinds

    def _look_up(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what a batch is made of: the bytes of its files, labels and stored rows."""
        return self._call(self._gather, self._order(step))

    def _rescue(self, found: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the same without the files for which it cannot be decoded."""
        return self._call(self._without_bad, [found[name] for name in self._kinds()])

    def _call(self, function: Any, arguments: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        kinds = self._kinds()
        values = tf.numpy_function(function, arguments, [dtype for dtype, _ in kinds.values()])
        found = dict(zip(kinds, values, strict=True))
        for name, value in found.items():
            value.set_shape([] if name == "one_size" else [self.batch_size, *kinds[name][1]])
        return found

    def _gather(self, units: np.ndarray, epochs: np.ndarray) -> list[Any]:
        try:
            return self._gathered(units, epochs)
        except StreamkdError as refusal:
            # TensorFlow keeps the words of an exception and loses its class; see `refuse`.
            self._refusal = refusal
            raise

    def _gathered(self, units: np.ndarray, epochs: np.ndarray) -> list[Any]:
        indices, views = self._places(units, epochs)
        rows = np.where(self.rows[indices] < 0, -1, self.rows[indices] + views)
        weights = np.ones(len(indices), np.float32)
        if self.images.weights is not None:
            weights *= self.images.weights[indices]
        if self._pairs is not None:  # an odd one stands in its unit twice, and counts once
            weights[1::2][indices[0::2] == indices[1::2]] = 0
        stored = {} if self.store is None else self._stored(self.store, rows)
        there = np.zeros(len(indices), bool)
        if self._cached is not None:
            there = self._cached.there(indices, rows, stored.get("contents"))
        paths, files = self._read(indices, there)
        found = {"paths": paths, "files": files.contents, "one_size": files.one_size}
        found |= {"digests": files.digests, "bad": files.bad, "cached": there, "indices": indices}
        found |= {"labels": self.labels[indices], "rows": rows, "weights": weights, **stored}
        if self.independent is not None:
            found |= self._drawn_anew(indices, epochs)
        values = [found[name] for name in self._kinds()]
        return self._weighed(values) if self.skipped else values

    def _stored(
        self, store: LogitStore | StoreCollection, rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns content digests, logits and the parameters of the views that are shown.

        An image without logits (row -1) gets zeros, which the loss leaves out, and is shown plain.
        """
        there = np.flatnonzero(rows >= 0)
        some = rows[there]
        found = {"contents": store.content_of(some // store.num_views)}
        found["teacher_logits"] = store.gather(some)
        if self.views.count and self.independent is None:
            found |= store.view_parameters(some)
        if len(there) == len(rows):
            return found
        whole = {}
        for name, part in found.items():
            filled = np.empty((len(rows), *part.shape[1:]), part.dtype)
            filled[:] = np.asarray(NEUTRAL.get(name, 0), part.dtype)
            filled[there] = part
            whole[name] = filled
        return whole

    def _read(self, indices: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, Files]:
        """Returns paths and files of a batch; of images in the pixel cache there are none."""
        paths = np.full(len(indices), b"", object)
        left_out = None
        if self.skipped:
            left_out = np.array([index in self.skipped for index in indices.tolist()])

        def read(places: np.ndarray) -> Files:
            paths[places] = self.images.paths(indices[places])
            limit = self.options.max_pixels
            if self.on_bad == "raise":
                return read_files(paths[places], max_pixels=limit)

            def skip(place: int, reason: str) -> None:
                self.skipped[int(indices[places[place]])] = reason

            known = None if left_out is None else left_out[places]
            return read_files(paths[places], on_bad=skip, known_bad=known, max_pixels=limit)

        if self._cached is None:
            return paths, read(np.arange(len(indices)))
        files = self._cached.read(indices, there, read)
        return paths, files

    def _without_bad(self, *values: Any) -> list[Any]:
        """Returns the parts of a batch without the files for which it could not be decoded."""
        found: dict[str, Any] = dict(zip(self._kinds(), values, strict=True))
        files = Files(*(found[name] for name in ("files", "one_size", "digests", "bad")))
        kept, reasons = leave_out_undecodable(files, self.options)
        if self.store is not None:
            now = np.where(kept.digests, kept.digests, digest_contents(kept.contents))
            changed = (now != found["contents"]) & (found["rows"] >= 0) & ~kept.bad
            reasons |= dict.fromkeys(np.flatnonzero(changed).tolist(), CHANGED)
            kept = leave_out(kept, np.flatnonzero(changed).tolist())
        for place, reason in reasons.items():
            self.skipped[int(found["indices"][place])] = reason
        found |= dict(zip(("files", "one_size", "digests", "bad"), kept, strict=True))
        return self._weighed(list(found.values()))

    def _weighed(self, values: list[Any]) -> list[Any]:
        """Returns the parts of a batch with no weight where a file is bad, or its partner's."""
        found = dict(zip(self._kinds(), values, strict=True))
        bad = found["bad"]
        if self._pairs is not None:
            theirs = bad.reshape(-1, 2)[:, ::-1].reshape(-1)
            bad = bad | (theirs & (found["view_partner"] >= 0))
        found["weights"] = np.where(bad, np.float32(0), found["weights"])
        return list(found.values())

    def _drawn_anew(self, indices: np.ndarray, epochs: np.ndarray) -> dict[str, np.ndarray]:
        """Returns parameters of views that are drawn for these epochs."""
        assert self.independent is not None
        hashes = hash_keys(self.images.keys.take(indices))
        parts: dict[str, np.ndarray] = {}
        for epoch in np.unique(epochs).tolist():
            seed = (self.seed * 1_000_003 + epoch) % 2**32
            drawn = dataclasses.replace(self.independent, count=1, seed=seed).draw(hashes)
            for name, values in drawn.items():
                whole = parts.setdefault(name, values[:, 1].copy())
                whole[epochs == epoch] = values[epochs == epoch, 1]
        return parts

    def _decode(self, found: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict, tf.Tensor]:
        """Returns a batch, rendered from its files."""
        views = self._shown
        if views.count or views.canonical_size is not None:
            contents = content_digests(found["files"], found["digests"])
            boxes = found.get("view_crop")
            pixels = decode_views(
                found["files"],
                found["one_size"],
                None if boxes is None else boxes[:, None],
                canonical_options(views, self.options),
                self.options,
            )[:, 0]
        else:
            pixels, contents = decode_batch(
                found["files"], found["one_size"], self.options, found["digests"]
            )
        with tf.control_dependencies(self._check(found, contents)):
            return self._batch(found, tf.identity(pixels))

    def _decode_new(self, found: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns what a batch is made of, with the images decoded that are not in the cache."""
        assert self._cached is not None
        contents = content_digests(found["files"], found["digests"])
        decoded = self._cached.decode(found)
        with tf.control_dependencies(self._check(found, contents)):
            decoded = tf.identity(decoded)
        rest = {name: part for name, part in found.items() if name not in ("files", "paths")}
        return {**rest, "contents_now": contents, "decoded": decoded}

    def _keep(self, found: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        assert self._cached is not None
        pixels = self._cached.keep(found, found.pop("decoded"))
        return {**found, "pixels": pixels}

    def _rendered_batch(self, found: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict, tf.Tensor]:
        """Returns a batch, rendered from pixels of the canonical size."""
        pixels, boxes = found["pixels"], found.get("view_crop")
        if boxes is not None:
            pixels = cut(pixels, boxes[:, None], self.options)[:, 0]
        elif pixels.dtype != tf.float32:
            pixels = fit(pixels, self.options)
        return self._batch(found, pixels)

    def _check(self, found: dict[str, tf.Tensor], contents: tf.Tensor) -> list[tf.Operation]:
        """Returns the operation that fails where a file is not the one the teacher answered."""
        if self.store is None:
            return []
        compared = found["rows"]
        for name in ("bad", "cached"):  # what is in the cache was compared when it was looked up
            if name in found:
                compared = tf.where(found[name], tf.constant(-1, tf.int64), compared)
        stored = found["contents"]
        return [batches.check_contents(self.images, found["paths"], contents, stored, compared)]

    def _batch(
        self, found: dict[str, tf.Tensor], pixels: tf.Tensor
    ) -> tuple[tf.Tensor, dict, tf.Tensor]:
        """Returns a batch of crops, float32, with all else that its views do to them."""
        pixels = change(pixels, found, self.operation)
        if self._pairs is not None:
            # Of a unit of two that are shown plain, each has a share of 1.
            pixels = mix(pixels, _swapped(pixels), found)
        pixels = erase(pixels, found)
        if self.on_bad == "skip":
            bad = found["bad"]
            pixels = tf.cond(tf.reduce_any(bad), lambda: _blackened(pixels, bad), lambda: pixels)
        labels, whole = found["labels"], tf.ones([self.batch_size], tf.float32)
        others, share = labels, whole
        if self._pairs is not None:
            others, share = _swapped(labels), found["view_share"]
        targets = {
            "labels": tf.stack([labels, others], axis=1),
            "label_shares": tf.stack([share, 1 - share], axis=1),
            "rows": found["rows"],
        }
        if self.store is not None:
            targets["teacher_logits"] = found["teacher_logits"]
        return pixels, targets, found["weights"]


def _blackened(pixels: tf.Tensor, bad: tf.Tensor) -> tf.Tensor:
    """Returns pixels `[batch, height, width, channels]` with zeros where bad, bool `[batch]`."""
    return tf.where(bad[:, None, None, None], tf.zeros_like(pixels), pixels)


def _swapped(values: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, …]` with the two of each pair in each other's place."""
    shape = values.shape
    return tf.reshape(tf.reverse(tf.reshape(values, (shape[0] // 2, 2, -1)), [1]), shape)
