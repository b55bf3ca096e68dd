"""The file of the pixel cache, and everything that can happen to it."""

import contextlib
import errno
import fcntl
import gc
import mmap
import os
import shutil
import subprocess
import time
import warnings

import helpers
import numpy as np
import pytest
from cache_helpers import (
    ALL,
    IMAGE_BYTES,
    OPTIONS,
    assert_right,
    content_digests_of,
    copied,
    fill,
    pixels_of,
)
from process_helpers import finished, running
from store_helpers import flip_bit

from streamkd import disk
from streamkd.errors import DiskFullError, OutputError
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import scan
from streamkd.pixels.cache import free_space, pixel_cache
from streamkd.pixels.cache.cache_place import default_directory
from streamkd.pixels.cache.pixel_cache import PixelCache


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pixels"


@pytest.fixture
def opened(images, folder):
    """Opens the cache on the disk, as another process would."""
    return lambda **options: PixelCache.on_disk(images, OPTIONS, folder, **options)


@pytest.fixture
def filled(opened):
    """The files of a cache that has all images: pixels and records."""
    cache = fill(opened())
    cache.close()
    return cache.path, cache.path.with_suffix(".records")


def test_the_cache_has_the_images_that_were_put_in_and_no_others(images, opened):
    for cache in (PixelCache.in_memory(images, OPTIONS), opened()):
        assert not cache.has(ALL).any() and not cache.is_filled
        fill(cache, np.array([3, 29, 0]))
        assert assert_right(cache) == [0, 3, 29]
        assert not cache.is_filled
        assert fill(cache).is_filled
        assert assert_right(cache) == ALL.tolist()
        np.testing.assert_array_equal(copied(cache, ALL, np.float32), pixels_of(ALL))


def test_the_next_process_finds_it(opened):
    fill(opened(), np.arange(0, 30, 2))
    cache = opened()
    assert assert_right(cache) == list(range(0, 30, 2))
    fill(cache)
    assert assert_right(cache) == ALL.tolist() and opened().is_filled


def test_large_images_are_copied_as_small_ones_are(images):
    large = ImageOptions(image_size=(90, 80))
    cache = PixelCache.in_memory(images, large)
    pixels = np.random.default_rng(1).integers(0, 256, (30, *large.shape), np.uint8)
    cache.put(ALL, pixels, content_digests_of(ALL))
    out = np.empty((3, *large.shape), np.float32)
    cache.copy_to(np.array([4, 4, 17]), out)
    np.testing.assert_array_equal(out, pixels[[4, 4, 17]])


# Which file it is.


@pytest.mark.parametrize(
    "other",
    [
        {"image_size": (6, 5)},
        {"image_size": (5, 6), "interpolation": "nearest"},
        {"image_size": (5, 6), "color_mode": "grayscale"},
        {"image_size": (5, 6), "crop_to_aspect_ratio": True},
        {"image_size": (5, 6), "pad_to_aspect_ratio": True},
    ],
    ids=["size", "interpolation", "colour", "crop", "pad"],
)
def test_other_pixels_have_another_file(images, folder, opened, other):
    fill(opened())
    cache = PixelCache.on_disk(images, ImageOptions(**other), folder)
    assert cache.path != opened().path and not cache.has(ALL).any()


def test_other_images_have_another_file(images, folder, opened, tmp_path):
    fill(opened())
    shutil.copytree(tmp_path / "images", tmp_path / "others")
    for others in (scan(tmp_path / "others"), images.select(np.arange(29))):
        cache = PixelCache.on_disk(others, OPTIONS, folder)
        assert cache.path != opened().path and not cache.has(np.arange(29)).any()


def test_an_alien_file_of_the_same_name_is_not_believed(images, folder, filled, opened):
    other = PixelCache.on_disk(images, ImageOptions(image_size=(6, 5)), folder)
    other.put(ALL, pixels_of(ALL).reshape(30, 6, 5, 3), content_digests_of(ALL))
    shutil.copyfile(other.path, filled[0])
    shutil.copyfile(other.path.with_suffix(".records"), filled[1])
    assert assert_right(opened()) == []
    for path in filled:
        path.write_bytes(b"something else" * 1000)
    cache = opened()
    assert assert_right(cache) == []
    assert assert_right(fill(cache)) == assert_right(opened()) == ALL.tolist()


def test_images_that_changed_places_in_the_file_are_not_believed(filled, opened):
    for path in filled:
        data = path.read_bytes()
        size = len(data) // 30
        path.write_bytes(data[size : 2 * size] + data[:size] + data[2 * size :])
    assert assert_right(opened()) == list(range(2, 30))


def test_the_directory_is_the_users_cache(monkeypatch, tmp_path, images):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_directory() == tmp_path / "xdg" / "streamkd" / "pixels"
    cache = PixelCache.on_disk(images, OPTIONS)
    assert cache.path is not None and cache.path.parent == default_directory()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "streamkd" / "pixels"


# Images that change.


def rewrite(path, number):
    """Another image of the same size in bytes, with the old time of change."""
    before = path.stat()
    data = path.read_bytes()
    helpers.draw_image(path, number)
    changed = path.read_bytes().ljust(len(data), b"\0")[: len(data)]
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_an_image_that_changed_is_not_there_for_the_next_process(
    directory, filled, opened, tmp_path
):
    helpers.wait_for_new_ctime(tmp_path)
    rewrite(directory / "ant" / "00003.png", 77)
    with open(directory / "ant" / "00004.png", "ab") as file:
        file.write(b"\0")
    (directory / "ant" / "00005.png").unlink()
    assert assert_right(opened()) == [0, 1, 2, *range(6, 30)]


def test_a_change_between_reading_and_keeping_is_noticed(directory, opened, tmp_path):
    cache = opened()
    cache.about_to_read(ALL)
    helpers.wait_for_new_ctime(tmp_path)
    rewrite(directory / "ant" / "00003.png", 77)
    fill(cache)
    assert assert_right(opened()) == [0, 1, 2, *range(4, 30)]


def test_an_image_that_is_gone_before_it_is_kept_is_left_out(directory, opened):
    cache = opened()
    (directory / "ant" / "00003.png").unlink()
    fill(cache)
    assert assert_right(cache) == assert_right(opened()) == [0, 1, 2, *range(4, 30)]


# Damage.


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_the_pixels_costs_that_image(filled, opened, bit):
    for number in (4, 13, 29):
        flip_bit(filled[0], number * IMAGE_BYTES + 11 * bit, bit)
    cache = opened()
    assert assert_right(cache) == [n for n in range(30) if n not in (4, 13, 29)]
    assert assert_right(fill(cache)) == assert_right(opened()) == ALL.tolist()


@pytest.mark.parametrize("field", range(1, 4), ids=["digest", "size", "time"])
def test_a_flipped_bit_in_a_record_costs_that_image(filled, opened, field):
    for bit in (1, 7):
        flip_bit(filled[1], 32 * 13 + 8 * field, bit)
        assert assert_right(opened()) == [n for n in range(30) if n != 13]
        flip_bit(filled[1], 32 * 13 + 8 * field, bit)
    assert assert_right(opened()) == ALL.tolist()


def test_a_flipped_bit_in_a_content_digest_is_another_content(filled, opened):
    flip_bit(filled[1], 32 * 13, 5)
    cache = opened()
    assert (cache.content_digests_of(ALL) != content_digests_of(ALL)).nonzero()[0].tolist() == [13]


@pytest.mark.parametrize("which", [0, 1], ids=["pixels", "records"])
@pytest.mark.parametrize("num_bytes", [0, 1, 500, 32 * 7 + 3, IMAGE_BYTES * 20 + 1])
def test_files_that_were_cut_cost_what_was_cut_off(filled, opened, which, num_bytes):
    path = filled[which]
    num_bytes = min(num_bytes, path.stat().st_size - 1)
    helpers.truncate(path, num_bytes)
    width = (IMAGE_BYTES, 32)[which]
    cache = opened()
    assert assert_right(cache) == list(range(num_bytes // width))
    assert assert_right(fill(cache)) == assert_right(opened()) == ALL.tolist()


@pytest.mark.parametrize("which", [0, 1], ids=["pixels", "records"])
def test_a_file_that_is_gone_is_made_anew(filled, opened, which):
    filled[which].unlink()
    cache = opened()
    assert assert_right(cache) == []
    assert assert_right(fill(cache)) == assert_right(opened()) == ALL.tolist()


def test_it_may_be_deleted_while_it_is_open(filled, opened):
    cache = opened()
    assert assert_right(cache, ALL[:9]) == list(range(9))
    for path in filled:
        path.unlink()
    assert assert_right(cache) == ALL.tolist()
    assert assert_right(fill(cache)) == ALL.tolist()
    assert assert_right(opened()) == []


def test_pixels_that_were_not_written_to_the_end_are_not_believed(opened, filled):
    with open(filled[0], "r+b") as file:
        file.seek(7 * IMAGE_BYTES + 40)
        file.write(bytes(IMAGE_BYTES - 40))
    assert assert_right(opened()) == [n for n in range(30) if n != 7]


def test_a_disk_that_cannot_be_read_is_as_if_nothing_was_there(filled, opened, monkeypatch):
    def read_at(*_):
        raise OSError(errno.EIO, "Input/output error")

    cache = opened()
    monkeypatch.setattr(disk, "read_at", read_at)
    assert assert_right(cache) == []


# Several processes: two caches over the same files behave as two of them do.


def test_two_may_fill_it_at_once(opened):
    first, second = opened(), opened()
    fill(first, ALL[:20])
    fill(second, ALL[10:])
    assert assert_right(first) == ALL[:20].tolist()
    assert assert_right(second) == ALL[10:].tolist()
    assert assert_right(opened()) == ALL.tolist()


def test_pixels_that_another_process_wrote_are_not_written_again(opened, monkeypatch):
    first, second = opened(), opened()
    fill(first)
    written = []
    monkeypatch.setattr(disk, "write_at", lambda *arguments: written.append(arguments))
    fill(second)
    assert not written and assert_right(second) == ALL.tolist()


def test_a_record_is_away_while_its_pixels_are_replaced(filled, opened, monkeypatch):
    reader, writer = opened(), opened()
    assert assert_right(reader) == ALL.tolist()
    real, seen = disk.write_at, []

    def write_at(descriptor, data, offset):
        seen.append(reader.content_digests_of(np.array([5]))[0])
        real(descriptor, data, offset)

    monkeypatch.setattr(disk, "write_at", write_at)
    writer.put(np.array([5]), pixels_of(np.array([6])), content_digests_of(np.array([6])))
    assert seen == [content_digests_of(5), 0, 0]
    assert reader.content_digests_of(np.array([5]))[0] == content_digests_of(6)


def test_files_are_never_made_shorter(images, opened):
    large = fill(opened())
    with pytest.warns(UserWarning, match="keeps 10 of 30"):
        small = opened(num_bytes=10 * (IMAGE_BYTES + 32))
    assert small.path == large.path and small.path.stat().st_size == 30 * IMAGE_BYTES
    assert assert_right(large) == ALL.tolist() and assert_right(small) == list(range(10))


_FILL = """
import sys
import numpy as np
from streamkd.manifest.manifest import scan
from streamkd.image_options import ImageOptions
from streamkd.pixels.cache.pixel_cache import PixelCache

images, options = scan(sys.argv[1]), ImageOptions(image_size=(96, 96))
pixels = np.random.default_rng(0).integers(0, 256, (30, 96, 96, 3), np.uint8)
cache = PixelCache.on_disk(images, options, sys.argv[2])
print("open", flush=True)
while True:
    for index in np.random.default_rng().permutation(30):
        one = np.array([index])
        cache.put(one, pixels[one], np.array([index + 7], np.uint64))
        cache._records = np.zeros_like(cache._records)  # or it would see that all is there
"""


@pytest.mark.slow
def test_killed_processes_leave_right_pixels_or_none(directory, folder):
    options = ImageOptions(image_size=(96, 96))
    pixels = np.random.default_rng(0).integers(0, 256, (30, 96, 96, 3), np.uint8)
    rng, num_kept = np.random.default_rng(5), 0
    for _ in range(20):
        with contextlib.ExitStack() as killed_at_the_end:
            for _ in range(2):
                child = killed_at_the_end.enter_context(running("-c", _FILL, directory, folder))
                child.stdout.readline()
            time.sleep(float(rng.uniform(0, 0.02)))
        cache = PixelCache.on_disk(scan(directory), options, folder)
        kept = np.flatnonzero(cache.has(ALL))
        out = np.empty((len(kept), 96, 96, 3), np.uint8)
        cache.copy_to(kept, out)
        np.testing.assert_array_equal(out, pixels[kept])
        num_kept += len(kept)
        for name in os.listdir(folder):
            os.unlink(folder / name)
    assert num_kept


# Room.


def test_a_limit_keeps_the_first_images_and_says_so(images, opened):
    limit = 10 * (IMAGE_BYTES + 32)
    words = r"keeps 10 of 30 images: all of them take 0.0 GB, and there is room for 0.0 GB\. The"
    for make in (opened, lambda **options: PixelCache.in_memory(images, OPTIONS, **options)):
        with pytest.warns(UserWarning, match=words):
            cache = fill(make(num_bytes=limit))
        assert assert_right(cache) == list(range(10)) and not cache.is_filled


@pytest.mark.parametrize("num_bytes", [0, 1, IMAGE_BYTES])
def test_there_may_be_room_for_no_image(images, opened, num_bytes):
    for make in (opened, lambda **options: PixelCache.in_memory(images, OPTIONS, **options)):
        with pytest.warns(UserWarning, match="keeps 0 of 30 images"):
            cache = fill(make(num_bytes=num_bytes))
        assert not cache.has(ALL).any() and not cache.is_filled


def test_room_is_measured_where_the_files_will_be(images, monkeypatch, opened):
    monkeypatch.setattr(pixel_cache, "free_memory", lambda: 2 * 5 * (IMAGE_BYTES + 32))
    with pytest.warns(UserWarning, match="keeps 5 of 30 images"):
        assert PixelCache.in_memory(images, OPTIONS).capacity == 5
    usage = shutil.disk_usage("/")._replace(free=10 * (IMAGE_BYTES + 32))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.warns(UserWarning, match="keeps 9 of 30 images"):
        assert opened().capacity == 9


def test_files_take_no_more_than_the_limit(opened):
    with pytest.warns(UserWarning, match="keeps"):
        cache = fill(opened(num_bytes=3000))
    sizes = [path.stat().st_size for path in (cache.path, cache.path.with_suffix(".records"))]
    assert sum(sizes) <= 3000


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_a_disk_that_is_full_is_said_once_and_the_run_continues(opened, monkeypatch, fails_at):
    real, calls = disk.write_at, []

    def write_at(descriptor, data, offset):
        calls.append(offset)
        if len(calls) >= fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, data, offset)

    cache = opened()
    monkeypatch.setattr(disk, "write_at", write_at)
    words = r"pixels takes no more images: No space left on device\. Images that are not in it"
    with pytest.warns(UserWarning, match=words) as caught:
        fill(fill(cache))
    assert len(caught) == 1 and len(calls) == fails_at
    whole = list(range((fails_at - 1) // 2))
    assert assert_right(cache) == whole and assert_right(opened()) == whole


_LIMITED = """
import resource
import sys
import warnings

from test_pixel_cache import IMAGE_BYTES, OPTIONS, PixelCache, assert_right, fill, scan

cache = PixelCache.on_disk(scan(sys.argv[1]), OPTIONS, sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (5 * IMAGE_BYTES + 3, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fill(cache)
print(*[warning.message for warning in caught], assert_right(cache), sep="\\n")
"""


def test_a_limit_on_the_size_of_files_is_a_full_disk(directory, folder, opened):
    opened().close()  # the limit is below the length of the files
    out, _ = finished("-c", _LIMITED, directory, folder)
    warning, kept = out.splitlines()
    assert "takes no more images: File too large" in warning
    assert kept == "[0, 1, 2, 3, 4]" and assert_right(opened()) == list(range(5))


def test_no_room_for_the_files_at_all_is_refused(opened, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFullError, match=r"no room for .*pixels(?s:.*)`--cache-directory`"):
        opened()


@pytest.mark.parametrize("lacking", ["posix_fallocate", "locks"])
def test_a_system_that_lacks_a_call_keeps_the_same(opened, monkeypatch, lacking):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if lacking == "locks":
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        monkeypatch.delattr(os, "posix_fallocate")
    fill(opened(), ALL[:7])
    assert assert_right(opened()) == ALL[:7].tolist()


def test_a_small_disk_in_memory_that_is_full_is_no_end_of_the_process(images, tmp_path):
    mounted = tmp_path / "small"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", mounted]).returncode:
        pytest.skip("only root may mount")
    try:
        large = ImageOptions(image_size=(40, 40))
        pixels = np.random.default_rng(1).integers(0, 256, (30, *large.shape), np.uint8)
        cache = PixelCache.on_disk(images, large, mounted, num_bytes=10**9)
        with pytest.warns(UserWarning, match="takes no more images: No space left on device"):
            cache.put(ALL, pixels, content_digests_of(ALL))
        for opened in (cache, PixelCache.on_disk(images, large, mounted, num_bytes=10**9)):
            kept = np.flatnonzero(opened.has(ALL))
            assert 0 < len(kept) < 4
            out = np.empty((len(kept), *large.shape), np.uint8)
            opened.copy_to(kept, out)
            np.testing.assert_array_equal(out, pixels[kept])
            assert not opened.content_digests_of(ALL[10:]).any()
            opened.close()
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)


@pytest.mark.parametrize("kind", ["a file", "below a file", "read-only"])
def test_a_folder_that_takes_no_files_is_refused(images, tmp_path, kind, monkeypatch):
    folder = tmp_path / "pixels"
    if kind == "read-only":
        folder.mkdir()

        def refuse(*_):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(os, "open", refuse)
    else:
        folder.write_bytes(b"")
    folder = folder / "deeper" if kind == "below a file" else folder
    words = r"^Cannot write .*pixels.*: .*\.\nGive another one: `--cache-directory`\.$"
    with pytest.raises(OutputError, match=words):
        PixelCache.on_disk(images, OPTIONS, folder)


def test_the_limit_of_a_container_counts_and_files_it_keeps_in_passing_do_not(
    tmp_path, monkeypatch
):
    assert 0 < free_space.free_memory() <= os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    monkeypatch.setattr(free_space, "CONTROL_GROUP", tmp_path)
    for name, text in {
        "max": "1000",
        "current": "900",
        "stat": "anon 200\ninactive_file 650",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    assert free_space.free_memory() == 750
    (tmp_path / "memory.max").write_text("max\n")
    assert free_space.free_memory() > 750


def test_descriptors_are_closed_with_it(opened, folder):
    for _ in range(5):
        assert_right(fill(opened()))
    gc.collect()
    paths = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed the others
            paths.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    assert not [path for path in paths if path.startswith(str(folder))]


def test_a_cache_without_trouble_warns_of_nothing(opened, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill(opened())
        fill(PixelCache.in_memory(images, OPTIONS))
