"""One stream for several students: each batch is read once, and every student takes it.

feed = Feed(validation)
turns = distiller.fit_in_turns(stream, source=feed, …)     # opens the feed where its run stands
with SharedBatches(stream, first=0, last=100) as shared:
    for number, batch in shared.block():
        feed.put(number, batch)

A student takes its batches from a queue of its own within the compiled loop. The queues hold the
same tensors, so that a batch takes memory once.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.cache.free_space import free_memory
from streamkd.stream.evaluation_batches import evaluation_batches
from streamkd.stream.order.worker_slice import WorkerSlice
from streamkd.stream.stream import Stream
from streamkd.training.batch_source import BatchSource

# Largest number and size of the batches that all students take before the next are given.
BATCHES_PER_BLOCK = 32
BYTES_PER_BLOCK = 1 << 26
# Largest size of validation images that are kept decoded, and fraction of the free memory.
_MAX_KEPT_BYTES, _KEPT_FRACTION = 2 << 30, 0.25
# Queues hold tensors of the main memory.
_DEVICE = "/CPU:0"


class QueueIterator:
    """An iterator for the compiled loop that takes batches from a queue.

    Attributes:
      element_spec: specification of a batch.
    """

    def __init__(self, element_spec: Any) -> None:
        self.element_spec = element_spec
        self._specs = tf.nest.flatten(element_spec)
        with tf.device(_DEVICE):
            self._queue = tf.queue.FIFOQueue(-1, [spec.dtype for spec in self._specs])

    def put(self, batch: Any) -> None:
        """Adds a batch behind those that were not taken yet."""
        with tf.device(_DEVICE):
            self._queue.enqueue(tf.nest.flatten(batch))

    def __iter__(self) -> QueueIterator:
        return self

    def __next__(self) -> Any:
        with tf.device(_DEVICE):
            parts = self._queue.dequeue()
        for part, spec in zip(parts, self._specs, strict=True):
            part.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(self.element_spec, parts)


class SharedValidation:
    """The validation images of all students: decoded once, if they fit into the memory."""

    def __init__(self) -> None:
        self._kept: dict[Any, _KeptBatches] = {}

    def batches(
        self, images: Manifest, options: ImageOptions, batch_size: int, worker_slice: WorkerSlice
    ) -> Any:
        """Returns the batches of `evaluation_batches`, which may be iterated over repeatedly."""
        name = (images.fingerprint, options, batch_size)
        if name not in self._kept:
            dataset = evaluation_batches(images, options, batch_size, worker_slice)
            self._kept[name] = _KeptBatches(dataset)
        return self._kept[name]


class _KeptBatches:
    """The batches of a dataset, which are kept unless they are too large."""

    def __init__(self, dataset: tf.data.Dataset) -> None:
        self._dataset = dataset
        self._batches: list[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._batches is not None:
            yield from self._batches
            return
        room = min(_MAX_KEPT_BYTES, _KEPT_FRACTION * free_memory())
        batches: list[Any] | None = []
        for batch in self._dataset:
            room -= num_bytes_of(batch)
            if room < 0:
                batches = None
            if batches is not None:
                batches.append(batch)
            yield batch
        self._batches = batches


class Feed(BatchSource):
    """The batches of one student in a sweep.

    Attributes:
      next: number of the next batch that the student gets; None until its run is opened.
    """

    def __init__(self, element_spec: Any, validation: SharedValidation) -> None:
        self.next: int | None = None
        self._element_spec = element_spec
        self._validation = validation
        self._iterator: QueueIterator | None = None

    def open(self, first: int) -> QueueIterator:
        self.next = first
        self._iterator = QueueIterator(self._element_spec)
        return self._iterator

    def num_ready(self, first: int) -> int:
        return 0 if self.next is None else self.next - first

    def put(self, number: int, batch: Any) -> None:
        """Gives the student a batch, unless its run had that one already."""
        if number == self.next and self._iterator is not None:
            self._iterator.put(batch)
            self.next += 1

    def close(self) -> None:
        """Lets go of batches that were not taken."""
        self._iterator = None

    def validation_batches(
        self, images: Manifest, options: ImageOptions, batch_size: int, worker_slice: WorkerSlice
    ) -> Any:
        return self._validation.batches(images, options, batch_size, worker_slice)


class SharedBatches:
    """The batches of a stream, block after block; the next block is read meanwhile."""

    def __init__(self, stream: Stream, *, first: int, last: int) -> None:
        """Args: `first` and `last`, numbers of batches, the last one not included."""
        self._next, self._last = first, last
        self._batches = stream.batches(first)
        self._size = 1  # until the size of a batch is known
        self._reader = ThreadPoolExecutor(1)
        self._ahead: Future[list[Any]] = self._reader.submit(self._read)

    def __enter__(self) -> SharedBatches:
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def block(self) -> list[tuple[int, Any]]:
        """Returns the next batches with their numbers; none after the last.

        Raises:
          ChangedImageError, BadImageError, StoreError: a file cannot be read.
        """
        batches = self._ahead.result()
        first = self._next
        self._next += len(batches)
        if batches:
            size = BYTES_PER_BLOCK // max(1, num_bytes_of(batches[0]))
            self._size = max(1, min(BATCHES_PER_BLOCK, size))
            self._ahead = self._reader.submit(self._read)
        return list(enumerate(batches, first))

    def _read(self) -> list[Any]:
        size = min(self._size, self._last - self._next)
        return [next(self._batches) for _ in range(size)]


def num_bytes_of(batch: Any) -> int:
    """Returns the size of the tensors of a batch."""
    return sum(part.dtype.size * int(tf.size(part)) for part in tf.nest.flatten(batch))
