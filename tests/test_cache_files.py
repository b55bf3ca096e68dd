"""The files of a pixel cache: links, pipes and other users' files are refused, and left alone."""

import itertools
import os
import stat

import numpy as np
import pytest
from cache_helpers import ALL, OPTIONS, assert_right, fill, pixels_of

from streamkd import disk
from streamkd.errors import OutputError
from streamkd.pixels.cache import cache_files
from streamkd.pixels.cache.pixel_cache import PixelCache

WHICH = pytest.mark.parametrize("which", [0, 1], ids=["pixels", "records"])
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pixels"


@pytest.fixture
def opened(images, folder):
    """Opens the cache on the disk, as another process would."""
    return lambda: PixelCache.on_disk(images, OPTIONS, folder)


@pytest.fixture
def filled(opened):
    """The files of a cache that has all images: pixels and records."""
    cache = fill(opened())
    cache.close()
    return cache.path, cache.path.with_suffix(".records")


def test_new_files_are_this_user_s_alone(opened, filled):
    old = os.umask(0)
    try:
        for path in filled:
            path.unlink()
        opened()
    finally:
        os.umask(old)
    assert [stat.S_IMODE(path.stat().st_mode) for path in filled] == [0o600, 0o600]


@WHICH
@pytest.mark.parametrize("leads_to", ["victim", "nowhere", "its like", "/dev/zero"])
def test_a_link_is_refused_and_what_it_leads_to_is_left(opened, filled, tmp_path, which, leads_to):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if leads_to == "its like":  # a cache that would be believed
        filled[which].rename(tmp_path / "its like")
        leads_to = str(tmp_path / "its like")
    else:
        filled[which].unlink()
    filled[which].symlink_to(tmp_path / leads_to)
    with pytest.raises(OutputError) as info:
        opened()
    path = filled[which]
    assert str(info.value) == (
        f"The pixel cache {path} is a link, not a file.\n"
        f"Move it away (`mv {path} {path}.old`), or give another `--cache-directory`."
    )
    assert victim.read_text() == "precious" and not (tmp_path / "nowhere").exists()


@WHICH
@pytest.mark.parametrize("kind", ["a pipe", "a directory"])
def test_what_is_no_file_is_refused_and_not_waited_for(opened, filled, which, kind):
    filled[which].unlink()
    os.mkfifo(filled[which]) if kind == "a pipe" else filled[which].mkdir()
    with pytest.raises(OutputError, match=f"is {kind}, not a file"):
        opened()


@as_root
@WHICH
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
def test_the_file_of_another_user_is_not_believed(opened, filled, which, mode):
    os.chown(filled[which], 65534, 65534)
    os.chmod(filled[which], mode)
    before = filled[which].read_bytes()
    with pytest.raises(OutputError) as info:
        opened()
    assert str(info.value) == (
        f"The pixel cache {filled[which]} belongs to another user, so its pixels are not "
        "believed.\n  owner of the file: user 65534\n"
        f"  this process:      user {os.geteuid()}\n"
        "Give a directory of your own: `--cache-directory`."
    )
    assert filled[which].read_bytes() == before
    assert sorted(filled[0].parent.iterdir()) == sorted(filled)


@as_root
def test_where_every_new_file_has_another_owner_files_are_believed(opened, filled, monkeypatch):
    """A network file system may give all files of root to nobody."""
    create = disk.create

    def given_away(path):
        descriptor = create(path)
        os.fchown(descriptor, 65534, 65534)
        return descriptor

    monkeypatch.setattr(disk, "create", given_away)
    for path in filled:
        os.chown(path, 65534, 65534)
    assert assert_right(opened()) == ALL.tolist()


@WHICH
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_a_file_that_others_could_write_to_is_made_anew(opened, filled, which, mode):
    filled[which].chmod(mode)
    old = filled[which].stat().st_ino
    with open(filled[which], "rb"):  # so that its number is not given again
        cache = opened()
        assert filled[which].stat().st_ino != old
    assert not cache.has(ALL).any()
    assert stat.S_IMODE(filled[which].stat().st_mode) == 0o600
    assert assert_right(fill(cache)) == ALL.tolist()
    assert assert_right(opened()) == ALL.tolist()


def test_a_disk_without_permissions_shows_others_may_write_and_is_believed(
    opened, filled, monkeypatch
):
    for path in filled:
        path.chmod(0o777)
    monkeypatch.setattr(os, "fchmod", lambda descriptor, mode: None)
    assert assert_right(opened()) == ALL.tolist()


@WHICH
def test_a_file_with_a_second_name_is_left_to_that_name(opened, filled, tmp_path, which):
    os.link(filled[which], tmp_path / "second")
    before = (tmp_path / "second").read_bytes()
    cache = fill(opened())
    assert (tmp_path / "second").read_bytes() == before
    assert assert_right(cache) == ALL.tolist()
    assert (tmp_path / "second").stat().st_nlink == 1


def test_a_file_that_another_process_takes_away_is_made(folder, monkeypatch):
    folder.mkdir()
    path = folder / "a.pixels"
    path.write_bytes(b"old")
    calls, real = itertools.count(), os.open

    def racing(name, *args):
        if next(calls) == 1:  # between the look and the opening
            path.unlink()
        return real(name, *args)

    monkeypatch.setattr(os, "open", racing)
    os.close(cache_files.open_own_file(path))
    assert path.read_bytes() == b""


@WHICH
@pytest.mark.parametrize("left", [0, 1, 100])
def test_files_that_are_cut_while_they_are_open_are_given_up(opened, filled, which, left):
    cache = opened()
    os.truncate(filled[which], left)
    with pytest.warns(UserWarning, match="takes no more images: a file was cut while it was used"):
        assert not cache.has(ALL).any()
    fill(cache)
    assert not cache.has(ALL).any()
    assert not cache.is_filled


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_files_hold_no_wrong_pixels_come_out(opened, filled, seed):
    rng = np.random.default_rng(seed)
    for path in filled:
        data = bytearray(path.read_bytes())
        for _ in range(rng.integers(1, 40)):
            data[rng.integers(len(data))] = rng.integers(256)
        start = int(rng.integers(len(data)))
        data[start : start + 64] = rng.bytes(min(64, len(data) - start))
        path.write_bytes(bytes(data[: rng.integers(len(data) // 2, len(data) + 1)]))
    cache = opened()
    kept = ALL[cache.has(ALL)]
    out = np.empty((len(kept), 5, 6, 3), np.uint8)
    cache.copy_to(kept, out)
    np.testing.assert_array_equal(out, pixels_of(kept))
