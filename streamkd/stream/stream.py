"""The stream: images and their stored logits, batch after batch, from any step on.

    stream = join(images, store, image_size=(160, 160), batch_size=128, seed=1)
    for pixels, targets, weights in stream.dataset():
        targets["teacher_logits"]

Where several devices or machines train one student, each reads a `WorkerSlice` of every batch.

A batch is `(images, targets, sample_weight)` with
  images          float32 `[batch, height, width, channels]`, 0 to 255
  labels          int32   `[batch, 2]`, the image's and its mixing partner's; -1 is no label
  label_shares    float32 `[batch, 2]`, how much of the label loss each of them gets
  teacher_logits  float32 `[batch, num_classes]`; absent in a stream without a store
  rows            int64   `[batch]`, rows of the store; -1 where there is none
  sample_weight   float32 `[batch]`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.public import public
from streamkd.store.row_store import RowStore
from streamkd.stream import content_check
from streamkd.stream.batch_fetch import BatchFetcher
from streamkd.stream.batch_render import BatchRenderer
from streamkd.stream.cache.cached_images import cached_images
from streamkd.stream.cache.pixel_cache import PixelCache
from streamkd.stream.order.class_balance import Balance
from streamkd.stream.order.mixing_pairs import Pairs
from streamkd.stream.order.sequence import Sequence
from streamkd.stream.order.worker_slice import WHOLE, WorkerSlice
from streamkd.tf_support.autograph import unconverted
from streamkd.tf_support.iterators import CollectableDataset
from streamkd.tf_support.read_pipeline import PREFETCHED_BATCHES, read_pipeline
from streamkd.views.operation import ViewOperation
from streamkd.views.views import Views

# Where nothing is read, a call into Python costs as much as a hundred small images; of large
# images one batch is enough, and more would not stay in the processor's cache.
ROWS_PER_CALL = 4096
BYTES_PER_CALL = 1 << 25
_LAST = int(np.iinfo(np.int64).max)
_INFINITE = tf.data.experimental.INFINITE_CARDINALITY


@public
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
      cache: where decoded pixels are kept after the first time, or None.
      balance: whether every class is drawn equally often.
      views_per_decode: how many views of a decoded image share a batch.
    """

    def __init__(
        self,
        images: Manifest,
        store: RowStore | None,
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
        balance: bool = False,
        views_per_decode: int = 1,
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
        self.cache = cache
        self.balance = balance
        self.views_per_decode = views_per_decode
        self.views = Views(0) if store is None else Views.from_dict(store.header.views)
        shown = independent or self.views
        pairs = None
        if store is not None and self.views.mixes and independent is None:
            pairs = Pairs(store, rows // store.num_views)
        self._sequence = Sequence(
            num_images=len(images),
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            num_views=0 if independent is not None else self.views.count,
            pairs=pairs,
            balance=Balance(labels, seed=seed, shuffle=shuffle) if balance else None,
            views_per_decode=views_per_decode,
        )
        cached = None if cache is None else cached_images(cache, shown, options)
        self._parts = BatchFetcher(
            images,
            store,
            self._sequence,
            rows=rows,
            labels=labels,
            num_classes=num_classes,
            options=options,
            shown=shown,
            drawn_seed=None if independent is None else seed,
            on_bad=on_bad,
            cached=cached,
        )
        self._rendering = BatchRenderer(
            images,
            options,
            shown,
            operation=operation,
            has_store=store is not None,
            is_paired=pairs is not None,
            views_per_decode=views_per_decode,
            on_bad=on_bad,
            cached=cached,
        )

    @property
    def rounds_pixels(self) -> bool:
        """Whether plain images are whole numbers, since the pixel cache keeps no others."""
        shown = self.independent or self.views
        return self.cache is not None and shown.canonical_size is None

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def skipped(self) -> dict[int, str]:
        """Images that were skipped so far in this process, and why, by their places in the
        manifest; they are not read again."""
        return self._parts.skipped

    def skipped_keys(self) -> dict[bytes, str]:
        """Returns the keys of the images that were skipped so far, and why."""
        keys = self.images.keys
        return {keys[index]: reason for index, reason in dict(self.skipped).items()}

    def end_of_epoch(self, epoch: int) -> int:
        """Returns the number of steps after which every image was seen `epoch` times.

        With `views_per_decode`, every image was then decoded that often; with `balance`, as many
        images were drawn as that.
        """
        return self._sequence.end_of_epoch(epoch)

    def dataset(
        self, start: int = 0, stop: int | None = None, share: WorkerSlice = WHOLE
    ) -> tf.data.Dataset:
        """Returns the batches of the steps `start` to `stop` (without end where None).

        Args:
          share: of one of several workers, or one with several replicas of the student: for each
            step there is one element for each of its replicas, a piece of the batch.

        Raises:
          OptionError: the batch cannot be cut into so many pieces.
        """
        self.check_divides_batch(share)
        self._parts.refusal = None
        dataset = self._dataset(start, _LAST // share.num_pieces if stop is None else stop, share)
        if stop is None:
            # Or the workers of a strategy would ask each other before every step who has data left.
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(_INFINITE))
        return CollectableDataset(dataset)

    def check_divides_batch(self, share: WorkerSlice) -> None:
        """Refuses a share where batches cannot be cut into so many pieces.

        Raises:
          OptionError: shows how many rows there are and how they have to be parted.
        """
        unit = self.batch_size // self._sequence.units_per_batch
        share.check_batch_size(self.batch_size, unit)

    def _dataset(self, start: int, stop: int, share: WorkerSlice) -> tf.data.Dataset:
        """Returns the pieces of the steps from `start` up to and without `stop`."""
        rendering = self._rendering
        rescue = self._parts.without_bad if self.on_bad == "skip" else None
        look_up = self._look_up(share, 1)
        if self.cache is None:
            pieces = _own_pieces(start, stop, share)
            return read_pipeline(pieces, look_up, rendering.from_files, rescue)
        # Until all is in the cache, a call looks up one piece; from then on, several.
        filled = min(self._step_when_filled(start, share), stop)
        if filled == start:
            is_found_full = self.cache.path is not None
            return self._from_full_cache(start, stop, share, rescue, is_found_full)
        filling = read_pipeline(
            _own_pieces(start, filled, share),
            look_up,
            rendering.decode,
            rescue,
            [rendering.keep, rendering.from_pixels],
        )
        if filled == stop:
            return filling
        return filling.concatenate(self._from_full_cache(filled, stop, share, rescue, False))

    def _look_up(self, share: WorkerSlice, num_pieces: int) -> Callable[[tf.Tensor], Any]:
        """Returns what looks up some pieces of a worker, given the number of the first."""
        sequence = self._sequence.cut_into(share.num_pieces)

        def look_up(first: tf.Tensor) -> dict[str, tf.Tensor]:
            numbers = first + tf.range(num_pieces, dtype=tf.int64)
            return self._parts.look_up(share.pieces(numbers), sequence)

        return look_up

    def _step_when_filled(self, start: int, share: WorkerSlice) -> int:
        """Returns the first step, from `start` on, at which the cache is to hold every image."""
        assert self.cache is not None
        if self.cache.is_filled:
            return start
        # One of several workers sees a part of the images in each epoch, and each time another.
        if self.cache.capacity < self.num_images or share.num_workers > 1:
            return _LAST
        return self.end_of_epoch(self._sequence.first_whole_epoch(start) + 1)

    def _from_full_cache(
        self, start: int, stop: int, share: WorkerSlice, rescue: Any, is_found_full: bool
    ) -> tf.data.Dataset:
        """Returns pieces that are looked up several at a time, and then are parts of the same
        memory: what a call costs is shared by them.

        They are large, and so there are as few stages as can be, each of which has some under way.

        Args:
          is_found_full: another process may have left the pixels there, and some may be stale.
        """
        num_pieces = self._steps_per_call(share) * share.num_replicas
        rendering = self._rendering

        def kept(found: dict[str, tf.Tensor]) -> Any:
            return rendering.keep(rendering.decode(found))

        def pieces_of(found: dict[str, tf.Tensor]) -> Any:
            if num_pieces == 1:
                return rendering.from_pixels(found)
            return tf.nest.map_structure(
                lambda part: tf.reshape(part, (num_pieces, -1, *part.shape[1:])),
                rendering.from_pixels(found),
            )

        # What calls Python is serial under op determinism, which crops must not be.
        is_plain = rendering.shows_cached_pixels
        dataset = read_pipeline(
            _own_pieces(start, stop, share, num_pieces),
            self._look_up(share, num_pieces),
            (lambda found: pieces_of(kept(found))) if is_plain else kept,
            rescue,
            [] if is_plain else [pieces_of],
            # Of images that another process has left on the disk many may have to be decoded anew.
            one_at_a_time=not is_found_full,
            num_prefetched=0,
        )
        if num_pieces > 1:
            dataset = dataset.flat_map(
                unconverted(lambda *some: tf.data.Dataset.from_tensor_slices(some))
            ).take((stop - start) * share.num_replicas)
        return dataset.prefetch(PREFETCHED_BATCHES)

    def _steps_per_call(self, share: WorkerSlice = WHOLE) -> int:
        """Returns for how many steps is looked up at once where nothing has to be read."""
        num_rows = self.batch_size // share.num_workers
        num_bytes = 4 * math.prod(self.options.shape) * num_rows
        # Of the whole batches, since the order is told of two epochs at a time.
        most = self._sequence.num_units // self._sequence.units_per_batch
        return max(1, min(ROWS_PER_CALL // num_rows, BYTES_PER_CALL // num_bytes, most))

    def batches(
        self, start: int = 0, stop: int | None = None, share: WorkerSlice = WHOLE
    ) -> Iterator[Any]:
        """Yields the elements of `dataset`; a file that fails is named in the error.

        Raises:
          ChangedImageError: a file is not the one the teacher answered.
          BadImageError: a file cannot be decoded.
        """

        def refuse(error: tf.errors.OpError, number: int) -> None:
            step = start + number // share.num_replicas
            self.refuse(error, range(step, step + 1), share)

        return content_check.named_errors(iter(self.dataset(start, stop, share)), refuse)

    def refuse(self, error: tf.errors.OpError, steps: range, share: WorkerSlice = WHOLE) -> None:
        """Raises the refusal that an error of TensorFlow in some steps stands for, if any.

        Args:
          share: what `dataset` was asked for.

        Raises:
          ChangedImageError: a file is not the one the teacher answered.
          BadImageError: a file cannot be decoded.
          StoreError, MissingLogitsError: what the store said.
        """
        if self._parts.refusal is not None:
            raise self._parts.refusal from error
        if self.cache is not None:  # an error may be of another batch of the same call
            steps = range(steps.start, steps.stop + self._steps_per_call(share) - 1)
        indices = np.concatenate([self.indices(step, share) for step in steps])
        content_check.raise_named(error, self.images, self.options, indices)

    def indices(self, step: int, share: WorkerSlice = WHOLE) -> np.ndarray:
        """Returns the images of one step, int64 `[batch]`, as positions in the manifest.

        Args:
          share: of one of several workers; the images of its pieces.
        """
        numbers = step * share.num_replicas + np.arange(share.num_replicas)
        sequence = self._sequence.cut_into(share.num_pieces)
        units, epochs = sequence.units(tf.constant(share.pieces(numbers), tf.int64))
        indices, _ = sequence.places(units.numpy(), epochs.numpy())
        return np.repeat(indices, self.views_per_decode)


def _own_pieces(start: int, stop: int, share: WorkerSlice, every: int = 1) -> tf.data.Dataset:
    """Returns the numbers of a worker's own pieces of some steps, or of every so many of them."""
    return tf.data.Dataset.range(start * share.num_replicas, stop * share.num_replicas, every)
