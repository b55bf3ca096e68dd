"""tf.data iterators that may be garbage-collected on any thread.

    dataset = CollectableDataset(dataset)
    iterator = make_collectable(iter(strategy.distribute_datasets_from_function(…)))

When an iterator over a dataset that calls Python is deleted, it waits for its running calls. The
garbage collector runs on any thread, and so within such a call as well. If it then deletes an old
iterator, for example one in the frames of an error, it waits for the very call that it runs in: for
ever. TensorFlow has one thread a core, so that the rest of the process soon waits too.

An iterator must not outlive Python either: a call that is running when the interpreter ends never
returns, and the process waits for it. A script that keeps an iterator in a variable would hang at
its end, one time in three.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops.iterator_ops import OwnedIterator

from streamkd.tf_support.own_loop import OwnLoop
from streamkd.tf_support.python_calls import raise_refusal_of

# TensorFlow's resources of each living iterator.
_ALIVE: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
# Resources that could not be released, because Python was ending.
_KEPT: list[list[Any]] = []
# Attributes that come with TensorFlow's resource.
_OF_TENSORFLOW = ("_iterator_resource", "_dataset", "_flat_output_types", "_flat_output_shapes")
# Longest time of a collection, in seconds. An iterator in use for longer has another owner.
_MAX_WAIT_SECS = 60


class CollectableDataset(tf.data.Dataset):
    """A dataset with the same elements, whose iterators may be deleted on any thread.

    Iterated in Python, it raises refusals instead of TensorFlow's errors.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        functions: Any = None,
        refuse: Callable[[tf.errors.OpError, int], None] | None = None,
        own_loop: Callable[[], OwnLoop] | None = None,
        rest: Callable[[int], tf.data.Dataset] | None = None,
    ) -> None:
        """Wraps a dataset.

        Args:
          functions: whatever must live as long as the dataset, such as its Python functions.
          refuse: called with an error of TensorFlow and the number of the element that it stands
            for; raises the refusal, if any. By default a refusal of the dataset's functions.
          own_loop: returns the same elements for a loop in Python; None if only TensorFlow does.
          rest: returns the dataset from an element's number on; goes with `own_loop`.
        """
        self._dataset = dataset
        self._functions = functions
        self.refuse = refuse or (lambda error, number: raise_refusal_of(error))
        self.own_loop = own_loop
        self.rest = rest
        super().__init__(dataset._variant_tensor)

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._dataset]

    @property
    def element_spec(self) -> Any:
        return self._dataset.element_spec

    def __iter__(self) -> Any:
        if not tf.executing_eagerly():
            return super().__iter__()
        if self.own_loop is not None and self.rest is not None:
            return OwnLoopIterator(lambda: self, self.refuse, self.own_loop(), self.rest)
        return make_collectable(_NamingIterator(self))


class _NamingIterator(OwnedIterator):
    """An iterator that raises refusals instead of TensorFlow's errors; later elements follow.

    Within a graph, as in Keras' `fit`, it is TensorFlow's own.
    """

    def __init__(self, dataset: CollectableDataset) -> None:
        super().__init__(dataset)
        self._refuse = dataset.refuse
        self._number = -1

    def _next_internal(self) -> Any:
        self._number += 1
        try:
            return self._elements_next()
        except tf.errors.OutOfRangeError:
            raise
        except tf.errors.OpError as error:
            self._refuse(error, self._number)
            raise

    def _elements_next(self) -> Any:
        """Returns the next element, or raises TensorFlow's error."""
        return super()._next_internal()


class OwnLoopIterator(_NamingIterator):
    """An iterator that Python's threads feed, until TensorFlow asks for one of its own.

    TensorFlow does where the iterator is an argument of a `tf.function`, as in Keras' `fit`. Its
    own iterator then goes on after the elements that were taken.
    """

    def __init__(
        self,
        whole: Callable[[], tf.data.Dataset],
        refuse: Callable[[tf.errors.OpError, int], None],
        loop: OwnLoop,
        rest: Callable[[int], tf.data.Dataset],
    ) -> None:
        """Begins at the first element.

        Args:
          whole: returns the dataset of all elements.
          refuse, rest: of `CollectableDataset`.
          loop: gives the same elements.
        """
        self._loop: OwnLoop | None = loop
        self._whole, self._refuse, self._rest = whole, refuse, rest
        self._number = -1
        self._num_taken = 0
        self._get_next_call_count = 0

    def __getattr__(self, name: str) -> Any:
        """Makes TensorFlow's iterator, whose attributes are missing until then."""
        if "_loop" not in self.__dict__:
            raise AttributeError(name)
        if name == "_element_spec":
            self._element_spec = self._whole().element_spec
            return self._element_spec
        if name not in _OF_TENSORFLOW:
            raise AttributeError(name)
        num_taken = self._num_taken
        with tf.init_scope():
            self._create_iterator(self._rest(num_taken) if num_taken else self._whole())
        self._loop = None
        make_collectable(self)
        return self.__dict__[name]

    def _elements_next(self) -> Any:
        if self._loop is None or not tf.executing_eagerly():
            return super()._elements_next()
        self._num_taken += 1
        try:
            return self._loop.next()
        except StopIteration:
            raise tf.errors.OutOfRangeError(None, None, "End of sequence") from None


def make_collectable(iterator: Any) -> Any:
    """Returns an iterator, such as a strategy makes, that may be deleted on any thread."""
    # TensorFlow's half of the iterator lives as long as this list.
    resources = tf.nest.flatten(iterator, expand_composites=True)
    if iterator not in _ALIVE:
        weakref.finalize(iterator, _release, resources).atexit = False
        _ALIVE[iterator] = resources
    return iterator


def _release(resources: list[Any]) -> None:
    """Releases resources at once on the main thread, which runs no calls; else on a new thread."""
    if threading.current_thread() is threading.main_thread():
        return
    try:
        threading.Thread(target=_release_when_unused, args=(resources,), daemon=True).start()
    except RuntimeError:
        _KEPT.append(resources)


def _release_when_unused(resources: list[Any]) -> None:
    """Releases resources once nothing else refers to them.

    The collector calls finalizers before it clears an iterator, which still holds its resources.
    """
    for _ in range(_MAX_WAIT_SECS * 100):
        if sys.getrefcount(resources[0]) <= 2:  # the list, and the argument
            break
        time.sleep(0.01)
    resources.clear()


@atexit.register
def end_all_iterators() -> None:
    """Ends all living iterators, when Python ends, while their calls can still return."""
    for iterator, resources in list(_ALIVE.items()):
        resources.clear()
        # The iterator's own references: a strategy's iterator has one for each device.
        iterator._iterator_resource = iterator._iterators = None
