"""Builds the tf.data pipelines of a stream: from files, or through the pixel cache.

    datasets = datasets_of(spec, sequence, columns, fetcher)
    dataset = datasets.dataset(start, stop, worker_slice)
    segments = datasets.segments(start, stop, worker_slice)    # the same, for a loop in Python

Without a cache every batch is fetched, then decoded and rendered. With a cache the dataset reads
files until every image is in the cache, and the full cache afterwards.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.pixels.cache.cache_part import CachePart
from streamkd.pixels.cache.pixel_cache import PixelCache
from streamkd.stream.batch_fetch import BatchColumns, BatchFetcher
from streamkd.stream.batch_render import BatchRenderer, CachedBatchRenderer
from streamkd.stream.order.sequence import Sequence
from streamkd.stream.order.worker_slice import WorkerSlice
from streamkd.stream.stream_spec import StreamSpec
from streamkd.tf_support.autograph import unconverted
from streamkd.tf_support.kept_pipeline import KeptPipeline
from streamkd.tf_support.own_loop import ElementMaker, Segment
from streamkd.tf_support.read_pipeline import PREFETCHED_BATCHES, read_pipeline

# Largest number of rows and of bytes that one call into Python fetches from the cache. A call costs
# as much as a hundred small images; of large images one batch is enough, and more would not stay in
# the processor's cache.
ROWS_PER_CALL = 4096
BYTES_PER_CALL = 1 << 25
# A step that no stream reaches.
NO_STEP = int(np.iinfo(np.int64).max)


class FileDatasets:
    """Datasets whose batches are read and decoded anew each time."""

    def __init__(self, sequence: Sequence, fetcher: BatchFetcher, renderer: BatchRenderer) -> None:
        self._sequence = sequence
        self._fetcher = fetcher
        self._from_files = renderer.from_files
        # Making the graphs of a pipeline takes longer than reading ten thousand small images.
        self._pipelines: dict[tuple, KeptPipeline] = {}
        self._makers: dict[tuple, ElementMaker] = {}
        self._lock = threading.RLock()

    def dataset(
        self, start: int, stop: int, worker_slice: WorkerSlice, *, named: bool
    ) -> tf.data.Dataset:
        """Returns the pieces of the steps from `start` up to and without `stop`.

        Args:
          named: whether TensorFlow's own error names a file that cannot be decoded, where the
            stream has images that no teacher answered.
        """
        return self._kept_pipeline(self._read, worker_slice, named).dataset(start, stop)

    def segments(self, start: int, stop: int, worker_slice: WorkerSlice) -> list[Segment]:
        """Returns the pieces of the steps `start` to `stop`, for a loop in Python."""
        return [self._segment(self._file_maker, start, stop, worker_slice)]

    @property
    def functions(self) -> list[Any]:
        """The Python functions of all pipelines made so far; whoever runs one holds them."""
        return [list(pipeline.functions) for pipeline in self._pipelines.values()]

    def _kept_pipeline(
        self, build: Callable[..., tf.data.Dataset], *arguments: Any
    ) -> KeptPipeline:
        """Returns the pipeline of `build(start, stop, *arguments)`, which is made once."""
        with self._lock:
            name = (build.__name__, *arguments)
            if name not in self._pipelines:
                self._pipelines[name] = KeptPipeline(
                    lambda start, stop: build(start, stop, *arguments)
                )
            return self._pipelines[name]

    def _segment(
        self,
        build: Callable[[WorkerSlice], ElementMaker],
        start: int,
        stop: int,
        worker_slice: WorkerSlice,
    ) -> Segment:
        """Returns the pieces of some steps, made by `build(worker_slice)`, which is called once."""
        with self._lock:
            name = (build.__name__, worker_slice)
            if name not in self._makers:
                self._makers[name] = build(worker_slice)
            num_replicas = worker_slice.num_replicas
            return Segment(self._makers[name], start * num_replicas, stop * num_replicas)

    def _file_maker(self, worker_slice: WorkerSlice) -> ElementMaker:
        fetch = self._fetch(worker_slice, 1)
        return ElementMaker(fetch, self._from_files, self._fetcher.rescue)

    def _read(
        self, start: tf.Tensor, stop: tf.Tensor, worker_slice: WorkerSlice, named: bool
    ) -> tf.data.Dataset:
        pieces = _own_pieces(start, stop, worker_slice)
        return read_pipeline(
            pieces,
            self._fetch(worker_slice, 1),
            self._from_files,
            self._fetcher.rescue,
            explain=self._explain(worker_slice, 1) if named else None,
        )

    def _explain(
        self, worker_slice: WorkerSlice, num_pieces: int
    ) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """Returns a graph function that names the bad file among the pieces from a number on."""
        explain = self._fetcher.explain
        if explain is None:
            return None
        return lambda first: explain(*self._place(worker_slice, num_pieces, first))

    def steps_per_call(self, worker_slice: WorkerSlice) -> int:
        """Returns the largest number of steps that one call into Python fetches."""
        return 1

    def _fetch(
        self, worker_slice: WorkerSlice, num_pieces: int, *, from_cache: bool = False
    ) -> Callable[[tf.Tensor], Any]:
        """Returns a graph function that fetches a worker's pieces, given the first one's number."""

        def fetch(first: tf.Tensor) -> dict[str, tf.Tensor]:
            place = self._place(worker_slice, num_pieces, first)
            return self._fetcher.fetch(*place, from_cache=from_cache)

        return fetch

    def _place(
        self, worker_slice: WorkerSlice, num_pieces: int, first: tf.Tensor
    ) -> tuple[tf.Tensor, Sequence]:
        """Returns the numbers of a worker's pieces from `first` on, and the order they count."""
        numbers = first + tf.range(num_pieces, dtype=tf.int64)
        return worker_slice.pieces(numbers), self._sequence.cut_into(worker_slice.num_pieces)


class CachedDatasets(FileDatasets):
    """Datasets whose images are decoded once and then come from the pixel cache."""

    def __init__(
        self,
        spec: StreamSpec,
        sequence: Sequence,
        fetcher: BatchFetcher,
        renderer: CachedBatchRenderer,
        cache: PixelCache | CachePart,
    ) -> None:
        super().__init__(sequence, fetcher, renderer)
        self._spec = spec
        self._cache = cache
        self._renderer = renderer

    def dataset(
        self, start: int, stop: int, worker_slice: WorkerSlice, *, named: bool
    ) -> tf.data.Dataset:
        # A call fetches one piece until all images are in the cache; from then on, several.
        filled = min(self._step_when_filled(start, worker_slice), stop)
        if filled == start:
            may_be_stale = self._cache.path is not None
            full = self._kept_pipeline(self._from_full_cache, worker_slice, named, may_be_stale)
            return full.dataset(start, stop)
        filling = self._kept_pipeline(self._filling, worker_slice, named).dataset(start, filled)
        if filled == stop:
            return filling
        full = self._kept_pipeline(self._from_full_cache, worker_slice, named, False)
        return filling.concatenate(full.dataset(filled, stop))

    def segments(self, start: int, stop: int, worker_slice: WorkerSlice) -> list[Segment]:
        filled = max(start, min(self._step_when_filled(start, worker_slice), stop))
        parts = [(self._filling_maker, start, filled), (self._full_cache_maker, filled, stop)]
        return [
            self._segment(build, first, end, worker_slice)
            for build, first, end in parts
            if first < end
        ]

    def _filling_maker(self, worker_slice: WorkerSlice) -> ElementMaker:
        return ElementMaker(
            self._fetch(worker_slice, 1),
            lambda batch: self._renderer.from_pixels(self._kept(batch)),
            self._fetcher.rescue,
        )

    def _full_cache_maker(self, worker_slice: WorkerSlice) -> ElementMaker:
        """Returns a maker that leaves calls with an image that is not cached to the other one."""
        num_pieces = self._pieces_of_own_call(worker_slice)
        return ElementMaker(
            self._fetch(worker_slice, num_pieces, from_cache=True),
            lambda batch: self._pieces_of(num_pieces, self._renderer.cached(batch)),
            num_elements=num_pieces,
            single=lambda: self._segment(self._filling_maker, 0, 0, worker_slice).maker,
        )

    def _pieces_of_own_call(self, worker_slice: WorkerSlice) -> int:
        """Returns the pieces of a call for a loop in Python: equal calls fill an epoch."""
        steps_of_epoch = -(-self._sequence.num_units // self._sequence.units_per_batch)
        num_calls = -(-steps_of_epoch // self.steps_per_call(worker_slice))
        return -(-steps_of_epoch // num_calls) * worker_slice.num_replicas

    def steps_per_call(self, worker_slice: WorkerSlice) -> int:
        num_rows = self._spec.batch_size // worker_slice.num_workers
        num_bytes = 4 * math.prod(self._spec.options.shape) * num_rows
        # At most an epoch, since `shuffle.indices_of_batch` takes batches of two epochs at most.
        steps_of_epoch = self._sequence.num_units // self._sequence.units_per_batch
        return max(1, min(ROWS_PER_CALL // num_rows, BYTES_PER_CALL // num_bytes, steps_of_epoch))

    def _step_when_filled(self, start: int, worker_slice: WorkerSlice) -> int:
        """Returns the first step, from `start` on, at which the cache will hold every image."""
        if self._cache.is_filled:
            return start
        # Each of several workers sees other images every epoch, and never all in one epoch.
        if self._cache.capacity < len(self._spec.images) or worker_slice.num_workers > 1:
            return NO_STEP
        return self._sequence.end_of_epoch(self._sequence.first_whole_epoch(start) + 1)

    def _filling(
        self, start: tf.Tensor, stop: tf.Tensor, worker_slice: WorkerSlice, named: bool
    ) -> tf.data.Dataset:
        """Returns pieces that are fetched one by one and put new images into the cache."""
        return read_pipeline(
            _own_pieces(start, stop, worker_slice),
            self._fetch(worker_slice, 1),
            self._renderer.decode,
            self._fetcher.rescue,
            [self._renderer.keep, self._renderer.from_pixels],
            explain=self._explain(worker_slice, 1) if named else None,
        )

    def _from_full_cache(
        self,
        start: tf.Tensor,
        stop: tf.Tensor,
        worker_slice: WorkerSlice,
        named: bool,
        may_be_stale: bool,
    ) -> tf.data.Dataset:
        """Returns pieces that are fetched several at a time and share the cost of a call.

        The pieces of a call are parts of the same memory. They are large together, and each stage
        keeps several such results in flight, so the pipeline has few stages.

        Args:
          may_be_stale: whether another process may have filled the cache, from older files.
        """
        num_pieces = self.steps_per_call(worker_slice) * worker_slice.num_replicas
        pieces_of = functools.partial(self._pieces_of, num_pieces)
        # Calls of Python are serial under op determinism, and crops must not be.
        is_plain = self._renderer.shows_cached_pixels
        dataset = read_pipeline(
            _own_pieces(start, stop, worker_slice, num_pieces),
            self._fetch(worker_slice, num_pieces),
            (lambda batch: pieces_of(self._kept(batch))) if is_plain else self._kept,
            self._fetcher.rescue,
            [] if is_plain else [pieces_of],
            explain=self._explain(worker_slice, num_pieces) if named else None,
            # Many stale images may have to be decoded anew.
            one_at_a_time=not may_be_stale,
            num_prefetched=0,
        )
        if num_pieces > 1:
            dataset = dataset.flat_map(
                unconverted(lambda *pieces: tf.data.Dataset.from_tensor_slices(pieces))
            ).take((stop - start) * worker_slice.num_replicas)
        return dataset.prefetch(PREFETCHED_BATCHES)

    def _kept(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._renderer.keep(self._renderer.decode(batch))

    def _pieces_of(self, num_pieces: int, batch: dict[str, tf.Tensor]) -> Any:
        """Returns images, targets and weights; with several pieces each is `[num_pieces, …]`."""
        rendered = self._renderer.from_pixels(batch)
        if num_pieces == 1:
            return rendered
        return tf.nest.map_structure(
            lambda part: tf.reshape(part, (num_pieces, -1, *part.shape[1:])), rendered
        )


def datasets_of(
    spec: StreamSpec, sequence: Sequence, columns: BatchColumns, fetcher: BatchFetcher
) -> FileDatasets:
    """Returns the datasets of a stream, through its pixel cache if it has one."""
    if spec.cache is None or columns.cached is None:
        return FileDatasets(sequence, fetcher, BatchRenderer(spec, columns))
    renderer = CachedBatchRenderer(spec, columns, columns.cached)
    return CachedDatasets(spec, sequence, fetcher, renderer, spec.cache)


def _own_pieces(
    start: tf.Tensor, stop: tf.Tensor, worker_slice: WorkerSlice, every: int = 1
) -> tf.data.Dataset:
    """Returns the numbers of a worker's pieces of the steps `start` to `stop`, `every` so many."""
    num_replicas = worker_slice.num_replicas
    return tf.data.Dataset.range(start * num_replicas, stop * num_replicas, every)
