"""The stream: images and their stored logits, batch after batch, from any step on.

    stream = join(images, store, image_size=(160, 160), batch_size=128, seed=1)
    for pixels, targets, weights in stream.dataset():
        targets["teacher_logits"]

Where several devices or machines train one student, each reads a `WorkerSlice` of every batch.

A batch is `(images, targets, sample_weight)` with
  images          float32 `[batch, height, width, channels]`, 0 to 255
  labels          int32   `[batch, 2]`, the image's and its mixing partner's; -1 is no label
  label_shares    float32 `[batch, 2]`, the part of the label loss that each of the labels gets
  teacher_logits  float32 `[batch, num_classes]`; absent in a stream without a store
  multi_hot       float32 `[batch, 2, num_classes]`, only where images have several labels: 1 for a
                  label of the image, and of its mixing partner; -1 throughout without labels
  rows            int64   `[batch]`, rows of the store; -1 without logits
  sample_weight   float32 `[batch]`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.public import public
from streamkd.stream import content_check
from streamkd.stream.batch_fetch import BatchColumns, BatchFetcher
from streamkd.stream.dataset import NO_STEP, datasets_of
from streamkd.stream.order.sequence import Sequence
from streamkd.stream.order.worker_slice import WHOLE, WorkerSlice
from streamkd.stream.stream_spec import StreamSpec
from streamkd.tf_support.iterators import CollectableDataset, OwnLoopIterator
from streamkd.tf_support.own_loop import OwnLoop
from streamkd.tf_support.python_calls import raise_refusal_of

_INFINITE = tf.data.experimental.INFINITE_CARDINALITY


@public
class Stream:
    """Joined images in an order that is a pure function of seed and step; made by `join`.

    Attributes:
      spec: all attributes below in one frozen object.
      images: the manifest.
      store: the logit store, or None in a stream of labels alone.
      rows: int64 `[num_images]`, the row of each image's view 0; -1 without logits.
      labels: int32 `[num_images]`, class numbers of the logits; -1 is no label.
      multi_hot: int8 `[num_images, num_classes]`, of images with several labels: see `Manifest`; or
        None.
      class_names: the classes in the order of the logits, or None; two for a single logit.
      num_classes: number of logits.
      teacher_columns: the teacher's columns that make these logits; None for all as they are.
      options: how files become pixels.
      batch_size: rows a batch, over all workers.
      seed, shuffle: as given to `join`.
      views: the V views that the teacher answered; epoch e shows view 1 + e mod V of every image,
        or the plain image if V is 0.
      independent: views that are drawn anew for every epoch, for comparison, while the logits stay
        those of the plain image; None to replay `views`.
      operation: the user's own operation on the views shown, with its function; or None.
      on_bad: 'raise' at a file that cannot be decoded or is not the one the teacher answered; or
        'skip': the file's slot in the batch is black and has sample weight 0, and an image that is
        mixed with it has weight 0 too.
      cache: where decoded pixels are kept after the first time, or None.
      balance: whether every class is drawn equally often.
      views_per_decode: views of a decoded image that share a batch, a row each.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self.images, self.store = spec.images, spec.store
        self.rows, self.labels, self.multi_hot = spec.rows, spec.labels, spec.multi_hot
        self.class_names, self.num_classes = spec.class_names, spec.num_classes
        self.teacher_columns = spec.teacher_columns
        self.options, self.batch_size = spec.options, spec.batch_size
        self.seed, self.shuffle, self.balance = spec.seed, spec.shuffle, spec.balance
        self.views, self.independent = spec.views, spec.independent
        self.operation, self.views_per_decode = spec.operation, spec.views_per_decode
        self.on_bad, self.cache = spec.on_bad, spec.cache
        columns = BatchColumns(spec)
        self._sequence = Sequence(spec)
        self._fetcher = BatchFetcher(spec, self._sequence, columns)
        self._datasets = datasets_of(spec, self._sequence, columns, self._fetcher)

    @property
    def rounds_pixels(self) -> bool:
        """Whether plain images are whole numbers, since the pixel cache keeps no others."""
        return self.cache is not None and self.spec.shown.canonical_size is None

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> np.ndarray:
        """bool `[num_images]`, the images whose label, or list of labels, is known."""
        return self.spec.labelled

    @property
    def skipped(self) -> dict[int, str]:
        """Reasons of the images that this process has skipped, by their positions in the manifest.

        A skipped image is not read again.
        """
        return self._fetcher.skipped

    def skipped_keys(self) -> dict[bytes, str]:
        """Returns the reasons of the skipped images by key."""
        keys = self.images.keys
        return {keys[index]: reason for index, reason in dict(self.skipped).items()}

    def end_of_epoch(self, epoch: int) -> int:
        """Returns the number of steps after which every image was seen `epoch` times.

        With `views_per_decode`, every image was then decoded `epoch` times; with `balance`, `epoch`
        times as many images were drawn as an epoch has.
        """
        return self._sequence.end_of_epoch(epoch)

    def dataset(
        self, start: int = 0, stop: int | None = None, share: WorkerSlice = WHOLE
    ) -> tf.data.Dataset:
        """Returns the batches of the steps `start` to `stop`; without end if `stop` is None.

        Args:
          share: the slice of one of several workers, or of a worker with several replicas of the
            student: each step then has one element for each replica, a piece of the batch.

        Raises:
          OptionError: the batch cannot be cut into so many pieces.

        Iterated in Python, the dataset raises what `batches` raises. Where TensorFlow runs the
        loop, as in Keras' `fit`, the text of its error has the same words.
        """
        return self._dataset(start, stop, share, named=True)

    def unnamed_dataset(self, start: int, share: WorkerSlice) -> tf.data.Dataset:
        """Returns the batches from `start` on, for a loop that calls `refuse` with its errors.

        TensorFlow's own error does not name a file that cannot be decoded, which saves 0.1 ms a
        batch in a stream with images that no teacher answered. Arguments as in `dataset`.
        """
        return self._dataset(start, None, share, named=False)

    def _dataset(
        self, start: int, stop: int | None, share: WorkerSlice, *, named: bool
    ) -> tf.data.Dataset:
        self.check_share(share)
        last = NO_STEP // share.num_pieces if stop is None else stop
        dataset = self._datasets.dataset(start, last, share, named=named)
        if stop is None:
            # Otherwise the workers of a strategy ask each other before every step who has data.
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(_INFINITE))

        functions = self._datasets.functions
        if not named:
            return CollectableDataset(dataset, functions, self._refusal(start, share))
        return CollectableDataset(
            dataset,
            functions,
            self._refusal(start, share),
            lambda: self._own_loop(start, stop, share),
            self._rest(start, stop, share),
        )

    def _own_loop(self, start: int, stop: int | None, share: WorkerSlice) -> OwnLoop:
        last = NO_STEP // share.num_pieces if stop is None else stop
        return OwnLoop(self._datasets.segments(start, last, share))

    def _refusal(self, start: int, share: WorkerSlice) -> Callable[[tf.errors.OpError, int], None]:
        """Returns a function that raises the refusal of a dataset's n-th element, if any."""

        def refuse(error: tf.errors.OpError, number: int) -> None:
            step = start + number // share.num_replicas
            self.refuse(error, range(step, step + 1), share)

        return refuse

    def _rest(
        self, start: int, stop: int | None, share: WorkerSlice
    ) -> Callable[[int], tf.data.Dataset]:
        """Returns a function of the dataset from its n-th element on."""

        def rest(number: int) -> tf.data.Dataset:
            step, piece = divmod(number, share.num_replicas)
            return self.dataset(start + step, stop, share).skip(piece)

        return rest

    def check_share(self, share: WorkerSlice) -> None:
        """Refuses, as an OptionError, a worker slice with more pieces than batches divide into."""
        rows_per_unit = self.batch_size // self._sequence.units_per_batch
        share.check_batch_size(self.batch_size, rows_per_unit)

    def batches(
        self, start: int = 0, stop: int | None = None, share: WorkerSlice = WHOLE
    ) -> Iterator[Any]:
        """Yields the elements of `dataset`; a file that fails is named in the error.

        Begins sooner than `iter(dataset(…))`, since no pipeline of TensorFlow is made.

        Raises:
          ChangedImageError: a file is not the one the teacher answered.
          BadImageError: a file cannot be decoded.
        """
        if not tf.executing_eagerly():
            return iter(self.dataset(start, stop, share))
        self.check_share(share)
        return OwnLoopIterator(
            lambda: self.dataset(start, stop, share),
            self._refusal(start, share),
            self._own_loop(start, stop, share),
            self._rest(start, stop, share),
        )

    def refuse(self, error: tf.errors.OpError, steps: range, share: WorkerSlice = WHOLE) -> None:
        """Raises the refusal that an error of TensorFlow stands for, if any.

        Args:
          error: raised by one of the `steps`.
          share: as given to `dataset`.

        Raises:
          ChangedImageError: a file is not the one the teacher answered.
          BadImageError: a file cannot be decoded; UnreadableImageError if it cannot be read.
          StoreError, MissingLogitsError: the refusal of the store.
        """
        raise_refusal_of(error)
        # The error may be of another batch of the same call.
        steps = range(steps.start, steps.stop + self._datasets.steps_per_call(share) - 1)
        indices = np.concatenate([self.indices(step, share) for step in steps])
        content_check.raise_named(error, self.images, self.options, indices)

    def indices(self, step: int, share: WorkerSlice = WHOLE) -> np.ndarray:
        """Returns the images of one step, int64 `[batch]`, as positions in the manifest.

        With the slice of one of several workers, the images of the slice's pieces.
        """
        numbers = step * share.num_replicas + np.arange(share.num_replicas)
        sequence = self._sequence.cut_into(share.num_pieces)
        units, epochs = sequence.units(tf.constant(share.pieces(numbers), tf.int64))
        indices, _ = sequence.images_and_views(units.numpy(), epochs.numpy())
        return np.repeat(indices, self.views_per_decode)
