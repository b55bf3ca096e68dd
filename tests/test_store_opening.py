"""What is refused before a store is believed, and in which words."""

import dataclasses
import os
import random
import re
import shutil
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import store_helpers as helpers

from streamkd.errors import DamagedStoreError, OptionError, StoreError
from streamkd.store import userblock
from streamkd.store.collection import open_store
from streamkd.store.layout import DatasetSpec, StoreHeader


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
        (_write(b"\x93NUMPY"), "neither HDF5 nor a store"),
        (_write(bytes(10_000)), "neither HDF5 nor a store"),
        (_plain_hdf5, "an HDF5 file without the first line of a store"),
        (_hdf5_with_a_userblock, "an HDF5 file without the first line of a store"),
        (_later_version, "format version 2, and this version of streamkd reads version 1"),
    ],
)
def test_what_is_no_store_is_refused_by_what_it_is(path, make, message):
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


@pytest.mark.parametrize("length", [1, 20, 700, 4095, 4096, 4100, 9000, -4096, -1, None])
def test_a_file_of_another_length_is_refused(path, length):
    helpers.teach(path)
    data = path.read_bytes()
    path.write_bytes(data + b"\0" if length is None else data[:length])
    with pytest.raises(StoreError, match=r"damaged|neither HDF5"):
        open_store(path)


def _external(file, spec):
    secret = os.path.join(os.path.dirname(file.filename), "secret")
    with open(secret, "wb") as other:
        other.write(bytes(range(80)))
    file.create_dataset("content", spec.shape, spec.dtype, external=[(secret, 0, spec.num_bytes)])


def _virtual(file, spec):
    layout = h5py.VirtualLayout(spec.shape, spec.dtype)
    layout[:] = h5py.VirtualSource("absent.h5", "content", spec.shape)
    file.create_virtual_dataset("content", layout)


def _soft_link(file, spec):
    file["content"] = h5py.SoftLink("/key_hash")


def _hard_link(file, spec):
    file["content"] = file["key_hash"]


def _external_link(file, spec):
    file["content"] = h5py.ExternalLink("/etc/passwd", "/x")


def _filtered(file, spec):
    file.create_dataset("content", data=np.zeros(spec.shape, spec.dtype), compression="gzip")


def _chunked(file, spec):
    file.create_dataset("content", data=np.zeros(spec.shape, spec.dtype), chunks=True)


def _compact(file, spec):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space, kind = h5py.h5s.create_simple(spec.shape), h5py.h5t.py_create(np.dtype(spec.dtype))
    h5py.h5d.create(file.id, b"content", kind, space, dcpl=properties)


def _plain(file, spec, name="content", **changes):
    values = {"shape": spec.shape, "dtype": spec.dtype, **changes}
    file.create_dataset(name, data=np.zeros(values["shape"], values["dtype"]))


def _and_another(file, spec):
    _plain(file, spec)
    _plain(file, spec, name="more")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_external, "'content' is external: it lies in another file"),
        (_virtual, "'content' is virtual: it lies in other files"),
        (_soft_link, "'content' is a link"),
        (_external_link, "'content' is a link"),
        (_hard_link, "'content' does not lie where the userblock says"),
        (_filtered, "'content' is not contiguous"),
        (_chunked, "'content' is not contiguous"),
        (_compact, "'content' is not contiguous"),
        (lambda file, spec: file.create_group("content"), "'content' is not a dataset"),
        (lambda file, spec: None, "it lacks the dataset: 'content'"),
        (lambda f, s: _plain(f, s, dtype=">u8"), "'content' is >u8[10], expected <u8[10]"),
        (lambda f, s: _plain(f, s, shape=(5, 2)), "'content' is <u8[5, 2], expected <u8[10]"),
        (lambda f, s: _plain(f, s), "'content' does not lie where the userblock says"),
        (_and_another, "it has a member that no store has: 'more'"),
    ],
)
def test_hostile_datasets_are_refused(path, make, message):
    helpers.hostile_store(path, "content", make)
    with pytest.raises(DamagedStoreError, match=re.escape(message)):
        open_store(path)


def test_extents_that_overlap_or_leave_the_file_are_refused(path):
    helpers.teach(path)
    block = userblock.parse("", path.read_bytes())
    cases = {
        "'content' overlaps the userblock": (0, 80),
        "'key_hash' overlaps dataset 'content'": block.extents["key_hash"],
        "'content' ends outside the file": (block.file_size, 80),
        "'content' has 8 bytes where its shape needs 80": (block.extents["content"][0], 8),
    }
    for message, extent in cases.items():
        damaged = path.with_name("damaged.h5")
        shutil.copy(path, damaged)
        helpers.forge_userblock(damaged, extents={**block.extents, "content": extent})
        with pytest.raises(DamagedStoreError, match=message):
            open_store(damaged)


def test_shapes_that_differ_from_the_header_are_refused(path):
    helpers.teach(path)
    block = userblock.parse("", path.read_bytes())
    changes = {"content": DatasetSpec(dtype="<u4", shape=(20,))}
    helpers.forge_userblock(path, datasets={**block.datasets, **changes})
    with pytest.raises(DamagedStoreError, match="describe different datasets"):
        open_store(path)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"null", b'{"datasets":{},"extents":{}}', b"[" * 3000, b"\xff"],
)
def test_a_userblock_that_describes_no_store_is_refused(path, body):
    helpers.teach(path)
    line = b"streamkd logit store 1 " + userblock.digest(body).encode() + b"\n"
    with open(path, "r+b") as file:
        file.write((line + body + b"\n").ljust(4096, b"\0"))
    with pytest.raises(DamagedStoreError, match="its userblock does not describe a store"):
        open_store(path)


def test_attributes_of_variable_length_are_refused(path):
    def add_attribute(file, spec):
        _plain(file, spec)
        file.attrs["more"] = "text of variable length"

    helpers.hostile_store(path, "content", add_attribute)
    with pytest.raises(DamagedStoreError, match="attribute 'more' is neither a number nor a text"):
        open_store(path)


def test_headers_that_disagree_with_themselves_are_refused(path):
    def change_attribute(file, spec):
        _plain(file, spec)
        file.attrs["codec"] = np.bytes_(b"float8")

    helpers.hostile_store(path, "content", change_attribute)
    with pytest.raises(DamagedStoreError, match="no codec 'float8'"):
        open_store(path)


def test_a_frozen_header_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        helpers.header_of().codec = "float32"


def test_the_store_needs_no_tensorflow():
    rooms = "keys", "store.reader", "store.writer", "store.verify"
    script = "import sys, " + ", ".join(f"streamkd.{room}" for room in rooms)
    script += "; sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'tf_keras')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
