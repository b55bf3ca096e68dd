"""Elements of a pipeline for a loop in Python, without an iterator of tf.data.

    maker = ElementMaker(fetch, decode)            # traces the graph: 0.2 s
    loop = OwnLoop([Segment(maker, 0, 100)])       # costs nothing
    element = loop.next()

An iterator of tf.data makes the graphs of its pipeline ready anew, which takes 0.1 to 0.3 s:
longer than reading ten thousand tiny images. A graph that is called as a function is made ready
once. A few threads call it ahead of the reader, for an element or for several. No thread belongs to
a loop, so that a loop that is dropped leaves nothing behind.
"""

from __future__ import annotations

import collections
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import tensorflow as tf

from streamkd.tf_support.python_calls import keeping

# One call waits for the disk while each core has another one.
_NUM_THREADS = (os.cpu_count() or 1) + 1
# Calls under way or finished that wait for the reader: of one element, and of several.
_NUM_CALLS, _NUM_LARGE_CALLS = _NUM_THREADS + 2, 2
# Where files are decoded, as tf.data does, whatever other devices there are.
_DEVICE = "/CPU:0"


class ElementMaker:
    """Makes elements by their numbers, in graphs that are made once.

    Attributes:
      num_elements, single: as given.
      num_ahead: calls under way or finished before the reader asks for them.
      functions: the Python functions that the graphs call; whoever makes elements holds them.
    """

    def __init__(
        self,
        fetch: Callable[[tf.Tensor], Any],
        show: Callable[[Any], Any],
        rescue: Callable[[Any], Any] | None = None,
        num_elements: int = 1,
        single: Callable[[], ElementMaker] | None = None,
    ) -> None:
        """Traces the graph of a call.

        Args:
          fetch: graph function of the number of a call's first element.
          show: graph function of what was fetched; returns an element, or with several of them
            tensors `[num_elements, …]`.
          rescue: graph function of what was fetched and could not be shown; returns it without bad
            files.
          num_elements: elements of a call.
          single: returns the maker of single elements that takes over where a call fails.
        """
        self.num_elements = num_elements
        self.num_ahead = _NUM_CALLS if num_elements == 1 else _NUM_LARGE_CALLS
        self.functions: list[Any] = []
        self.single = single
        self._fetch, self._show, self._rescue = fetch, show, rescue
        self._lock = threading.Lock()
        self._whole = self._traced(lambda number: show(fetch(number)))

    def make(self, number: int) -> list[Any]:
        """Returns the elements of a call, the first of which has a number.

        Raises:
          tf.errors.OpError: a function refused, or a file cannot be decoded.
        """
        with tf.device(_DEVICE):
            first = tf.constant(number, tf.int64)
            try:
                return self._whole(first)
            except tf.errors.OpError:
                if self._rescue is None:
                    raise
            return self._rescued(first)

    def make_one(self, number: int) -> Any:
        """Returns one element, by a call of its own."""
        maker = self if self.single is None else self.single()
        return maker.make(number)[0]

    @property
    def _rescued(self) -> Callable[..., Any]:
        with self._lock:
            return self._graph_of_rescue

    @functools.cached_property
    def _graph_of_rescue(self) -> Callable[..., Any]:
        rescue = self._rescue
        assert rescue is not None
        return self._traced(lambda number: self._show(rescue(self._fetch(number))))

    def _traced(self, call: Callable[[tf.Tensor], Any]) -> Callable[..., Any]:
        """Returns the graph of a call; it gives a list of elements."""

        def elements(number: tf.Tensor) -> list[Any]:
            shown = call(number)
            if self.num_elements == 1:
                return [shown]
            # Unstacked tensors are parts of the same memory.
            parts = [tf.unstack(part) for part in tf.nest.flatten(shown)]
            return [tf.nest.pack_sequence_as(shown, list(own)) for own in zip(*parts, strict=True)]

        with keeping() as functions, tf.init_scope(), tf.device(_DEVICE):
            graph = tf.function(elements, autograph=False)
            traced = graph.get_concrete_function(tf.TensorSpec((), tf.int64))
        self.functions += functions
        return traced


class Segment(NamedTuple):
    """Elements `start` up to and without `stop`, which one maker makes."""

    maker: ElementMaker
    start: int
    stop: int


class OwnLoop:
    """Gives the elements of segments in order, some calls ahead of its reader."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._calls = _calls_of(segments)
        self._waiting: collections.deque[_Call] = collections.deque()
        # Functions that give the elements of the present call, or raise.
        self._ready: collections.deque[Callable[[], Any]] = collections.deque()
        # Two threads may read one loop, as they may read one iterator of tf.data.
        self._lock = threading.Lock()

    def next(self) -> Any:
        """Returns the next element; after an error, the one after that which failed.

        Raises:
          StopIteration: there are no more.
          tf.errors.OpError: as in `ElementMaker.make`.
        """
        with self._lock:
            if not self._ready:
                self._begin_calls()
                if not self._waiting:
                    raise StopIteration
                self._ready.extend(self._waiting.popleft().elements())
                self._begin_calls()
            element = self._ready.popleft()
        try:
            return element()
        finally:
            del element  # it holds the error, whose frames would hold it

    def _begin_calls(self) -> None:
        while not self._waiting or len(self._waiting) < self._waiting[-1].maker.num_ahead:
            call = next(self._calls, None)
            if call is None:
                return
            self._waiting.append(call)

    def __del__(self) -> None:
        # Nobody asks for these calls, and the next loop would have to wait for them.
        under_way = [call.result for call in self._waiting if not call.result.cancel()]
        # What a call holds is given back with its loop. The collector may run within a call, on
        # another thread, where waiting for the call would never end.
        if threading.current_thread() is threading.main_thread():
            wait(under_way)


class _Call(NamedTuple):
    """A call under way: the number of its first element, how many are wanted, its result."""

    maker: ElementMaker
    number: int
    num_wanted: int
    result: Future[list[Any]]

    def elements(self) -> list[Callable[[], Any]]:
        """Waits for the call and returns functions that give its elements, or raise.

        Where a call with another maker behind it failed, that one makes each element, when it is
        asked for.
        """
        if self.result.exception() is None:
            elements = self.result.result()[: self.num_wanted]
            return [functools.partial(_given, element) for element in elements]
        if self.maker.num_elements == 1 and self.maker.single is None:
            return [self.result.result]
        numbers = range(self.number, self.number + self.num_wanted)
        return [functools.partial(self.maker.make_one, number) for number in numbers]


def _given(element: Any) -> Any:
    return element


def _calls_of(segments: Sequence[Segment]) -> Iterator[_Call]:
    """Yields the calls of segments; a call begins when it is asked for."""
    for maker, start, stop in segments:
        for number in range(start, stop, maker.num_elements):
            num_wanted = min(maker.num_elements, stop - number)
            yield _Call(maker, number, num_wanted, _threads().submit(maker.make, number))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Returns the threads of all loops; Python waits for their calls before it ends."""
    return ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="streamkd")
