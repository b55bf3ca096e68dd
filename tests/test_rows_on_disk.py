"""Logits that stay in the file they came in, while another program changes the file."""

import os

import h5py
import numpy as np
import pytest
from helpers import draw_directory

import streamkd as kd
from streamkd.errors import OptionError
from streamkd.teachers import logits_files, parquet_logits
from streamkd.teachers.logits_files import read_logits
from streamkd.teachers.rows_on_disk import RowsOnDisk

LOGITS = np.random.default_rng(3).normal(size=(3000, 7))


def written(folder, kind, logits=LOGITS):
    """Writes the logits as a file of one kind; returns its path."""
    path = folder / f"logits.{'h5' if kind == 'hdf5' else 'npy'}"
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            file["logits"] = logits
    else:
        np.save(path, np.asfortranarray(logits) if kind == "by columns" else logits)
    return path


KINDS = ["npy", "by columns", "hdf5"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_rows_are_those_of_the_array(tmp_path, kind, dtype):
    logits = LOGITS.astype(dtype)
    array = read_logits(written(tmp_path, kind, logits), with_keys=False).logits
    assert isinstance(array, RowsOnDisk)
    assert (len(array), array.shape, array.dtype) == (3000, (3000, 7), np.dtype(dtype))
    chance = np.random.default_rng(0)
    for rows in (
        np.arange(0),
        np.arange(40, 90),
        np.array([5, 6, 6, 7, 8, 2, 1, 2999, 0, 1]),
        chance.permutation(3000),
        np.repeat(chance.integers(0, 3000, 9), 3),
    ):
        np.testing.assert_array_equal(array[rows], logits[rows])
    np.testing.assert_array_equal(array, logits)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_short_while_it_is_read_is_refused(tmp_path, kind):
    path = written(tmp_path, kind)
    array, num_bytes = read_logits(path, with_keys=False).logits, path.stat().st_size
    os.truncate(path, 9000)
    with pytest.raises(
        OptionError,
        match=rf"The logits {path} were cut short to 9,000 of [\d,]+ bytes while they were read\."
        r"\nRestore the file, and give the same command again; it resumes\.",
    ):
        array[np.arange(3000)]
    assert num_bytes >= LOGITS.nbytes
    if kind != "by columns":  # of which every row lies in all parts of the file
        np.testing.assert_array_equal(array[np.arange(20)], LOGITS[:20])


@pytest.mark.parametrize("kind", KINDS)
def test_an_import_goes_on_when_the_file_is_whole_again(tmp_path, monkeypatch, kind):
    draw_directory(tmp_path / "images", {"ant": 20, "bee": 20}, size=(4, 4))
    images = kd.scan(tmp_path / "images")
    path = written(tmp_path, kind, LOGITS[:40, :2])
    whole, read, calls = path.read_bytes(), RowsOnDisk.__getitem__, []

    def cut_in_the_fourth_call(self, rows):
        calls.append(len(rows))
        if len(calls) == 4:
            os.truncate(path, 400)
        return read(self, rows)

    def run():
        keys = [os.fsdecode(key) for key in images.keys]
        return kd.import_logits(
            path, keys, images, tmp_path / "s.h5", batch_size=16, progress=False, output="logits"
        )

    with monkeypatch.context() as patch:
        patch.setattr(RowsOnDisk, "__getitem__", cut_in_the_fourth_call)
        with pytest.raises(OptionError, match=r"cut short to 400 of [\d,]+ bytes"):
            run()
    path.write_bytes(whole)
    assert 0 < kd.open_store(tmp_path / "s.h5").rows_done < 40
    store = run()
    np.testing.assert_allclose(store.gather(np.arange(40)), LOGITS[:40, :2], atol=0.01)


def test_a_disk_that_fails_is_named(tmp_path, monkeypatch):
    array = read_logits(written(tmp_path, "npy"), with_keys=False).logits

    def fail(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(
        OptionError, match=r"npy cannot be read: Input/output error\.\nLook at the disk \(`dmesg`\)"
    ):
        array[np.arange(3)]


@pytest.mark.parametrize(
    ("shape", "words"),
    [("(3000, 8)", r"it has 168,128 bytes, and its numbers end at 192,128"), ("(-1, 7)", r"shape")],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, shape, words):
    path = written(tmp_path, "npy")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(3000, 7)", shape.ljust(9).encode(), 1))
    with pytest.raises(OptionError, match=words):
        read_logits(path, with_keys=False)


def test_the_descriptor_is_given_back(tmp_path):
    path = written(tmp_path, "npy")
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    for _ in range(5):
        read_logits(path, with_keys=False)
    assert len(os.listdir("/proc/self/fd") if before else []) == len(before)


def chunked(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("logits", data=LOGITS, chunks=(100, 7), compression="gzip")


def beside_texts(path):
    with h5py.File(path, "w") as file:
        file["logits"], file["keys"] = LOGITS, np.array([b"%0200d" % row for row in range(3000)])


def parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({f"c{number}": LOGITS[:, number] for number in range(7)})
    pyarrow.parquet.write_table(table, path, row_group_size=100)


@pytest.mark.parametrize(
    ("write", "name"),
    [(chunked, "l.h5"), (beside_texts, "l.h5"), (parquet, "l.parquet")],
    ids=["chunks", "texts", "parquet"],
)
def test_a_file_that_is_cut_short_between_look_and_reading_is_refused(
    tmp_path, monkeypatch, write, name
):
    path = tmp_path / name
    write(path)
    choose, size = logits_files.choose_logits, path.stat().st_size

    def cut(*args):
        os.truncate(path, size // 3)

    def cut_and_choose(*args):
        cut()
        return choose(*args)

    if name == "l.h5":
        monkeypatch.setattr(logits_files, "choose_logits", cut_and_choose)
    else:
        monkeypatch.setattr(parquet_logits, "try_in_child", cut)
    with pytest.raises(OptionError, match=rf"The logits {path} cannot be read: "):
        read_logits(path)
