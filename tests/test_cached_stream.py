"""The stream through the pixel cache: the same batches, from files, from the cache, from both."""

import dataclasses
import errno
import gc
import hashlib
import os
import shutil
import subprocess

import helpers
import numpy as np
import pytest
from process_helpers import process
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
from run_helpers import KilledError, dense_student, same_weights
from stream_helpers import assert_rounded, assert_same, batches_of
from timeouts import TIMEOUT_SECS

from streamkd import disk
from streamkd.errors import BadImageError, ChangedImageError, OptionError
from streamkd.manifest.manifest import scan
from streamkd.pixels import crop
from streamkd.runs.checkpoint import Checkpoints
from streamkd.stream import dataset as dataset_module
from streamkd.stream.cache.cached_images import CachedImages
from streamkd.stream.cache.pixel_cache import PixelCache
from streamkd.stream.join import join
from streamkd.stream.order.worker_slice import WHOLE
from streamkd.training.distiller import Distiller
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


@pytest.fixture
def on_disk(tmp_path):
    return {"cache": "disk", "cache_directory": tmp_path / "pixels"}


def assert_the_same_through_caches(tmp_path, make):
    """Asserts that streams have the same batches without a cache, while it is filled, and after.

    Args:
      make: returns a stream, given the arguments of `join` that are about the cache.
    """
    plain = batches_of(make())
    memory = make(cache="memory")
    assert_same(batches_of(memory), plain)
    assert memory.cache.is_filled or memory.skipped
    assert_same(batches_of(memory), plain)
    on_disk = {"cache": "disk", "cache_directory": tmp_path / "pixels"}
    assert_same(batches_of(make(**on_disk)), plain)
    again = make(**on_disk)
    was_filled = again.cache.is_filled
    assert_same(batches_of(again), plain)
    assert was_filled or again.skipped
    return plain


@pytest.mark.parametrize("kind", quick_and_slow(CANONICAL, ("crop", "everything")))
def test_views_are_the_same_to_the_bit(teach_once, tmp_path, noisy, kind):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CANONICAL[kind])
    options = {"batch_size": 4, "seed": 7, "operation": OPERATIONS.get(kind)}
    assert_the_same_through_caches(tmp_path, lambda **cache: join(noisy, store, **options, **cache))


@pytest.mark.parametrize(
    "more", [{"views_per_decode": 2}, slow({"balance": True}), slow({"shuffle": False})], ids=str
)
def test_so_are_several_views_of_a_decode_and_other_orders(teach_once, tmp_path, noisy, more):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    options = {"batch_size": 6, "seed": 7, **more}
    assert_the_same_through_caches(tmp_path, lambda **cache: join(noisy, store, **options, **cache))


@pytest.mark.slow
def test_so_are_images_of_one_size(teach_once, tmp_path):
    images = draw_noisy(tmp_path / "noisy", one_size=True)
    store = teach_once(images, tmp_path / "s.h5", **ASKED, views=CROPS)
    assert_the_same_through_caches(
        tmp_path, lambda **cache: join(images, store, batch_size=4, **cache)
    )


@pytest.mark.parametrize("views", [Views(0), slow(CROPS)], ids=["plain", "crop"])
def test_so_are_images_without_logits(teach_once, tmp_path, noisy, views):
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
def test_so_are_batches_with_files_that_are_skipped(
    teach_once, tmp_path, noisy, views, monkeypatch
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=views)
    helpers.break_image(noisy.path(3))
    os.unlink(noisy.path(8))

    def make(**cache):
        return join(noisy, store, batch_size=4, seed=7, on_bad="skip", **cache)

    plain = assert_the_same_through_caches(tmp_path, make)
    assert min(batch["weights"].min() for batch in plain) == 0
    stream = make(cache="memory")
    batches_of(stream)
    assert sorted(stream.skipped) == [3, 8]
    assert not stream.cache.has(np.array([3, 8])).any()
    # A batch that has one of them is not decoded again for its sake.
    decoded = []
    monkeypatch.setattr(CachedImages, "_keep", lambda *values: decoded.append(values))
    batches_of(stream)
    assert not decoded


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
        with pytest.warns(UserWarning, match="not the views that the teacher answered"):
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


# Files.


@pytest.mark.parametrize("on_bad", ["raise", slow("skip")])
def test_files_are_opened_once_and_by_the_next_process_not_at_all(
    teach_once, tmp_path, noisy, on_disk, opened, on_bad
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    stream = join(noisy, store, batch_size=7, on_bad=on_bad, **on_disk)
    opened.clear()
    batches_of(stream, 0, 3)
    assert len(opened) == len(set(opened)) == 21
    batches_of(stream, 0, 9)
    batches_of(join(noisy, store, batch_size=4, seed=5, on_bad=on_bad, **on_disk))
    assert len(opened) == 21


def test_a_student_of_another_size_uses_the_same_pixels(
    teach_once, tmp_path, noisy, on_disk, opened
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    batches_of(join(noisy, store, batch_size=7, **on_disk))
    opened.clear()
    other = {"image_size": (6, 5), "batch_size": 7}
    small = batches_of(join(noisy, store, **other, **on_disk))
    assert not opened
    assert_same(small, batches_of(join(noisy, store, **other)))


def test_a_file_that_changed_between_two_processes_is_read_again_and_refused(
    teach_once, tmp_path, noisy, on_disk, opened
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    batches_of(join(noisy, store, batch_size=4, **on_disk))
    helpers.wait_for_new_ctime(tmp_path)
    with open(noisy.path(5), "ab") as file:
        file.write(b"\0")
    opened.clear()
    stream = join(noisy, store, batch_size=4, **on_disk)
    with pytest.raises(ChangedImageError, match="is not the file") as refusal:
        batches_of(stream)
    assert refusal.value.key == noisy.keys[5]
    assert set(opened) == {noisy.path(5)}
    skipping = join(noisy, store, batch_size=4, on_bad="skip", **on_disk)
    batches_of(skipping)
    assert list(skipping.skipped) == [5] and not skipping.cache.has(np.array([5])).any()


def test_a_file_that_cannot_be_decoded_any_more_is_named_by_several_batches_a_call(
    tmp_path, noisy, on_disk
):
    options = {"image_size": SIZE, "batch_size": 4}
    batches_of(join(noisy, None, **options, **on_disk))
    helpers.wait_for_new_ctime(tmp_path)
    helpers.break_image(noisy.path(5))
    stream = join(noisy, None, **options, **on_disk)
    assert stream._datasets.steps_per_call(WHOLE) > 1
    with pytest.raises(BadImageError) as refusal:
        batches_of(stream)
    assert refusal.value.key == noisy.keys[5]


def test_a_store_of_other_contents_reads_the_files_again(
    teach_once, tmp_path, noisy, on_disk, opened
):
    old = teach_once(noisy, tmp_path / "old.h5", **ASKED, views=CROPS)
    batches_of(join(noisy, old, batch_size=4, **on_disk))
    helpers.wait_for_new_ctime(tmp_path)
    helpers.draw_noise(os.fsdecode(noisy.path(5)), (10, 10), seed=99)
    new = teach_once(noisy, tmp_path / "new.h5", **ASKED, views=CROPS)
    opened.clear()
    stream = join(noisy, new, batch_size=4, **on_disk)
    assert_same(batches_of(stream), batches_of(join(noisy, new, batch_size=4)))
    assert_replayed(stream, 0, 12)
    # The old store does not take the new pixels for its own, whatever the file's size and time.
    with pytest.raises(ChangedImageError, match="is not the file that the teacher answered"):
        batches_of(join(noisy, old, batch_size=4, **on_disk))


def test_pixels_that_another_process_replaces_are_never_mixed_with_old_logits(
    teach_once, tmp_path, noisy, on_disk, monkeypatch
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    stream = join(noisy, store, batch_size=7, on_bad="skip", **on_disk)
    batches_of(stream)
    real, other = PixelCache.copy_to, join(noisy, store, batch_size=7, **on_disk).cache
    changed = np.zeros((1, *other.canonical.shape), np.uint8)

    def copy_to(self, indices, out):
        if 5 in indices and other.content_digests_of(np.array([5]))[0] != 1:
            other.put(np.array([5]), changed, np.array([1], np.uint64))
        real(self, indices, out)

    expected = batches_of(join(noisy, store, batch_size=7))
    monkeypatch.setattr(PixelCache, "copy_to", copy_to)
    # The file is as it was, and is read instead; it is then kept again.
    assert_same(batches_of(stream), expected)


@pytest.mark.parametrize("kind", ["symlink", slow("moved")])
def test_another_way_to_the_same_directory_has_right_pixels(
    teach_once, tmp_path, noisy, on_disk, kind
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    expected = batches_of(join(noisy, store, batch_size=4, **on_disk))
    other = tmp_path / "other"
    other.symlink_to(tmp_path / "noisy") if kind == "symlink" else shutil.move(
        tmp_path / "noisy", other
    )
    for _ in range(2):
        assert_same(batches_of(join(scan(other), store, batch_size=4, **on_disk)), expected)


def test_another_directory_in_the_old_ones_place_is_noticed(tmp_path, noisy, on_disk):
    options = {"image_size": SIZE, "batch_size": 4}
    batches_of(join(noisy, None, **options, **on_disk))
    helpers.wait_for_new_ctime(tmp_path)
    for index in range(21):
        helpers.draw_noise(os.fsdecode(noisy.path(index)), (12, 12), seed=100 + index)
    expected = batches_of(join(noisy, None, **options))
    assert_rounded(batches_of(join(noisy, None, **options, **on_disk)), expected)


# Any step, any batch size, several batches a call.


@pytest.mark.parametrize(
    ("cache", "batch_size"),
    [
        ("disk", 6),
        *(slow(c, b) for c in ("memory", "disk") for b in (2, 6, 10, 20) if (c, b) != ("disk", 6)),
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
    assert_replayed(join(noisy, store, batch_size=2, operation=FADE, **more), 3, 30)


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
    for start, stop in ((0, 1), (0, 20), (3, 4), (1, 19), (7, 7), (5, 13)):
        assert_same(batches_of(stream, start, stop), expected[start:stop])
    other = join(noisy, store, batch_size=4, seed=7, cache="memory")
    assert_same(batches_of(other, 4, 15), expected[4:15])  # filled within the second epoch


def test_an_image_is_lost_from_the_cache_between_two_epochs(teach_once, tmp_path, noisy, on_disk):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    expected = batches_of(join(noisy, store, batch_size=4))
    stream = join(noisy, store, batch_size=4, **on_disk)
    batches_of(stream)
    stream = join(noisy, store, batch_size=4, **on_disk)
    with open(stream.cache.path, "r+b") as file:
        file.write(b"\1" * 2000)
    assert stream.cache.is_filled
    assert_same(batches_of(stream), expected)


def run_of(stream, run, *, seed=0, epochs=4):
    distiller = Distiller(dense_student(image_size=SIZE, seed=seed), optimizer="sgd")
    distiller.fit(stream, epochs=epochs, run=run, progress=False)
    return distiller.student


@pytest.mark.parametrize("cache", ["disk", slow("memory")])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    teach_once, tmp_path, noisy, on_disk, monkeypatch, cache
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    more = {"cache": "memory"} if cache == "memory" else on_disk

    def make(**arguments):
        return join(noisy, store, batch_size=4, seed=3, **arguments)

    whole = run_of(make(), tmp_path / "whole")
    real, calls = Checkpoints.save, []

    def save(self, *args, **options):
        real(self, *args, **options)
        calls.append(args)
        if len(calls) == 2:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(KilledError):
            run_of(make(**more), tmp_path / "cut")
    assert same_weights(run_of(make(**more), tmp_path / "cut", seed=5), whole)


# Room.


@pytest.mark.parametrize("capacity", [10, slow(0), slow(1)])
def test_what_has_no_room_is_decoded_each_time(
    teach_once, tmp_path, noisy, on_disk, capacity, opened
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    expected = batches_of(join(noisy, store, batch_size=4))
    for more in ({"cache": "memory"}, on_disk):
        with pytest.warns(UserWarning, match=f"keeps {capacity} of 21 images"):
            stream = join(
                noisy, store, batch_size=4, cache_bytes=1 + capacity * (14 * 12 * 3 + 32), **more
            )
        assert_same(batches_of(stream), expected)
        opened.clear()
        assert_same(batches_of(stream), expected)
        paths = {noisy.path(index) for index in range(capacity, 21)}
        assert set(opened) == paths


def test_a_disk_that_gets_full_does_not_stop_a_run(
    teach_once, tmp_path, noisy, on_disk, monkeypatch
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    whole = run_of(join(noisy, store, batch_size=4), tmp_path / "whole", epochs=2)
    real = disk.write_at

    def write_at(descriptor, data, offset):
        if str(os.readlink(f"/proc/self/fd/{descriptor}")).endswith(".pixels") and offset > 5000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, data, offset)

    stream = join(noisy, store, batch_size=4, **on_disk)
    monkeypatch.setattr(disk, "write_at", write_at)
    with pytest.warns(UserWarning, match="takes no more images: No space left") as caught:
        student = run_of(stream, tmp_path / "full", epochs=2)
    assert len(caught) == 1
    assert same_weights(student, whole)


# Memory.


@pytest.mark.parametrize("views", [Views(0), slow(CROPS)], ids=["plain", "crop"])
def test_batches_that_are_held_do_not_change(teach_once, tmp_path, noisy, views):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=views)
    stream = join(noisy, store, batch_size=4, cache="memory")
    batches_of(stream, 0, 12)
    held = [batch for batch, _, _ in stream.dataset(0, 60)]
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


def test_the_cache_has_one_directory_for_many_streams(teach_once, tmp_path, noisy, on_disk):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    for seed in range(3):
        batches_of(join(noisy, store, batch_size=4, seed=seed, **on_disk))
    assert len(os.listdir(on_disk["cache_directory"])) == 2


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


_STREAM = """
import sys
import numpy as np
from streamkd.manifest.manifest import scan
from streamkd.stream.join import join

images = scan(sys.argv[1])
stream = join(images, sys.argv[2], batch_size=4, seed=1, cache="disk", cache_directory=sys.argv[3])
print("open", flush=True)
sys.stdin.readline()
digests = [np.array(pixels).tobytes() for pixels, _, _ in stream.batches(0, 18)]
import hashlib
print(hashlib.sha256(b"".join(digests)).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_may_fill_it_at_once(teach_once, tmp_path, noisy, on_disk):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    plain = batches_of(join(noisy, store, batch_size=4, seed=1), 0, 18)
    expected = hashlib.sha256(b"".join(batch["pixels"].tobytes() for batch in plain)).hexdigest()
    words = ["-c", _STREAM, tmp_path / "noisy", store.path, tmp_path / "pixels"]
    both = [process(*words, stdin=subprocess.PIPE) for _ in range(2)]
    assert [child.stdout.readline() for child in both] == ["open\n", "open\n"]
    for child in both:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in both:
        out, errors = child.communicate(timeout=TIMEOUT_SECS)
        assert child.returncode == 0, errors
        assert out.strip() == expected
    assert_same(batches_of(join(noisy, store, batch_size=4, seed=1, **on_disk), 0, 18), plain)
