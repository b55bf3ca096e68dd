"""The disk: replaced files are whole, syncs reach the drive, and macOS has its nearest calls."""

from __future__ import annotations

import errno
import fcntl
import os

import fault_helpers
import numpy as np
import pytest
import store_helpers

from streamkd import disk
from streamkd.errors import DiskFullError, OutputError
from streamkd.manifest.manifest import scan
from streamkd.store.store_list import ListedStore, StoreList

F_FULLFSYNC = 51  # its number on macOS


class SyncLog:
    """Records which file every sync is for, and every rename, in order.

    Attributes:
      calls: pairs of the call's name and the name of the file.
    """

    def __init__(self, monkeypatch):
        self.calls, self.names = [], {}
        self.real = {name: getattr(os, name) for name in ("open", "fsync", "fdatasync", "replace")}
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "fsync", lambda descriptor: self.sync("fsync", descriptor))
        monkeypatch.setattr(os, "fdatasync", lambda descriptor: self.sync("fdatasync", descriptor))
        monkeypatch.setattr(os, "replace", self.replace)

    def open(self, path, *args, **kwargs):
        descriptor = self.real["open"](path, *args, **kwargs)
        self.names[descriptor] = os.path.basename(os.path.abspath(path))
        return descriptor

    def sync(self, name, descriptor):
        self.calls.append((name, self.names[descriptor]))
        self.real[name](descriptor)

    def replace(self, source, target):
        self.calls.append(("replace", os.path.basename(target)))
        self.real["replace"](source, target)


@pytest.fixture
def log(monkeypatch):
    return SyncLog(monkeypatch)


@pytest.fixture
def full_syncs(monkeypatch):
    """The descriptors for which macOS' own sync is asked; the real call is not made."""
    descriptors = []

    def call(descriptor, command):
        assert command == F_FULLFSYNC
        descriptors.append(descriptor)

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", F_FULLFSYNC, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", call)
    return descriptors


def test_a_small_file_is_replaced_whole(tmp_path, monkeypatch):
    disk.write_atomically(tmp_path / "a.json", "old")
    disk.write_atomically(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"
    monkeypatch.setattr(os, "fdatasync", fault_helpers.fail_with(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        disk.write_atomically(tmp_path / "a.json", "newest")
    assert (tmp_path / "a.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_is_synced_before_it_gets_its_name_and_its_directory_afterwards(tmp_path, log):
    disk.write_atomically(tmp_path / "a.json", "text")
    assert log.calls == [
        ("fdatasync", "a.json.tmp"),
        ("replace", "a.json"),
        ("fsync", tmp_path.name),
    ]


def test_a_manifest_is_synced_before_it_gets_its_name(tmp_path, directory, log):
    scan(directory).write(tmp_path / "train.jsonl")
    assert log.calls == [
        ("fdatasync", ".train.jsonl.tmp"),
        ("replace", "train.jsonl"),
        ("fsync", tmp_path.name),
    ]


def test_an_index_file_is_synced_before_it_gets_its_name(tmp_path, log):
    listed = StoreList(stores=(ListedStore("s.h5", "00"),), num_images=1, fingerprint="00")
    listed.write(str(tmp_path / "s.h5.index"))
    assert log.calls == [
        ("fdatasync", ".s.h5.index.tmp"),
        ("replace", "s.h5.index"),
        ("fsync", tmp_path.name),
    ]


def test_a_manifest_that_cannot_be_synced_leaves_the_one_before(tmp_path, directory, monkeypatch):
    images, path = scan(directory), tmp_path / "train.jsonl"
    images.write(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fdatasync", fault_helpers.fail_with(errno.EIO))
    with pytest.raises(OutputError, match=r"train.jsonl cannot be written: Input/output error"):
        images.write(path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == sorted([directory.name, path.name])


def test_directories_that_are_made_are_synced_by_their_parents(tmp_path, log):
    made = disk.make_directory(tmp_path / "runs" / "first")
    assert made == [tmp_path / "runs" / "first", tmp_path / "runs"]
    assert log.calls == [("fsync", "runs"), ("fsync", tmp_path.name)]
    assert disk.make_directory(tmp_path / "runs") == []


class TestMacOS:
    """The calls of macOS: F_FULLFSYNC and no posix_fallocate."""

    def test_a_file_is_synced_through_the_cache_of_the_drive(self, tmp_path, full_syncs, log):
        path = tmp_path / "a"
        path.write_bytes(b"bytes")
        disk.sync_file(path)
        assert len(full_syncs) == 1 and log.calls == []

    def test_a_replaced_file_is_synced_through_the_cache_of_the_drive(self, tmp_path, full_syncs):
        disk.write_atomically(tmp_path / "config.json", "{}")
        assert len(full_syncs) == 1

    @pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOTTY], ids=errno.errorcode.get)
    def test_a_file_system_without_that_call_is_synced_plainly(
        self, tmp_path, full_syncs, log, monkeypatch, number
    ):
        (tmp_path / "a").touch()
        monkeypatch.setattr(fcntl, "fcntl", fault_helpers.fail_with(number))
        disk.sync_file(tmp_path / "a")
        assert log.calls == [("fsync", "a")]

    def test_an_error_of_that_call_is_an_error(self, tmp_path, full_syncs, monkeypatch):
        (tmp_path / "a").touch()
        monkeypatch.setattr(fcntl, "fcntl", fault_helpers.fail_with(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            disk.sync_file(tmp_path / "a")

    def test_a_store_is_synced_through_the_cache_of_the_drive(self, tmp_path, full_syncs, log):
        store_helpers.teach(tmp_path / "s.h5", 3)
        # The new file; rows, then `done`; the summary in three steps.
        assert len(full_syncs) == 1 + 2 + 3
        assert {name for name, _ in log.calls} == {"fsync"}
        assert {file for _, file in log.calls} == {tmp_path.name}

    def test_a_system_without_posix_fallocate_makes_the_same_store(self, tmp_path, monkeypatch):
        store_helpers.teach(tmp_path / "linux.h5")
        monkeypatch.delattr(os, "posix_fallocate")
        store_helpers.teach(tmp_path / "macos.h5")
        assert (tmp_path / "macos.h5").read_bytes() == (tmp_path / "linux.h5").read_bytes()

    def test_a_system_without_memfd_create_makes_the_same_store(self, tmp_path, monkeypatch):
        store_helpers.teach(tmp_path / "linux.h5")
        monkeypatch.delattr(os, "memfd_create")
        store_helpers.teach(tmp_path / "macos.h5")
        assert (tmp_path / "macos.h5").read_bytes() == (tmp_path / "linux.h5").read_bytes()


@pytest.mark.parametrize("num_bytes", [0, 1, 5000])
def test_reserved_bytes_are_zeros_of_that_length_without_posix_fallocate(
    tmp_path, monkeypatch, num_bytes
):
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(disk, "_CHUNK_BYTES", 4096)
    with open(tmp_path / "a", "wb", buffering=0) as file:
        disk.reserve(file.fileno(), num_bytes)
    assert (tmp_path / "a").read_bytes() == bytes(num_bytes)


def test_an_array_is_written_as_its_bytes_and_read_back(tmp_path):
    numbers = np.arange(12, dtype="<u2").reshape(3, 4)[:, ::2]
    with open(tmp_path / "a", "w+b") as file:
        disk.write_at(file.fileno(), numbers, 5)
        assert disk.read_at(file.fileno(), 100, 5) == numbers.tobytes()
        assert disk.read_at(file.fileno(), 3, 6) == numbers.tobytes()[1:4]


def test_a_disk_that_takes_no_byte_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: 0)
    with (
        open(tmp_path / "a", "wb") as file,
        pytest.raises(OSError, match="the disk took no byte"),
    ):
        disk.write_at(file.fileno(), b"bytes", 0)


def test_a_directory_that_cannot_be_synced_counts_as_synced_and_a_failing_one_does_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "fsync", fault_helpers.fail_with(errno.EINVAL))
    disk.sync_directory(tmp_path)
    monkeypatch.setattr(os, "fsync", fault_helpers.fail_with(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync_directory(tmp_path)


@pytest.mark.parametrize(
    ("number", "refusal", "words"),
    [
        (
            errno.EROFS,
            OutputError,
            r"^Cannot write .*/s.h5: Read-only file system\.\nAll is safe\.",
        ),
        (errno.EDQUOT, DiskFullError, r"(?s)no room for .*quota.*needed: 1,234 bytes.*free:"),
        (errno.EFBIG, DiskFullError, "File too large"),
    ],
    ids=errno.errorcode.get,
)
def test_an_error_of_the_system_becomes_one_message(tmp_path, number, refusal, words):
    with (
        pytest.raises(refusal, match=words),
        disk.refusals(str(tmp_path / "s.h5"), ending="All is safe.", num_bytes=1234),
    ):
        raise OSError(number, os.strerror(number))
