"""Creating and filling a store: what is refused, who may write, and disks that fail."""

import errno
import fcntl
import os
import re

import fault_helpers
import numpy as np
import pytest
import store_helpers as helpers
from process_helpers import finished

from streamkd.errors import (
    DamagedStoreError,
    DiskFullError,
    NonFiniteError,
    OptionError,
    OutputError,
    StoreBusyError,
    StoreError,
    UnfinishedStoreError,
)
from streamkd.keys import Keys
from streamkd.store.collection import open_store
from streamkd.store.creation import create_store
from streamkd.store.writer import StoreWriter


@pytest.fixture
def path(tmp_path):
    return tmp_path / "teacher.h5"


@pytest.fixture
def reference(tmp_path):
    """Returns the bytes of a store of ten images that nothing disturbed."""
    helpers.teach(tmp_path / "reference.h5")
    data = (tmp_path / "reference.h5").read_bytes()
    (tmp_path / "reference.h5").unlink()
    return data


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([b"b", b"a"], "Key 1, 'a', follows 'b'"),
        ([b"a", b"a"], "Key 1, 'a', appears twice"),
        ([b"", b"a"], "Key 0, '', is empty"),
        ([b"/a", b"b"], "Key 0, '/a', is an absolute path"),
        ([b"a/../../b", b"b"], "leads out of the directory by a part '..'"),
        ([b"a\0b", b"b"], "has a NUL byte"),
        ([b"a" * 65_535, b"b" * 65_536], "has 65,536 bytes, more than any path"),
    ],
)
def test_keys_that_cannot_be_are_refused(path, names, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        create_store(path, helpers.header_of(2), Keys.from_list(names), np.zeros(2, int))
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "keys: 2, labels: 3, num_images: 2"),
        ([0, 4], "The label of 'class2/0001.png' is 4, and there are 4 classes"),
        ([-2, 0], "is -2"),
        ([0.5, 1], "labels are float64"),
    ],
)
def test_labels_that_cannot_be_are_refused(path, labels, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        create_store(path, helpers.header_of(2), helpers.keys_of(2), np.array(labels))


def test_an_existing_path_is_left_alone(path):
    path.write_text("precious")
    with pytest.raises(StoreError, match="exists already; it was left as it is"):
        helpers.create(path)
    assert path.read_text() == "precious"


def test_a_path_that_appears_during_creation_is_left_alone(path, monkeypatch):
    monkeypatch.setattr(os.path, "lexists", lambda _path: False)
    path.write_text("precious")
    with pytest.raises(StoreError, match="exists already; it was left as it is"):
        helpers.create(path)
    assert path.read_text() == "precious"
    assert os.listdir(path.parent) == [path.name]


def test_a_file_system_without_hard_links_will_do(path, monkeypatch):
    def no_links(*_args):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    helpers.teach(path)
    assert open_store(path).finished
    with pytest.raises(StoreError, match="exists already"):
        helpers.create(path)


def test_a_file_system_without_fallocate_will_do(path, monkeypatch, reference):
    def unsupported(*_args):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    helpers.teach(path)
    assert path.read_bytes() == reference


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_are_not(path):
    dead, alive = (path.with_name(f".teacher.h5.{pid}.tmp") for pid in (4_000_001, 4_000_002))
    other = path.with_name(".another.h5.4000001.tmp")
    for leftover in (dead, alive, other):
        leftover.write_text("x")
    with alive.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        helpers.create(path)
    assert sorted(os.listdir(path.parent)) == sorted([alive.name, other.name, path.name])


def test_a_directory_that_is_not_there_is_refused_in_one_message(tmp_path):
    with pytest.raises(OutputError, match=r"Cannot write .*absent/s.h5: No such file or directory"):
        helpers.create(tmp_path / "absent" / "s.h5")


def test_a_directory_that_cannot_be_written_is_refused_in_one_message(path, monkeypatch):
    real = os.open

    def read_only(name, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(name, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OutputError, match=r"Cannot write .*: Read-only file system"):
        helpers.create(path)
    monkeypatch.undo()
    helpers.create(path)
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OutputError, match=r"Read-only file system\.\nPut the store where you may"):
        StoreWriter(path)


def test_blocks_never_split_an_image(path):
    helpers.create(path, 10, num_views=2)
    with StoreWriter(path) as writer:
        assert writer.num_blocks == 4
        assert [writer.images_of_block(b) for b in (0, 3)] == [range(3), range(9, 10)]
        assert [writer.rows_of_block(b) for b in (0, 3)] == [range(6), range(18, 20)]
        pending = writer.pending_blocks()
        assert pending.dtype == np.int64 and pending.tolist() == [0, 1, 2, 3]
        with pytest.raises(IndexError, match="block 4 of 4"):
            writer.images_of_block(4)


def test_blocks_in_any_order_and_over_several_sessions_give_the_same_bytes(path, reference):
    helpers.create(path)
    for block in (2, 0, 3, 1):
        with StoreWriter(path) as writer:
            assert block in writer.pending_blocks()
            logits = helpers.logits_of(writer.rows_of_block(block), 4)
            content = helpers.content_of(writer.images_of_block(block))
            writer.write_block(block, logits, content)
    helpers.fill(path)
    assert path.read_bytes() == reference
    helpers.fill(path)
    assert path.read_bytes() == reference


@pytest.mark.parametrize(
    ("logits", "content", "message"),
    [
        (np.zeros((3, 5), "f4"), np.zeros(3, "u8"), "logits of this block are float32[3, 5]"),
        (np.zeros((2, 4), "f4"), np.zeros(3, "u8"), "must be [3, 4]"),
        (np.zeros((3, 4), "i8"), np.zeros(3, "u8"), "logits of this block are int64"),
        (np.zeros((3, 4), "f4"), np.zeros(1, "u8"), "content_digests of this block are uint64[1]"),
    ],
)
def test_arrays_of_another_shape_are_refused(path, logits, content, message):
    helpers.create(path)
    with StoreWriter(path) as writer, pytest.raises(OptionError, match=re.escape(message)):
        writer.write_block(0, logits, content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": None, "scale": 1}, r"This block has scale, and a row of .* needs logits\."),
        (
            {"logits": np.zeros((3, 4), "<f4")},
            r"float32\[3, 4\], and must be <f2\[3, 4\]\.\nGive rows",
        ),
        ({"logits": np.zeros((2, 4), "<f2")}, r"float16\[2, 4\], and must be <f2\[3, 4\]"),
    ],
    ids=["other datasets", "other type", "other shape"],
)
def test_stored_rows_of_another_codec_are_refused(path, changes, message):
    helpers.create(path)
    stored = {name: value for name, value in changes.items() if value is not None}
    with StoreWriter(path) as writer, pytest.raises(OptionError, match=message):
        writer.write_stored(0, stored, helpers.content_of(range(3)), np.zeros(3, bool))


@pytest.mark.parametrize(
    ("codec", "value", "message"),
    [
        ("float16", np.nan, "hold nan"),
        ("float32", -np.inf, "hold -inf"),
        ("float16", 65505, "codec float16 holds finite numbers up to 65504"),
        ("float16", -1e6, "Give `--codec float32`"),
        ("float32", 1e300, "hold inf"),
    ],
)
def test_logits_that_the_codec_cannot_hold_are_refused_by_key(path, codec, value, message):
    helpers.create(path, num_views=2, codec=codec)
    logits = helpers.logits_of(range(6), 4).astype(float)
    logits[3, 2] = value
    with StoreWriter(path) as writer:
        with pytest.raises(NonFiniteError, match=r"'class0/0001.png', view 1") as info:
            writer.write_block(0, logits, helpers.content_of(range(3)))
        assert message in str(info.value)
        assert info.value.key == b"class0/0001.png"
        assert writer.pending_blocks().tolist() == [0, 1, 2, 3]


def test_a_block_that_is_done_is_not_written_again(path, reference):
    helpers.teach(path)
    with (
        StoreWriter(path) as writer,
        pytest.raises(StoreError, match=r"Block 1 .* is done already"),
    ):
        writer.write_block(1, np.zeros((3, 4), "f4"), np.zeros(3, "u8"))
    assert path.read_bytes() == reference


def test_a_store_with_missing_rows_is_not_finished(path):
    helpers.create(path)
    helpers.fill(path, num_blocks=1)
    with StoreWriter(path) as writer, pytest.raises(UnfinishedStoreError, match="7 of 10 rows"):
        writer.finish({})
    assert not open_store(path).finished


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ({"x": "y" * 5000}, "The summary takes 5,009 bytes"),
        ({"x": float("nan")}, "must be JSON"),
    ],
)
def test_a_summary_that_does_not_fit_is_refused(path, summary, message):
    helpers.teach(path)
    with StoreWriter(path) as writer, pytest.raises(OptionError, match=message):
        writer.finish(summary)
    assert open_store(path).finished


@pytest.mark.parametrize("name", ["logits", "content", "row_crc32", "done"])
def test_a_block_with_a_flipped_bit_is_taught_again(path, name, reference):
    helpers.teach(path)
    start, num_bytes = helpers.extents_of(path)[name]
    helpers.flip_bit(path, start + num_bytes // 2, bit=1)
    with StoreWriter(path) as writer:
        assert writer.pending_blocks().tolist() == [1]
    assert not open_store(path).finished
    helpers.fill(path)
    assert path.read_bytes() == reference


def test_damaged_keys_are_refused_before_rows_are_written_under_them(path):
    helpers.create(path)
    helpers.flip_bit(path, helpers.extents_of(path)["key_bytes"][0])
    with pytest.raises(DamagedStoreError, match="dataset 'key_bytes' does not have its digest"):
        StoreWriter(path)


def test_a_lock_file_that_nobody_holds_is_no_hindrance(path):
    helpers.create(path)
    path.with_name("teacher.h5.lock").touch()
    helpers.fill(path)
    assert open_store(path).finished


def test_a_lock_file_removed_by_the_writer_before_is_not_relied_on(path, monkeypatch):
    helpers.create(path)
    real, removed = fcntl.flock, []

    def flock_late(descriptor, kind):
        if not removed:  # between our open and our lock, the writer before us went away
            removed.append(True)
            os.unlink(f"{path}.lock")
        real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with StoreWriter(path):
        monkeypatch.undo()
        with pytest.raises(StoreBusyError, match="Another process is writing"):
            StoreWriter(path)


@pytest.mark.parametrize("name", ["pwrite", "fdatasync"])
def test_interrupted_writes_and_syncs_are_repeated(path, reference, name, monkeypatch):
    real, calls = getattr(os, name), []

    def interrupted_at_first(*args):
        calls.append(name)
        if len(calls) % 2:
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        return real(*args)

    monkeypatch.setattr(os, name, interrupted_at_first)
    helpers.teach(path)
    assert path.read_bytes() == reference and len(calls) > 10


def test_after_a_failed_write_the_writer_wants_to_be_opened_again(path):
    helpers.create(path)
    arguments = (helpers.logits_of(range(3), 4), helpers.content_of(range(3)))
    with StoreWriter(path) as writer:
        with pytest.MonkeyPatch.context() as patch:
            helpers.FaultyDisk(1, fault_helpers.fail_with(errno.EIO)).install(patch.setattr)
            with pytest.raises(OutputError, match="0 of 10 rows are safe; the same command"):
                writer.write_block(0, *arguments)
        with pytest.raises(StoreError, match="open it again"):
            writer.write_block(0, *arguments)


def test_a_full_disk_shows_at_creation_with_the_bytes_needed(path, monkeypatch):
    def full(_descriptor, _offset, num_bytes):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFullError, match=r"(?s)needed: \d{3},\d{3} bytes.*free: +[\d,]+ bytes"):
        helpers.create(path)
    assert os.listdir(path.parent) == []


LIMITED = """
import resource, sys
import store_helpers as helpers
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
try:
    helpers.create(sys.argv[1])
except OSError as error:
    print(error)
"""


def test_a_limit_on_the_size_of_files_is_a_message_not_a_crash(path):
    out, _ = finished("-c", LIMITED, path)
    assert "File too large" in out and "needed:" in out
    assert os.listdir(path.parent) == []
