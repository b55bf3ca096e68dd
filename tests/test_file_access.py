"""File systems without locks, maps, links or reserved space: a way on, or a refusal by name."""

import errno
import fcntl
import json
import mmap
import os
import sys

import numpy as np
import pytest
import store_helpers as helpers
from helpers import draw_directory, encoded_logits, pixel_numbers, teach_small
from process_helpers import finished

import streamkd as kd
from streamkd import disk
from streamkd.cli.main import main
from streamkd.errors import OutputError, StoreBusyError, UnsupportedSystemError
from streamkd.manifest.manifest import scan
from streamkd.runs.run_directory import RunDirectory
from streamkd.store.collection import open_store
from streamkd.store.store_file import StoreFile
from streamkd.store.verify_file import verify_store
from streamkd.store.writer import StoreWriter

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, 524)


def answering(number):
    """A call of the system that always ends with an error."""

    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture
def images(tmp_path):
    draw_directory(tmp_path / "images", {"ant": 3, "bee": 3})
    return scan(tmp_path / "images")


def teacher(pixels):
    numbers = pixel_numbers(pixels)
    return encoded_logits(numbers[:, 0], numbers[:, 1], 2)


class TestLocks:
    @pytest.mark.parametrize("number", NO_LOCKS)
    def test_a_store_that_cannot_be_locked_is_refused_with_a_way_on(
        self, images, tmp_path, monkeypatch, number
    ):
        monkeypatch.setattr(fcntl, "flock", answering(number))
        path = tmp_path / "s.h5"
        with pytest.raises(OutputError) as caught:
            teach_small(images, teacher, path)
        assert str(caught.value) == (
            f"{path} cannot be locked: the call `flock` answers '{os.strerror(number)}'.\n"
            "Give an output on a local disk; or add `--no-lock`, and see to it that no other "
            "process writes the same."
        )
        with kd.file_settings(locks=False), pytest.warns(kd.StreamkdWarning) as warned:
            store = teach_small(images, teacher, path)
        assert [w.message.code for w in warned] == ["not_locked"]
        assert "s.h5 is not locked (`--no-lock`). A second process" in str(warned[0].message)
        assert store.rows_done == 6 and verify_store(path).sound

    @pytest.mark.parametrize("number", NO_LOCKS)
    def test_a_run_directory_too(self, tmp_path, monkeypatch, number):
        monkeypatch.setattr(fcntl, "flock", answering(number))
        with pytest.raises(OutputError, match=r"run cannot be locked: .*`flock`[\s\S]*--no-lock"):
            RunDirectory(tmp_path / "run").prepare()
        with (
            kd.file_settings(locks=False),
            pytest.warns(kd.StreamkdWarning, match="is not locked"),
        ):
            RunDirectory(tmp_path / "run").prepare()

    def test_stores_are_read_without_locks(self, tmp_path, monkeypatch):
        helpers.teach(tmp_path / "s.h5")
        monkeypatch.setattr(fcntl, "flock", answering(errno.ENOLCK))
        assert verify_store(tmp_path / "s.h5").sound

    def test_another_writer_is_still_noticed_where_locks_are(self, tmp_path):
        helpers.create(tmp_path / "s.h5")
        with (
            StoreWriter(tmp_path / "s.h5"),
            pytest.raises(StoreBusyError, match="Another process is writing"),
        ):
            StoreWriter(tmp_path / "s.h5")

    def test_a_lock_file_that_is_a_link_is_not_followed(self, tmp_path):
        helpers.create(tmp_path / "s.h5")
        os.symlink(tmp_path / "elsewhere", tmp_path / "s.h5.lock")
        with pytest.raises(OutputError, match=r"Cannot write .*s\.h5"):
            StoreWriter(tmp_path / "s.h5")
        assert not (tmp_path / "elsewhere").exists()

    def test_the_setting_ends_with_its_block(self, tmp_path):
        with pytest.raises(ZeroDivisionError), kd.file_settings(store_io="pread", locks=False):
            raise ZeroDivisionError
        helpers.teach(tmp_path / "s.h5")
        assert open_store(tmp_path / "s.h5").io == "mmap"
        with kd.file_settings(store_io="pread"), kd.file_settings():
            assert open_store(tmp_path / "s.h5").io == "pread"
        with pytest.raises(kd.StreamkdError, match="store_io is 'dma'; choose one of mmap, pread"):
            kd.file_settings(store_io="dma").__enter__()


class TestMaps:
    @pytest.mark.parametrize("number", [errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP])
    def test_a_store_that_cannot_be_mapped_is_read_by_calls(self, tmp_path, monkeypatch, number):
        helpers.teach(tmp_path / "s.h5")
        expected = open_store(tmp_path / "s.h5").gather(np.arange(10))
        monkeypatch.setattr(mmap, "mmap", answering(number))
        store = open_store(tmp_path / "s.h5")
        assert store.io == "pread"
        np.testing.assert_array_equal(store.gather(np.arange(10)), expected)

    def test_no_memory_for_a_map_is_said(self, tmp_path, monkeypatch):
        helpers.teach(tmp_path / "s.h5")
        monkeypatch.setattr(mmap, "mmap", answering(errno.ENOMEM))
        with pytest.raises(kd.StreamkdError, match="cannot be read: Cannot allocate memory"):
            StoreFile(tmp_path / "s.h5")

    @pytest.mark.parametrize("command", ["verify", "inspect", "merge", "plan"])
    def test_commands_read_as_told(self, images, tmp_path, monkeypatch, command, capsys):
        path = tmp_path / "s.h5"
        teach_small(images, teacher, path)
        monkeypatch.setattr(mmap, "mmap", answering(errno.EIO))  # would be refused
        words = {
            "verify": ["verify", str(path), "--images", str(tmp_path / "images")],
            "inspect": ["inspect", str(path)],
            "merge": ["merge", str(path), "--out", str(tmp_path / "m.h5")],
            "plan": ["plan", str(tmp_path / "images"), "--store", str(path)],
        }[command]
        assert main([*words, "--quiet", "--json"]) == 2
        assert "Input/output error" in json.loads(capsys.readouterr().out)["error"]["message"]
        assert main([*words, "--quiet", "--json", "--store-io", "pread"]) == 0


class TestStoresThatAreCutShort:
    """A copy over a store that is in use: reading its map would end the process with SIGBUS."""

    @pytest.mark.parametrize("read", ["gather", "content_of", "view_parameters", "done_of"])
    def test_rows_that_were_read_before_are_refused_too(self, tmp_path, read):
        helpers.teach(tmp_path / "s.h5", 40)
        store = open_store(tmp_path / "s.h5")
        store.gather(np.arange(40))
        os.truncate(tmp_path / "s.h5", 4096)
        if read == "view_parameters":
            assert store.view_parameters(np.arange(40)) == {}  # plain views have none
            return
        with pytest.raises(kd.StreamkdError, match=r"it was cut short to 4,096 of [\d,]+ bytes"):
            getattr(store, read)(np.arange(40))


class TestOtherCalls:
    def test_a_planted_link_is_no_leftover(self, tmp_path):
        (tmp_path / "precious").write_bytes(b"precious")
        os.symlink(tmp_path / "precious", tmp_path / ".s.h5.1.tmp")
        os.mkfifo(tmp_path / ".s.h5.2.tmp")
        helpers.teach(tmp_path / "s.h5")
        assert (tmp_path / "precious").read_bytes() == b"precious"
        assert verify_store(tmp_path / "s.h5").sound

    def test_without_hard_links_a_store_gets_its_name(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "link", answering(errno.EPERM))
        helpers.teach(tmp_path / "s.h5")
        assert verify_store(tmp_path / "s.h5").sound

    @pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
    def test_without_reserved_space_zeros_are_written(self, tmp_path, monkeypatch, number):
        monkeypatch.setattr(os, "posix_fallocate", answering(number))
        helpers.teach(tmp_path / "s.h5")
        assert verify_store(tmp_path / "s.h5").sound
        (tmp_path / "f").write_bytes(b"abc")
        with (tmp_path / "f").open("r+b") as file:
            disk.reserve(file.fileno(), 10, start=3)
        assert (tmp_path / "f").read_bytes() == b"abc" + bytes(7)


class TestOtherSystems:
    """A Python without `fcntl`, as on Windows."""

    WORDS = (
        "streamkd cannot run here: this Python has no module `fcntl`, as on Windows.\n"
        "Run it on Linux, macOS or WSL (Windows Subsystem for Linux)."
    )

    @pytest.fixture(autouse=True)
    def _no_fcntl(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "fcntl", None)

    @pytest.mark.parametrize("words", ["scan d", "inspect s.h5", "train d --out r", "--version"])
    def test_commands_say_where_streamkd_runs(self, words, capsys):
        assert main([*words.split(), "--json"]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["code"] == "unsupported_system"
        assert error["message"] == self.WORDS

    def test_python_says_it_too(self):
        with pytest.raises(UnsupportedSystemError, match="Linux, macOS or WSL"):
            kd.__getattr__("open_store")


def test_the_package_is_imported_without_fcntl():
    script = "import sys; sys.modules['fcntl'] = None; import streamkd.cli.main as m; m.run()"
    _, errors = finished("-c", script, "scan", "d", code=2)
    assert "Linux, macOS or WSL" in errors and "Traceback" not in errors
