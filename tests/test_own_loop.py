"""Loops in Python over a stream have the elements of TensorFlow's, and begin at once."""

import gc
import threading
import weakref

import helpers
import numpy as np
import pytest
import tensorflow as tf
from replay_helpers import slow
from stream_helpers import arrays_of, assert_same, joined

from streamkd.errors import ChangedImageError
from streamkd.manifest.manifest import scan
from streamkd.stream import columns
from streamkd.stream.order.worker_slice import WorkerSlice
from streamkd.teachers.teach import teach
from streamkd.tf_support import own_loop, python_calls
from streamkd.tf_support.own_loop import ElementMaker, OwnLoop, Segment


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return helpers.draw_directory(tmp_path_factory.mktemp("own"), {"ant": 8, "bee": 7, "cow": 4})


@pytest.fixture(scope="module")
def images(directory):
    return scan(directory)


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "teacher.h5"
    return teach(images, helpers.EncodingTeacher(), path, image_size=(8, 8), progress=False)


OPTIONS = {
    "files": {},
    "cache": {"cache": "memory"},
    "large batches": {"cache": "memory", "batch_size": 16},
    "skip": {"on_bad": "skip", "shuffle": False},
    "skip from the cache": {"on_bad": "skip", "cache": "memory"},
}
SHARES = {"whole": WorkerSlice(), "second worker": WorkerSlice(worker=1, num_workers=2)}


next_in_a_graph = tf.function(lambda iterator: iterator.get_next(), autograph=False)


def by_tensorflow(dataset):
    """Returns the same elements by an iterator of tf.data."""
    return dataset.map(lambda *batch: batch)


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ("files", "whole"),
        ("cache", "second worker"),
        ("large batches", "whole"),
        slow("files", "second worker"),
        slow("skip", "second worker"),
        slow("skip from the cache", "whole"),
    ],
)
def test_a_loop_in_python_has_the_elements_of_tensorflow(images, store, options, share):
    stream = joined(images, store, **OPTIONS[options])
    if "cache" in OPTIONS[options]:
        arrays_of(stream.batches(0, stream.end_of_epoch(2)))
    for start, stop in ((0, 7), (9, 9)):
        dataset = stream.dataset(start, stop, SHARES[share])
        assert_same(arrays_of(dataset), arrays_of(by_tensorflow(dataset)))


def test_a_cache_that_fills_on_the_way_has_the_same_elements(images, store):
    plain = joined(images, store, cache="memory")
    expected = arrays_of(by_tensorflow(plain.dataset(2, 20)))
    assert_same(arrays_of(joined(images, store, cache="memory").dataset(2, 20)), expected)


def test_a_cache_of_another_process_is_taken(images, store, tmp_path):
    options = {"cache": "disk", "cache_directory": tmp_path}
    expected = arrays_of(joined(images, store, **options).batches(0, 12))
    again = joined(images, store, **options)
    assert again.cache.is_filled
    assert_same(arrays_of(again.batches(0, 12)), expected)


@pytest.mark.parametrize(("cache", "num_taken"), [(None, 0), ("memory", 5), slow(None, 5)])
def test_tensorflow_goes_on_where_a_loop_in_python_stopped(images, store, cache, num_taken):
    stream = joined(images, store, cache=cache)
    expected = arrays_of(stream.batches(1, 9))
    iterator = iter(stream.dataset(1, 9))
    for _ in range(num_taken):
        next(iterator)

    assert_same(arrays_of([next_in_a_graph(iterator)]), expected[num_taken : num_taken + 1])
    assert_same(arrays_of(iterator), expected[num_taken + 1 :])


def test_pieces_of_replicas_go_on_within_a_step(images, store):
    share = WorkerSlice(num_replicas=2)
    stream = joined(images, store)
    expected = arrays_of(stream.batches(0, 4, share))
    assert len(expected) == 8
    iterator = iter(stream.dataset(0, 4, share))
    for _ in range(3):
        next(iterator)
    optional = iterator.get_next_as_optional()
    assert_same(arrays_of([optional.get_value()]), expected[3:4])


def test_the_end_is_that_of_an_iterator(images, store):
    iterator = iter(joined(images, store).dataset(0, 1))
    iterator.get_next()
    with pytest.raises(tf.errors.OutOfRangeError):
        iterator.get_next()
    with pytest.raises(StopIteration):
        next(iterator)


def test_an_iterator_is_made_without_a_graph_and_without_reading(images, store, monkeypatch):
    stream = joined(images, store)
    arrays_of(stream.dataset(0, 1))
    monkeypatch.setattr(own_loop, "ElementMaker", None)
    monkeypatch.setattr(columns, "read_files", None)
    assert iter(stream.dataset(3, 5)).element_spec == stream.dataset().element_spec


@pytest.mark.parametrize("num_taken", [0, 3])
def test_batches_make_a_pipeline_of_tensorflow_only_where_it_takes_them_over(
    images, store, monkeypatch, num_taken
):
    stream = joined(images, store)
    expected = arrays_of(stream.batches(1, 9))
    with monkeypatch.context() as patch:
        patch.setattr(stream._datasets, "_kept_pipeline", None)
        iterator = stream.batches(1, 9)
        assert_same(arrays_of(next(iterator) for _ in range(num_taken)), expected[:num_taken])
    assert iterator.element_spec == stream.dataset().element_spec
    assert_same(arrays_of([next_in_a_graph(iterator)]), expected[num_taken : num_taken + 1])
    assert_same(arrays_of(iterator), expected[num_taken + 1 :])


def test_batches_are_those_of_the_dataset_within_a_graph(images, store):
    stream = joined(images, store)

    @tf.function(autograph=False)
    def first_of_a_graph():
        return next(stream.batches(2, 5))

    assert_same(arrays_of([first_of_a_graph()]), arrays_of(stream.batches(2, 3)))


def test_two_loops_at_once_are_independent(images, store):
    stream = joined(images, store, cache="memory")
    expected = arrays_of(stream.batches(0, 12))
    pairs = list(zip(stream.dataset(0, 12), stream.dataset(0, 12), strict=True))
    for which in (0, 1):
        assert_same(arrays_of([pair[which] for pair in pairs]), expected)


def test_threads_that_share_an_iterator_get_each_element_once(images, store):
    iterator = iter(joined(images, store, shuffle=False).dataset(0, 19))
    rows = []
    threads = [
        threading.Thread(target=lambda: rows.extend(t["rows"].numpy() for _, t, _ in iterator))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.bincount(np.concatenate(rows)).tolist() == [4] * 19


@pytest.mark.parametrize("cache", [None, "disk"])
def test_a_refusal_is_of_its_own_step_and_later_elements_follow(teach_once, tmp_path, cache):
    images = scan(helpers.draw_directory(tmp_path / "i", {"ant": 6, "bee": 5, "cow": 5}))
    asked = {"teacher": helpers.EncodingTeacher, "image_size": (8, 8)}
    store = teach_once(images, tmp_path / "s.h5", **asked)
    options = {"cache": cache, "shuffle": False, "batch_size": 2}
    options |= {"cache_directory": tmp_path / "c"} if cache else {}
    arrays_of(joined(images, store, **options).batches(0, 16))
    helpers.draw_image(images.path(9), 999)
    iterator = iter(joined(images, store, **options).dataset(0, 8))
    good = [next(iterator) for _ in range(4)]
    with pytest.raises(ChangedImageError) as refusal:
        next(iterator)
    assert refusal.value.key == images.keys[9]
    good += list(iterator)
    rows = np.concatenate([targets["rows"] for _, targets, _ in good])
    assert rows.tolist() == [*range(8), *range(10, 16)]


# A loop by itself.


def numbers_of(count, *, of_a_call=1, fails=(), single=None):
    """Returns a maker whose elements are their numbers; a call that has one of `fails` fails."""

    def fetch(first):
        def read(first):
            numbers = np.arange(first, first + of_a_call)
            if set(numbers.tolist()) & set(fails):
                raise ValueError("no")
            return {"numbers": numbers if of_a_call > 1 else numbers[0]}

        shape = (of_a_call,) if of_a_call > 1 else ()
        return python_calls.python_call(read, [first], {"numbers": tf.TensorSpec(shape, tf.int64)})

    return ElementMaker(fetch, lambda read: read["numbers"], None, of_a_call, single)


def drained(loop):
    """Returns the elements of a loop; None for each that fails."""
    elements = []
    while True:
        try:
            elements.append(int(loop.next()))
        except StopIteration:
            return elements
        except tf.errors.OpError:
            elements.append(None)


@pytest.mark.parametrize("of_a_call", [1, 2, 3, 7, 20])
def test_calls_are_cut_into_elements(of_a_call):
    first, then = numbers_of(5), numbers_of(5, of_a_call=of_a_call)
    loop = OwnLoop([Segment(first, 2, 5), Segment(then, 5, 16), Segment(first, 16, 16)])
    assert drained(loop) == list(range(2, 16))


@pytest.mark.parametrize("of_a_call", [1, 4])
def test_only_the_element_fails_that_cannot_be_made(of_a_call):
    single = numbers_of(5, fails=[6])
    maker = numbers_of(5, of_a_call=of_a_call, fails=[6], single=lambda: single)
    assert drained(OwnLoop([Segment(maker, 3, 10)])) == [3, 4, 5, None, 7, 8, 9]


def test_a_loop_that_is_dropped_takes_its_waiting_calls_along():
    gate, began = threading.Event(), threading.Event()

    def fetch(number):
        def read(number):
            began.set()
            gate.wait(60)
            return {"number": number}

        return python_calls.python_call(read, [number], {"number": tf.TensorSpec((), tf.int64)})

    loop = OwnLoop([Segment(ElementMaker(fetch, lambda read: read["number"]), 0, 10**12)])
    loop._begin_calls()
    waiting = [call.result for call in loop._waiting]
    assert began.wait(60)
    gone = weakref.ref(loop)
    threading.Timer(0.1, gate.set).start()
    del loop
    gc.collect()
    assert gone() is None
    cancelled = [result.cancelled() for result in waiting]
    assert cancelled[-2:] == [True, True]
    assert not all(cancelled), "the call under way ends by itself"
