"""Datasets whose iterators can be thrown away in any thread.

    dataset = CollectableDataset(dataset)
    iterator = make_collectable(iter(strategy.distribute_datasets_from_function(…)))

An iterator over a dataset that calls Python waits, when it goes, for its calls that are under way.
Python's garbage collector runs in any thread, and so in such a call as well. If it then finds an
old iterator, say in the frames of an error, it waits there for the call that it is in itself, for
ever. TensorFlow has as many threads as the machine has cores, and the rest of the process soon
waits as well.

Nor may an iterator outlive Python: a call that is under way when the interpreter ends never comes
back, and the process waits for it. A script that keeps an iterator in a variable would hang at its
end, one time in three.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from typing import Any

import tensorflow as tf

# Iterators that somebody refers to, and TensorFlow's half of each.
_ALIVE: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
# What could not be let go of, since Python was ending.
_KEPT: list[list[Any]] = []
# How long a collection may take; then somebody else has the iterator, and will let go of it.
_MAX_WAIT_SECS = 60


class CollectableDataset(tf.data.Dataset):
    """The same elements; only the main thread ever waits for the end of an iterator's calls."""

    def __init__(self, dataset: tf.data.Dataset) -> None:
        self._dataset = dataset
        super().__init__(dataset._variant_tensor)

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._dataset]

    @property
    def element_spec(self) -> Any:
        return self._dataset.element_spec

    def __iter__(self) -> Any:
        iterator = super().__iter__()
        return make_collectable(iterator) if tf.executing_eagerly() else iterator


def make_collectable(iterator: Any) -> Any:
    """Returns an iterator, such as a strategy makes of several datasets, that may be thrown away
    in any thread as well."""
    if iterator not in _ALIVE:
        # TensorFlow's half of the iterator lives as long as this list.
        resource = tf.nest.flatten(iterator, expand_composites=True)
        weakref.finalize(iterator, _release, resource).atexit = False
        _ALIVE[iterator] = resource
    return iterator


def _release(resource: list[Any]) -> None:
    """Lets go of an iterator: here in the main thread, which is in no call; else in a new one."""
    if threading.current_thread() is threading.main_thread():
        return
    try:
        threading.Thread(target=_release_when_unused, args=(resource,), daemon=True).start()
    except RuntimeError:
        _KEPT.append(resource)


def _release_when_unused(resource: list[Any]) -> None:
    """Waits until nothing else refers to the iterator: the collector tells us before it clears."""
    for _ in range(_MAX_WAIT_SECS * 100):
        if sys.getrefcount(resource[0]) <= 2:  # the list, and the argument
            break
        time.sleep(0.01)
    resource.clear()


@atexit.register
def _end_all() -> None:
    """Ends all iterators while their calls can still come to an end."""
    for iterator, resource in list(_ALIVE.items()):
        resource.clear()
        # The one place where the iterator itself has it; a strategy's has one for each device.
        iterator._iterator_resource = iterator._iterators = None
