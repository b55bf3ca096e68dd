"""Where the batches of a run come from: from its own stream, or from one that students share.

source = OwnBatches(stream, workers)
iterator = source.open(first)             # from a batch on, for the compiled loop
source.num_ready(first)                   # batches that may be taken now
"""

from __future__ import annotations

import abc
import sys
from typing import Any

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.stream.evaluation_batches import evaluation_batches
from streamkd.stream.order.worker_slice import WorkerSlice
from streamkd.stream.stream import Stream
from streamkd.training.distribution import Workers


class BatchSource(abc.ABC):
    """The batches that one student learns from, and those on which it is evaluated."""

    @abc.abstractmethod
    def open(self, first: int) -> Any:
        """Returns an iterator over the batches from number `first` on, for the compiled loop."""

    @abc.abstractmethod
    def num_ready(self, first: int) -> int:
        """Returns how many batches from number `first` on may be taken now."""

    @abc.abstractmethod
    def validation_batches(
        self, images: Manifest, options: ImageOptions, batch_size: int, worker_slice: WorkerSlice
    ) -> Any:
        """Returns what `evaluation_batches` returns for the same arguments, to iterate over."""


class OwnBatches(BatchSource):
    """The batches of a stream that has one student: each is read when the student asks for it."""

    def __init__(self, stream: Stream, workers: Workers) -> None:
        self._stream, self._workers = stream, workers

    def open(self, first: int) -> Any:
        return self._workers.iterate(
            lambda worker_slice: self._stream.unnamed_dataset(first, worker_slice)
        )

    def num_ready(self, first: int) -> int:
        return sys.maxsize

    def validation_batches(
        self, images: Manifest, options: ImageOptions, batch_size: int, worker_slice: WorkerSlice
    ) -> Any:
        return evaluation_batches(images, options, batch_size, worker_slice)
