"""The stream through the pixel cache: the same batches, from files, from the cache, from both."""

import dataclasses
import gc
import os
from pathlib import Path
from unittest import mock

import helpers
import numpy as np
import pytest
from replay_helpers import (
    ASKED,
    CROPS,
    EVERYTHING,
    FADE,
    SIZE,
    assert_replayed,
    draw_noisy,
    quick_and_slow,
    slow,
)
from stream_helpers import arrays_of, assert_rounded, assert_same, batches_of

from streamkd.errors import OptionError
from streamkd.manifest.manifest import scan
from streamkd.pixels import crop
from streamkd.stream import dataset as dataset_module
from streamkd.stream.cache.cached_images import CachedImages
from streamkd.stream.join import join
from streamkd.stream.order.worker_slice import WHOLE
from streamkd.views import render
from streamkd.views.views import Views

CANONICAL = {
    "repeated": Views(2, canonical_size=(14, 12)),
    "crop": CROPS,
    "crop at the student's size": Views(2, crop=(0.35, 1.0), canonical_size=SIZE),
    "flip at the student's size": Views(2, flip=True, canonical_size=SIZE),
    "colour and erase": Views(3, color=0.5, erase=0.7, canonical_size=(11, 13)),
    "mixup": Views(2, mixup=0.8, canonical_size=(14, 12)),
    "cutmix": Views(2, crop=(0.4, 1.0), cutmix=1.0, canonical_size=(14, 12)),
    "operation": Views(2, flip=True, canonical_size=(9, 10), operation=FADE),
    "everything": dataclasses.replace(EVERYTHING, canonical_size=(14, 12)),
}
OPERATIONS = {"operation": FADE, "everything": FADE}


def assert_the_same_through_caches(tmp_path, make):
    """Asserts that streams have the same batches without a cache, while it is filled, and after.

    Args:
      tmp_path: for the cache on the disk.
      make: returns a stream, given the arguments of `join` that are about the cache.

    Returns:
      The batches, and the stream whose cache is in memory.
    """
    plain = batches_of(make())
    memory = make(cache="memory")
    assert_same(batches_of(memory), plain)
    assert memory.cache.is_filled or memory.skipped
    # Now no image is decoded, not for the sake of a skipped one in its batch either.
    with mock.patch.object(CachedImages, "_keep", autospec=True) as keep:
        assert_same(batches_of(memory), plain)
    assert not keep.called
    on_disk = {"cache": "disk", "cache_directory": tmp_path / "pixels"}
    # Here TensorFlow runs the loop, as in training; it first fills the cache, then reads it alone.
    dataset = make(**on_disk).dataset(0, len(plain)).map(lambda *batch: batch)
    assert_same(arrays_of(dataset), plain)
    again = make(**on_disk)
    was_filled = again.cache.is_filled
    assert_same(batches_of(again), plain)
    assert was_filled or again.skipped
    return plain, memory


# Crops alone come again below, with several views of a decode and with skipped files.
@pytest.mark.parametrize("kind", quick_and_slow(CANONICAL, ("everything",)))
def test_views_come_the_same_through_the_cache(teach_once, tmp_path, noisy, kind):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CANONICAL[kind])
    options = {"batch_size": 4, "seed": 7, "operation": OPERATIONS.get(kind)}
    assert_the_same_through_caches(tmp_path, lambda **cache: join(noisy, store, **options, **cache))


@pytest.mark.parametrize(
    "more", [{"views_per_decode": 2}, slow({"balance": True}), slow({"shuffle": False})], ids=str
)
def test_several_views_of_a_decode_and_other_orders_come_the_same(
    teach_once, tmp_path, noisy, more
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    options = {"batch_size": 6, "seed": 7, **more}
    assert_the_same_through_caches(tmp_path, lambda **cache: join(noisy, store, **options, **cache))


@pytest.mark.slow
def test_images_of_one_size_come_the_same(teach_once, tmp_path):
    images = draw_noisy(tmp_path / "noisy", one_size=True)
    store = teach_once(images, tmp_path / "s.h5", **ASKED, views=CROPS)
    assert_the_same_through_caches(
        tmp_path, lambda **cache: join(images, store, batch_size=4, **cache)
    )


@pytest.mark.parametrize("views", [Views(0), slow(CROPS)], ids=["plain", "crop"])
def test_images_without_logits_come_the_same(teach_once, tmp_path, noisy, views):
    taught = noisy.select(np.arange(0, 21, 2))
    store = teach_once(taught, tmp_path / "s.h5", **ASKED, views=views)

    def make(**cache):
        with pytest.warns(UserWarning, match="10 of 21 images have no logits"):
            return join(
                noisy, store, batch_size=4, seed=3, missing="label", progress=False, **cache
            )

    if views.canonical_size is not None:
        assert_the_same_through_caches(tmp_path, make)
        return
    assert_rounded(batches_of(make(cache="memory")), batches_of(make()))


@pytest.mark.parametrize("views", [CROPS, slow(CANONICAL["mixup"])], ids=["alone", "mixed"])
def test_batches_with_skipped_files_come_the_same(teach_once, tmp_path, noisy, views):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=views)
    helpers.break_image(noisy.path(3))
    Path(os.fsdecode(noisy.path(8))).write_bytes(b"")

    def make(**cache):
        return join(noisy, store, batch_size=4, seed=7, on_bad="skip", **cache)

    plain, stream = assert_the_same_through_caches(tmp_path, make)
    assert min(batch["weights"].min() for batch in plain) == 0
    assert sorted(stream.skipped) == [3, 8]
    assert not stream.cache.has(np.array([3, 8])).any()


@pytest.mark.parametrize("cache", ["disk", slow("memory")])
def test_plain_images_are_rounded_to_whole_numbers_and_nothing_else(
    teach_once, tmp_path, noisy, cache, on_disk
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(0))
    more = {"cache": "memory"} if cache == "memory" else on_disk
    stream = join(noisy, store, batch_size=5, seed=2, **more)
    assert stream.rounds_pixels
    expected = batches_of(join(noisy, store, batch_size=5, seed=2))
    assert any((batch["pixels"] % 1).any() for batch in expected)
    filling = batches_of(stream)
    assert_same(filling, batches_of(stream))
    assert_same(filling, batches_of(join(noisy, store, batch_size=5, seed=2, **more)))
    assert_rounded(filling, expected)


def test_labels_alone_go_through_it_as_well(tmp_path, noisy, on_disk):
    options = {"image_size": SIZE, "batch_size": 4, "seed": 5}
    expected = batches_of(join(noisy, None, **options))
    first = batches_of(join(noisy, None, **options, **on_disk))
    assert_same(first, batches_of(join(noisy, None, **options, **on_disk)))
    assert_rounded(first, expected)


@pytest.mark.slow
def test_independent_views_are_cut_from_it(teach_once, tmp_path, noisy, on_disk):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(0))

    def make(**cache):
        with pytest.warns(UserWarning, match="views that the teacher has not answered"):
            return join(
                noisy,
                store,
                batch_size=4,
                seed=9,
                augment="independent",
                views=Views(1, crop=(0.3, 0.8), flip=True, canonical_size=(14, 12)),
                **cache,
            )

    assert_the_same_through_caches(tmp_path, make)


def test_views_without_one_size_are_refused(teach_once, tmp_path, noisy):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(2, crop=(0.4, 1.0)))
    with pytest.raises(OptionError, match=r"keeps images of one size(?s:.*)--canonical-size 256"):
        join(noisy, store, batch_size=4, cache="memory")


# Any step, any batch size, several batches a call.


@pytest.mark.parametrize(
    ("cache", "batch_size"),
    [
        ("disk", 4),  # of which most is compiled already
        *(slow(cache, batch_size) for cache in ("memory", "disk") for batch_size in (2, 6, 10, 20)),
    ],
)
def test_the_teacher_says_the_same_through_it(
    teach_once, tmp_path, noisy, on_disk, cache, batch_size
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CANONICAL["everything"])
    more = {"cache": "memory"} if cache == "memory" else on_disk
    stream = join(noisy, store, batch_size=batch_size, seed=7, operation=FADE, **more)
    last = stream.end_of_epoch(4)
    assert_replayed(stream, 2, last)  # entered in the middle of the epoch that fills it
    assert_replayed(stream, 0, last)
    other = 2 if batch_size == 6 else 4
    assert_replayed(join(noisy, store, batch_size=other, operation=FADE, **more), 3, 30)


@pytest.mark.parametrize("num_batches", [3, slow(1), slow(2), slow(5)])
def test_calls_of_several_batches_begin_and_end_anywhere(
    teach_once, tmp_path, noisy, monkeypatch, num_batches
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    monkeypatch.setattr(dataset_module, "ROWS_PER_CALL", 4 * num_batches)
    expected = batches_of(join(noisy, store, batch_size=4, seed=7), 0, 20)
    stream = join(noisy, store, batch_size=4, seed=7, cache="memory")
    assert stream._datasets.steps_per_call(WHOLE) == num_batches
    assert_same(batches_of(stream, 0, 20), expected)  # from files first
    for start, stop in ((0, 20), (3, 4), (1, 19), (7, 7)):
        assert_same(batches_of(stream, start, stop), expected[start:stop])
    other = join(noisy, store, batch_size=4, seed=7, cache="memory")
    assert_same(batches_of(other, 4, 15), expected[4:15])  # filled within the second epoch


# Memory.


@pytest.mark.parametrize("views", [Views(0), slow(CROPS)], ids=["plain", "crop"])
def test_batches_that_are_held_do_not_change(teach_once, tmp_path, noisy, views):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=views)
    stream = join(noisy, store, batch_size=4, cache="memory")
    batches_of(stream, 0, 12)
    held = [batch for batch, _, _ in stream.batches(0, 60)]
    copies = [batch.numpy().copy() for batch in held]
    arrays = [batch.numpy() for batch in held]
    del held
    again = batches_of(stream, 0, 60)
    for array, copy, batch in zip(arrays, copies, again, strict=True):
        np.testing.assert_array_equal(array, copy)
        np.testing.assert_array_equal(copy, batch["pixels"])


def test_streams_of_one_shape_share_what_was_traced_and_compiled(teach_once, noisy, tmp_path):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CANONICAL["everything"])
    functions = (crop._cut_compiled, render._mirror_and_color, render.mix, render._erase_boxes)

    def num_traces():
        return [function.experimental_get_tracing_count() for function in functions]

    def show(seed, **cache):
        batches_of(join(noisy, store, batch_size=4, seed=seed, operation=FADE, **cache), 0, 12)

    show(1)
    show(1, cache="memory")
    before = num_traces()
    assert all(before)
    show(2)
    show(2, cache="memory")
    assert num_traces() == before


@pytest.mark.slow
def test_memory_does_not_grow_over_epochs(tmp_path):
    images = scan(helpers.draw_directory(tmp_path / "images", {"ant": 120, "bee": 80}))
    stream = join(images, None, image_size=(96, 96), batch_size=20, cache="memory")
    for _ in stream.dataset(0, 60):
        pass
    sizes = []
    for _ in range(4):
        for _ in stream.dataset(0, 300):
            pass
        gc.collect()
        with open("/proc/self/statm") as statm:
            sizes.append(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert sizes[-1] - sizes[0] < 40e6, sizes  # a batch is 2.2 MB, and 1,200 were made
