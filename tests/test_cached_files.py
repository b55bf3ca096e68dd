"""The pixel cache behind a stream: files that change, a full disk, runs, several processes."""

import errno
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
    SIZE,
    assert_replayed,
    slow,
)
from run_helpers import dense_student, fit, killed, same_weights
from stream_helpers import assert_rounded, assert_same, batches_of
from timeouts import TIMEOUT_SECS

from streamkd import disk
from streamkd.errors import BadImageError, ChangedImageError
from streamkd.manifest.manifest import scan
from streamkd.pixels.cache.pixel_cache import PixelCache
from streamkd.runs.checkpoint import Checkpoints
from streamkd.stream.join import join
from streamkd.stream.order.worker_slice import WHOLE


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
    """Returns the student of a run."""
    return fit(stream, dense_student(image_size=SIZE, seed=seed), run, epochs=epochs)[0].student


# From a cache on the disk, which changes meanwhile: test_resume.py.
@pytest.mark.parametrize("cache", [slow("disk"), slow("memory")])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    teach_once, tmp_path, noisy, on_disk, cache
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    more = {"cache": "memory"} if cache == "memory" else on_disk

    def make(**arguments):
        return join(noisy, store, batch_size=4, seed=3, **arguments)

    whole = run_of(make(), tmp_path / "whole")
    with killed(Checkpoints, "save", call=2, after=True):
        run_of(make(**more), tmp_path / "cut")
    assert same_weights(run_of(make(**more), tmp_path / "cut", seed=5), whole)


# Room.


@pytest.mark.parametrize("capacity", [10, slow(0), slow(1)])
def test_images_without_room_in_the_cache_are_decoded_each_time(
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


@pytest.mark.filterwarnings("ignore:The teacher of .* is right on")  # it guesses
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
    assert len([warning for warning in caught if "no more images" in str(warning.message)]) == 1
    assert same_weights(student, whole)


def test_the_cache_has_one_directory_for_many_streams(teach_once, tmp_path, noisy, on_disk):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
    for seed in range(2):
        batches_of(join(noisy, store, batch_size=4, seed=seed, **on_disk))
    assert len(os.listdir(on_disk["cache_directory"])) == 2


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
