"""Slices of a stream: put together they are its batches, to the bit, and no file is read twice."""

import re

import numpy as np
import pytest
import tensorflow as tf
from helpers import break_image
from replay_helpers import ASKED, CROPS, EVERYTHING, FADE, slow
from stream_helpers import arrays_of, assert_same

from streamkd.errors import BadImageError, ChangedImageError, OptionError
from streamkd.manifest.manifest import Manifest
from streamkd.pixels import file_batch
from streamkd.stream.join import join
from streamkd.stream.order.worker_slice import WorkerSlice
from streamkd.views.views import Views

# Workers and replicas of each, of batches of 12 rows.
CREWS = {"two workers": (2, 1), "two replicas": (1, 2), "three workers of two": (3, 2)}


def slices_of(crew):
    num_workers, num_replicas = crew
    return [
        WorkerSlice(worker=worker, num_workers=num_workers, num_replicas=num_replicas)
        for worker in range(num_workers)
    ]


def put_together(streams, crew, start, stop):
    """Returns the batches whose pieces some workers have, each from its own stream."""
    num_workers, num_replicas = crew
    pieces = [
        arrays_of(stream.batches(start, stop, worker_slice))
        for stream, worker_slice in zip(streams, slices_of(crew), strict=True)
    ]
    assert {len(mine) for mine in pieces} == {(stop - start) * num_replicas}
    return [
        {
            name: np.concatenate(
                [
                    pieces[worker][step * num_replicas + replica][name]
                    for worker in range(num_workers)
                    for replica in range(num_replicas)
                ]
            )
            for name in pieces[0][0]
        }
        for step in range(stop - start)
    ]


def assert_cut(make, crews, start=0, stop=8):
    """Asserts that the pieces of every crew are the batches of the whole stream."""
    whole = arrays_of(make().batches(start, stop))
    for crew in crews:
        streams = [make() for _ in range(crew[0])]
        assert_same(put_together(streams, crew, start, stop), whole)
    return whole


@pytest.mark.parametrize(
    ("shuffle", "start", "crews"),
    [(True, 5, [(2, 1), (1, 3)]), (False, 0, [(3, 2)]), slow(True, 5, [(4, 3)])],
    ids=["shuffled", "in order", "many"],
)
def test_pieces_are_the_batch_for_any_number_of_workers_and_replicas(
    images, store, shuffle, start, crews
):
    options = {"batch_size": 12, "seed": 3, "shuffle": shuffle, "progress": False}
    assert_cut(lambda: join(images, store, **options), crews, start, start + 7)


@pytest.mark.parametrize(
    ("views", "more"),
    [
        (EVERYTHING, {"operation": FADE}),
        slow(Views(2, mixup=0.8), {}),
        slow(CROPS, {"balance": True}),
        (CROPS, {"views_per_decode": 2}),
    ],
    ids=["everything", "pairs", "balance", "views per decode"],
)
def test_pieces_of_views_and_other_orders_are_the_batch(teach_once, tmp_path, noisy, views, more):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=views)
    assert_cut(lambda: join(noisy, store, batch_size=12, seed=7, **more), [(3, 2)])


def test_balanced_classes_take_turns_across_pieces(images, store):
    options = {"batch_size": 12, "balance": True, "progress": False}
    assert_cut(lambda: join(images, store, **options), [(3, 2)])


def test_pieces_of_weighed_images_and_labels_alone_are_the_batch(images):
    weights = np.linspace(0, 2, len(images)).astype(np.float32)
    weighed = Manifest(images.root, images.keys, images.labels, images.class_names, weights)
    options = {"image_size": (8, 8), "batch_size": 12, "seed": 2}
    whole = assert_cut(lambda: join(weighed, None, **options), [(2, 1), (1, 2)])
    assert len(np.unique(whole[0]["weights"])) == 12


def test_pieces_of_independent_views_are_the_batch(images, store):
    options = {"augment": "independent", "views": Views(1, crop=(0.5, 1.0)), "progress": False}

    def make():
        with pytest.warns(UserWarning, match="views that the teacher has not answered"):
            return join(images, store, batch_size=12, seed=5, **options)

    assert_cut(make, [(2, 2)])


@pytest.mark.parametrize("views", [Views(0), slow(Views(2, mixup=1.0))], ids=["alone", "mixed"])
def test_pieces_with_skipped_files_are_the_batch(teach_once, tmp_path, noisy, views):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=views)
    break_image(noisy.path(3))

    def make():
        return join(noisy, store, batch_size=12, seed=7, on_bad="skip")

    whole = assert_cut(make, [(3, 2)])
    assert min(batch["weights"].min() for batch in whole) == 0


# Files.


@pytest.mark.parametrize("crew", CREWS.values(), ids=CREWS)
def test_every_file_is_read_once_and_by_the_worker_whose_piece_it_is_in(
    images, store, opened, crew
):
    stream = join(images, store, batch_size=6, seed=4, progress=False)
    assert stream.end_of_epoch(1) == 5
    read_by = []
    for worker_slice in slices_of(crew):
        opened.clear()
        list(stream.batches(0, 5, worker_slice))
        mine = np.concatenate([stream.indices(step, worker_slice) for step in range(5)])
        assert sorted(opened) == sorted(images.paths(mine))
        read_by += opened
    assert sorted(read_by) == sorted(images.paths(np.arange(30)))


def test_the_indices_of_all_slices_are_those_of_the_step(images, store):
    stream = join(images, store, batch_size=12, seed=4, progress=False)
    for step in (0, 7):
        pieces = [stream.indices(step, worker_slice) for worker_slice in slices_of((3, 2))]
        assert np.concatenate(pieces).tolist() == stream.indices(step).tolist()


@pytest.mark.parametrize("cache", [None, "memory"])
def test_the_file_that_fails_is_named_by_its_own_worker_and_no_other(
    teach_once, tmp_path, noisy, cache
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(0))
    stream = join(noisy, store, batch_size=12, seed=4, cache=cache)
    slices = slices_of((2, 2))
    bad = int(stream.indices(3, slices[1])[-1])
    break_image(noisy.path(bad))
    steps = range(6)
    has_it = [
        [bad in stream.indices(step, worker_slice) for step in steps] for worker_slice in slices
    ]
    for worker_slice, mine in zip(slices, has_it, strict=True):
        first = mine.index(True)
        pieces = stream.batches(0, 6, worker_slice)
        for _ in range(2 * first):
            next(pieces)
        with pytest.raises((BadImageError, ChangedImageError)) as refusal:
            list(pieces)
        assert refusal.value.key == noisy.keys[bad]


def test_an_error_is_looked_for_in_the_workers_own_piece(images, store):
    # Both files are bad by now; the worker has read one of them.
    stream = join(images, store, batch_size=30, shuffle=False, progress=False)
    for index in (2, 20):
        break_image(images.path(index))
    error = tf.errors.InvalidArgumentError(None, None, "it went wrong")
    for worker_slice, key in zip(slices_of((2, 1)), (images.keys[2], images.keys[20]), strict=True):
        with pytest.raises(BadImageError) as refusal:
            stream.refuse(error, range(1), worker_slice)
        assert refusal.value.key == key


# The pixel cache.


@pytest.mark.parametrize(
    ("crew", "last"), [((2, 1), 30), slow((1, 2), 30), slow((3, 2), 70)], ids=str
)
def test_pieces_through_the_cache_are_the_same(
    teach_once, tmp_path, noisy, crew, last, monkeypatch
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    whole = arrays_of(join(noisy, store, batch_size=6, seed=7).batches(0, last))
    streams = [join(noisy, store, batch_size=6, seed=7, cache="memory") for _ in range(crew[0])]
    assert_same(put_together(streams, crew, 0, last), whole)
    assert all(stream.cache.is_filled for stream in streams)  # a part more in every epoch
    # Now several pieces are looked up at once, and none is read.
    calls = []
    real = type(streams[0]._fetcher)._gather
    monkeypatch.setattr(
        type(streams[0]._fetcher), "_gather", lambda *given: calls.append(given) or real(*given)
    )
    monkeypatch.setattr(file_batch, "read_file", None)
    for start, stop in ((0, last), (7, 18), (29, 30)):
        calls.clear()
        assert_same(put_together(streams, crew, start, stop), whole[start:stop])
        assert len(calls) < (stop - start) * crew[0] * crew[1] or stop - start == 1


# What does not fit.


@pytest.mark.parametrize(
    ("views", "batch_size", "more", "message"),
    [
        (
            Views(0),
            10,
            {},
            "batch_size is 10, and the batch is shared by 4 replicas (workers: 2, replicas of "
            "each: 2).\nGive a multiple of 4: `--batch-size 12`.",
        ),
        (
            Views(1, mixup=1.0),
            12,
            {},
            "batch_size is 12, and the batch is shared by 4 replicas (workers: 2, replicas of "
            "each: 2), 2 neighbouring rows of which belong together.\n"
            "Give a multiple of 8: `--batch-size 16`.",
        ),
        (
            Views(3, flip=True),
            15,
            {"views_per_decode": 3},
            "batch_size is 15, and the batch is shared by 4 replicas (workers: 2, replicas of "
            "each: 2), 3 neighbouring rows of which belong together.\n"
            "Give a multiple of 12: `--batch-size 24`.",
        ),
    ],
    ids=["rows", "pairs", "views per decode"],
)
def test_a_batch_that_cannot_be_cut_is_refused(
    teach_once, tmp_path, noisy, views, batch_size, more, message
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=views)
    stream = join(noisy, store, batch_size=batch_size, **more)
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        stream.dataset(0, 1, WorkerSlice(num_workers=2, num_replicas=2))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_workers": 0}, "num_workers is 0; it must be a positive whole number."),
        ({"num_replicas": 0.5}, "num_replicas is 0.5; it must be a positive whole number."),
        (
            {"worker": 2, "num_workers": 2},
            "worker is 2, and there are 2 workers.\nGive a number from 0 to 1.",
        ),
        (
            {"worker": -1},
            "worker is -1, and there are 1 workers.\nGive a number from 0 to 0.",
        ),
    ],
)
def test_a_slice_that_cannot_be_is_refused(numbers, message):
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        WorkerSlice(**numbers)


# What TensorFlow's strategies ask for.


def test_a_slice_is_that_of_the_context_that_a_strategy_gives():
    context = tf.distribute.InputContext(3, 2, 12)
    assert WorkerSlice.of(context) == WorkerSlice(worker=2, num_workers=3, num_replicas=4)
    assert WorkerSlice.of(tf.distribute.InputContext()) == WorkerSlice()


def test_a_stream_without_end_says_so(images, store):
    stream = join(images, store, batch_size=6, progress=False)
    for worker_slice in slices_of((2, 1)):
        dataset = stream.dataset(4, share=worker_slice)
        assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        first = next(iter(dataset))[1]["rows"].numpy().tolist()
        assert first == stream.rows[stream.indices(4, worker_slice)].tolist()
        assert stream.dataset(4, 9, worker_slice).cardinality() == 5
