"""Files are checked before they are believed: stores are plain HDF5, and others are refused."""

import mmap
import os
import random
import re
import time

import h5py
import numpy as np
import pytest
import store_helpers as helpers

from streamkd.errors import DamagedStoreError, OptionError, StoreError
from streamkd.store import userblock
from streamkd.store.collection import open_store
from streamkd.store.layout import StoreHeader


@pytest.fixture
def path(tmp_path):
    return tmp_path / "teacher.h5"


def test_the_file_is_plain_hdf5_of_the_first_superblock(path):
    helpers.teach(path)
    data = path.read_bytes()
    assert data.startswith(b"streamkd logit store 1 ")
    assert data[4096:4105] == b"\x89HDF\r\n\x1a\n\x00"
    with h5py.File(path, "r") as file:
        assert file.userblock_size == 4096
        assert all(file[n].chunks is None and file[n].compression is None for n in file)
        assert all(file[n].id.get_offset() % 4096 == 0 for n in file)


def test_a_store_without_class_names_is_a_store(path):
    header = helpers.header_of(3)
    helpers.create_store(path, header, helpers.keys_of(3), np.full(3, -1))
    store = open_store(path)
    assert store.class_names == [] and store.labels.tolist() == [-1] * 3


def test_two_stores_made_alike_are_equal_to_the_byte(tmp_path):
    helpers.teach(tmp_path / "a.h5")
    helpers.teach(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.slow
def test_stores_of_different_seconds_are_equal_to_the_byte(tmp_path):
    helpers.teach(tmp_path / "a.h5")
    time.sleep(1.1)
    helpers.teach(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 0}, "num_images is 0; it must be a positive whole number"),
        ({"num_classes": 2.5}, "num_classes is 2.5"),
        ({"codec": "float8"}, "no codec 'float8'; choose one of float16, float32"),
        ({"num_views": 2, "block_rows": 3}, "block_rows is 3 and num_views is 2"),
        ({"views": {"count": 8}}, "has 8 views"),
        ({"fingerprint": ""}, "fingerprint is ''"),
        ({"decoder": "a\0b"}, "decoder is"),
        ({"teacher": {"x": object()}}, "teacher cannot be stored as JSON"),
        ({"teacher": {"x": float("nan")}}, "teacher cannot be stored as JSON"),
        ({"versions": {"x": "y" * 70_000}}, "versions takes 70,009 bytes"),
    ],
)
def test_a_header_that_cannot_be_is_refused(changes, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        helpers.header_of(**changes)


def test_a_header_survives_its_attributes():
    header = helpers.header_of(images={"image_size": (8, 9)}, decoder="décodeur")
    attributes = {name: value.item() for name, value in header.to_attributes().items()}
    assert StoreHeader.from_attributes(attributes) == header
    assert header.images == {"image_size": [8, 9]}


def _write(content):
    return lambda path: path.write_bytes(content)


def _plain_hdf5(path):
    with h5py.File(path, "w") as file:
        file["logits"] = np.zeros((2, 3))


def _hdf5_with_a_userblock(path):
    with h5py.File(path, "w", userblock_size=4096) as file:
        file["logits"] = np.zeros((2, 3))


def _later_version(path):
    helpers.teach(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"streamkd logit store 1 ", b"streamkd logit store 2 ", 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file.\nMake it with `streamkd teach"),
        (lambda path: path.mkdir(), "it is a directory"),
        (lambda path: os.mkfifo(path), "it is not a regular file"),
        (_write(b""), "it is an empty file"),
        (_write(b"\x93NUMPY"), "it is an array of NumPy"),
        (_write(b"no store"), "neither HDF5 nor a store"),
        (_write(bytes(10_000)), "neither HDF5 nor a store"),
        (_plain_hdf5, "an HDF5 file without the first line of a store"),
        (_hdf5_with_a_userblock, "an HDF5 file without the first line of a store"),
        (_later_version, "store of format version 2, and this version of streamkd reads version 1"),
    ],
)
def test_a_file_that_is_no_store_is_refused_by_its_kind(path, make, message):
    make(path)
    with pytest.raises(StoreError, match=re.escape(message)) as info:
        open_store(path)
    assert str(path) in str(info.value)
    assert not isinstance(info.value, DamagedStoreError)


def test_a_store_that_may_not_be_read_is_refused(path, monkeypatch):
    helpers.teach(path)

    def forbidden(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(StoreError, match="cannot be opened for reading: Permission denied"):
        open_store(path)


def test_any_flipped_bit_outside_the_datasets_is_refused_before_hdf5_sees_it(path, monkeypatch):
    helpers.teach(path)
    data, block = bytearray(path.read_bytes()), userblock.parse("", path.read_bytes())
    ranges = [(0, 4096), *userblock.metadata_ranges(block.file_size, block.extents)]
    offsets = [offset for start, end in ranges for offset in range(start, end)]
    random.Random(0).shuffle(offsets)

    def seen(*_args, **_kwargs):
        raise AssertionError("HDF5 was given a damaged file")

    monkeypatch.setattr(h5py, "File", seen)
    with open(path, "r+b") as file:
        for offset in [*range(0, 2500, 5), *offsets[:1000]]:
            os.pwrite(file.fileno(), bytes([data[offset] ^ (1 << offset % 8)]), offset)
            with pytest.raises(StoreError, match=r"damaged|format version"):
                open_store(path)
            os.pwrite(file.fileno(), bytes([data[offset]]), offset)


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (1, "neither HDF5 nor a store"),
        (20, "its first line is not that of a store"),
        (700, "its userblock does not have its digest"),
        (4095, "it ends after 4,095 bytes"),
        (4096, "it has 4,096 bytes and was written with"),
        (4100, "it has 4,100 bytes and was written with"),
        (9000, "it has 9,000 bytes and was written with"),
        (-4096, "bytes and was written with"),
        (-1, "bytes and was written with"),
        (None, "bytes and was written with"),
    ],
)
def test_a_file_of_another_length_is_refused(path, length, words):
    helpers.teach(path)
    data = path.read_bytes()
    path.write_bytes(data + b"\0" if length is None else data[:length])
    with pytest.raises(StoreError, match=words):
        open_store(path)


@pytest.mark.parametrize("is_large", [True, False])
def test_only_a_store_larger_than_half_the_memory_is_read_without_read_ahead(
    path, monkeypatch, is_large
):
    helpers.teach(path)
    memory = os.path.getsize(path) * (1 if is_large else 4)
    sizes = {"SC_PHYS_PAGES": memory // 256, "SC_PAGE_SIZE": 256}
    advised = []

    class Mapped(mmap.mmap):
        def madvise(self, advice, *_range):
            advised.append(advice)

    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(mmap, "mmap", Mapped)
    assert open_store(path).gather(np.arange(10)).shape == (10, 4)
    assert advised == [mmap.MADV_RANDOM] * is_large
    monkeypatch.delattr(mmap, "MADV_RANDOM")  # not every system has that advice
    assert open_store(path).gather(np.arange(10)).shape == (10, 4)
