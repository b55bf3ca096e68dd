"""Iterators are deleted while their Python calls are running, on any thread."""

import gc
import threading

import pytest
import tensorflow as tf
from process_helpers import finished
from timeouts import TIMEOUT_SECS

from streamkd.tf_support.iterators import CollectableDataset

# The collector runs in a call of an iterator that is garbage by then. Without `CollectableDataset`
# the process never ends, and so it is a child.
_COLLECTED_IN_ITS_OWN_CALL = """
import gc, sys, threading, time
import tensorflow as tf
from streamkd.tf_support.iterators import CollectableDataset

is_garbage, collected = threading.Event(), threading.Event()

def call(number):
    if is_garbage.is_set() and not collected.is_set():
        gc.collect()
        collected.set()
    time.sleep(0.02)
    return number

numbers = tf.data.Dataset.range(10**9)
numbers = numbers.map(lambda n: tf.numpy_function(call, [n], tf.int64), num_parallel_calls=2)
numbers = CollectableDataset(numbers.prefetch(2))
gc.disable()
iterator = iter(numbers)
next(iterator)
cycle = [iterator]
cycle.append(cycle)
next(iterator)
del cycle, iterator
is_garbage.set()
print(collected.wait(300), [int(n) for n in numbers.take(3)])
"""


# Python ends while calls are running. Without `CollectableDataset` two runs in five never end.
_OUTLIVES_PYTHON = """
import numpy as np
import tensorflow as tf
from streamkd.tf_support.iterators import CollectableDataset

zeros = tf.data.Dataset.range(10**9)
call = lambda number: np.zeros((64, 64), np.float32)
zeros = zeros.map(lambda n: tf.numpy_function(call, [n], tf.float32), num_parallel_calls=2)
zeros = CollectableDataset(zeros.prefetch(100000))

def started():
    iterator = iter(zeros)
    take = tf.function(lambda iterator: next(iterator))
    return lambda: take(iterator)

take = started()
take()
print("end")
"""


# Ends all iterators of its process, with calls of them running.
_ENDS_ALL_ITERATORS = """
import threading
import tensorflow as tf
from streamkd.tf_support.iterators import CollectableDataset, end_all_iterators

calls = []

def call(number):
    calls.append(int(number))
    return number

numbers = tf.data.Dataset.range(10**6)
numbers = numbers.map(lambda n: tf.numpy_function(call, [n], tf.int64), num_parallel_calls=2)
numbers = CollectableDataset(numbers.prefetch(10**6))
iterators = [iter(numbers) for _ in range(2)]
for iterator in iterators:
    next(iterator)
end_all_iterators()
num_calls = len(calls)
threading.Event().wait(0.2)
print(num_calls > 0, len(calls) - num_calls)
"""


def counting(calls=None):
    """Returns a dataset of numbers that Python returns; `calls` collects them."""

    def call(number):
        if calls is not None:
            calls.append(int(number))
        return number

    numbers = tf.data.Dataset.range(10**6)
    numbers = numbers.map(lambda n: tf.numpy_function(call, [n], tf.int64), num_parallel_calls=2)
    return CollectableDataset(numbers.prefetch(2))


@pytest.fixture(scope="module")
def lines():
    """The output of both programs, run one after the other in a process of their own."""
    return finished("-c", _COLLECTED_IN_ITS_OWN_CALL + _ENDS_ALL_ITERATORS)[0].splitlines()


def test_an_iterator_that_is_collected_in_its_own_call_does_not_wait_for_it(lines):
    assert lines[0] == "True [0, 1, 2]"


def test_the_resources_of_an_iterator_are_released_on_a_thread_of_their_own():
    iterator = iter(counting())
    next(iterator)
    kept = [iterator]
    del iterator
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join(TIMEOUT_SECS)
    assert not thread.is_alive()
    for other in threading.enumerate():
        if other.daemon and "_release" in other.name:
            other.join(TIMEOUT_SECS)
            assert not other.is_alive()


def test_reading_ahead_ends_with_the_iterator():
    calls = []
    iterator = iter(counting(calls))
    next(iterator)
    del iterator
    gc.collect()
    number = len(calls)
    assert number < 20
    list(counting().take(20))
    assert len(calls) == number


def test_it_is_a_dataset_like_any_other():
    numbers = counting()
    assert isinstance(numbers, tf.data.Dataset)
    assert numbers.element_spec == tf.TensorSpec(None, tf.int64)
    assert [int(n) for n in numbers.skip(2).take(2)] == [2, 3]

    @tf.function
    def added(iterator):
        return next(iterator) + next(iterator)

    iterator = iter(numbers)
    assert int(added(iterator)) == 1 and int(added(iterator)) == 5


@pytest.mark.slow
def test_iterators_thrown_away_in_cycles_while_others_run():
    threshold = gc.get_threshold()
    gc.set_threshold(5, 2, 2)  # the collector runs in every other call
    try:
        for _ in range(100):
            iterator = iter(counting())
            next(iterator)
            cycle = [iterator]
            cycle.append(cycle)
    finally:
        gc.set_threshold(*threshold)


def test_when_python_ends_no_iterator_is_left(lines):
    assert lines[1:] == ["True 0"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_a_script_that_keeps_an_iterator_comes_to_its_end(number):
    assert finished("-c", _OUTLIVES_PYTHON)[0] == "end\n"
