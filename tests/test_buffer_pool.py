"""Buffers: whose memory is used again, and never while anybody can see it."""

import gc
import threading

import numpy as np
import tensorflow as tf

from streamkd.stream.cache.buffer_pool import BufferPool

KIND = (64, 33), np.float32


def address(array):
    return array.__array_interface__["data"][0]


def test_arrays_begin_where_tensorflow_takes_them_as_they_are():
    pool = BufferPool()
    for shape, dtype in (((3,), np.uint8), ((0, 4), np.float32), KIND, ((7, 5, 3), np.uint8)):
        array = pool.array(shape, dtype)
        assert array.shape == shape and array.dtype == dtype and array.flags.writeable
        assert address(array) % 64 == 0


def test_memory_comes_back_when_nothing_refers_to_it():
    pool = BufferPool()
    array = pool.array(*KIND)
    before = address(array)
    view = array[3:, 1:]
    del array
    other = pool.array(*KIND)
    assert address(other) != before
    del view
    assert address(pool.array(*KIND)) == before


def test_another_size_has_memory_of_its_own():
    pool = BufferPool()
    before = address(pool.array(*KIND))
    other = pool.array((64, 34), np.float32)
    assert address(other) != before
    assert address(pool.array((33, 64), np.float32)) == before


def test_no_more_is_kept_than_a_pipeline_has_under_way():
    pool = BufferPool()
    arrays = [pool.array(*KIND) for _ in range(40)]
    assert len({address(array) for array in arrays}) == 40
    arrays.clear()
    (free,) = pool._free.values()
    assert len(free) == 12


def numbers_of(pool, count):
    """Returns a dataset of `count` arrays from the pool, each full of its own number."""

    def call(number):
        array = pool.array(*KIND)
        array[:] = number
        return array

    def fetch(number):
        array = tf.numpy_function(call, [number], tf.float32)
        return tf.ensure_shape(array, KIND[0])

    return tf.data.Dataset.range(count).map(fetch, num_parallel_calls=2).prefetch(2)


def test_arrays_that_tensorflow_or_numpy_still_holds_do_not_change():
    pool = BufferPool()
    tensors = list(numbers_of(pool, 50))
    slices = [tensor[1:3] for tensor in tensors]
    arrays = [tensor.numpy() for tensor in tensors]
    del tensors
    for _ in numbers_of(pool, 100):
        pass
    for number, (array, part) in enumerate(zip(arrays, slices, strict=True)):
        assert (array == number).all() and (part.numpy() == number).all()


def test_a_pipeline_lives_on_few_buffers():
    pool, addresses = BufferPool(), set()
    real = pool.array

    def array(shape, dtype):
        made = real(shape, dtype)
        addresses.add(address(made))
        return made

    pool.array = array
    for number, tensor in enumerate(numbers_of(pool, 300)):
        assert int(tensor[5, 5]) == number
    assert len(addresses) < 40


def test_threads_never_get_the_same_memory():
    pool, wrong = BufferPool(), []

    def work(number):
        for _ in range(300):
            arrays = [pool.array(*KIND) for _ in range(3)]
            for array in arrays:
                array[:] = number
            wrong.extend(array for array in arrays if not (array == number).all())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_iterators_that_are_thrown_away_give_their_memory_back():
    pool = BufferPool()
    for _ in range(30):
        iterator = iter(numbers_of(pool, 10**6))
        next(iterator)
        del iterator
    gc.collect()
    for number, tensor in enumerate(numbers_of(pool, 20)):
        assert (tensor.numpy() == number).all()


def test_the_pool_may_go_before_its_arrays():
    pool = BufferPool()
    array = pool.array(*KIND)
    array[:] = 5
    del pool
    gc.collect()
    assert (array == 5).all()
    del array
