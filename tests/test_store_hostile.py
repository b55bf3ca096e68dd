"""Files made to harm whoever opens them: refused, quickly, and without a look at their targets.

Digests and userblocks fit, so that nothing but the structure of a file speaks against it.
"""

import json
import os
import re
import sys

import h5py
import numpy as np
import pytest
import store_helpers as helpers
from fault_helpers import Watch

from streamkd.errors import DamagedStoreError, StoreError
from streamkd.keys import Keys, hash_keys
from streamkd.store import checksums, creation, userblock
from streamkd.store.collection import open_store
from streamkd.store.layout import DatasetSpec
from streamkd.store.store_file import StoreFile
from streamkd.store.verify_file import verify_store
from streamkd.store.writer import StoreWriter

WATCHED = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the system tells nobody who opens a file"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.h5"


def target_of(file):
    """Returns the file that a hostile one points to."""
    return os.path.join(os.path.dirname(file.filename), "target")


def plain(file, spec, name="content", **changes):
    values = {"shape": spec.shape, "dtype": spec.dtype, **changes}
    file.create_dataset(name, data=np.zeros(values["shape"], values["dtype"]))


def external(file, spec):
    file.create_dataset(
        "content", spec.shape, spec.dtype, external=[(target_of(file), 0, spec.num_bytes)]
    )


def external_link(file, _spec):
    file["content"] = h5py.ExternalLink(target_of(file), "/content")


def virtual(file, spec):
    layout = h5py.VirtualLayout(spec.shape, spec.dtype)
    layout[:] = h5py.VirtualSource(target_of(file), "content", spec.shape)
    file.create_virtual_dataset("content", layout)


def soft_link(file, _spec):
    file["content"] = h5py.SoftLink("/key_hash")


def soft_link_loop(file, _spec):
    file["content"] = h5py.SoftLink("/content")


def hard_link(file, _spec):
    file["content"] = file["key_hash"]


def filtered(**options):
    return lambda file, spec: plain_filtered(file, spec, options)


def plain_filtered(file, spec, options):
    file.create_dataset("content", data=np.zeros(spec.shape, spec.dtype), chunks=True, **options)


def bomb(file, _spec):
    file.create_dataset("content", (16 << 20,), "u1", chunks=(16 << 20,), compression=9)
    file["content"][:] = 0


def compact(file, spec):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space, kind = h5py.h5s.create_simple(spec.shape), h5py.h5t.py_create(np.dtype(spec.dtype))
    h5py.h5d.create(file.id, b"content", kind, space, dcpl=properties)


def huge(file, spec):
    file.create_dataset("content", (1 << 50,), spec.dtype)


def many_dimensions(file, spec):
    file.create_dataset("content", (1,) * 30, spec.dtype)


def texts(file, spec):
    file.create_dataset("content", spec.shape, h5py.string_dtype())


def compound(file, spec):
    plain(file, spec, dtype=[("a", "<u4"), ("b", "<u4")])


def references(file, spec):
    file.create_dataset("content", spec.shape, h5py.ref_dtype)


def named_type(file, _spec):
    file["content"] = np.dtype("<u8")


def group(file, _spec):
    file.create_group("content")


def cycle(file, _spec):
    file["content"] = file["/"]


def and_another(name, make):
    def both(file, spec):
        plain(file, spec)
        make(file, name)

    return both


def attribute(name, value):
    def with_attribute(file, spec):
        plain(file, spec)
        file.attrs[name] = value

    return with_attribute


DATASETS = {
    "external storage": (external, "'content' is external: it lies in another file"),
    "external link": (external_link, "'content' is a link"),
    "virtual dataset": (virtual, "'content' is virtual: it lies in other files"),
    "soft link": (soft_link, "'content' is a link"),
    "soft link to itself": (soft_link_loop, "'content' is a link"),
    "hard link": (hard_link, "'content' does not lie where the userblock says"),
    "chunks": (filtered(), "'content' is not contiguous"),
    "gzip": (filtered(compression="gzip"), "'content' is not contiguous"),
    "gzip bomb": (bomb, "'content' is not contiguous"),
    "fletcher32": (filtered(fletcher32=True), "'content' is not contiguous"),
    "shuffle": (filtered(shuffle=True), "'content' is not contiguous"),
    "compact": (compact, "'content' is not contiguous"),
    "eight petabytes": (huge, "'content' is <u8[1125899906842624], expected <u8[10]"),
    "thirty dimensions": (many_dimensions, "'content' is <u8[1, 1, 1"),
    "texts of any length": (texts, "'content' is |O[10]"),
    "compound": (compound, "'content' is |V8[10]"),
    "references": (references, "'content' is |O[10]"),
    "other byte order": (
        lambda f, s: plain(f, s, dtype=">u8"),
        "'content' is >u8[10], expected <u8[10]",
    ),
    "other shape": (lambda f, s: plain(f, s, shape=(5, 2)), "'content' is <u8[5, 2], expected"),
    "other place": (plain, "'content' does not lie where the userblock says"),
    "named type": (named_type, "'content' is not a dataset"),
    "group": (group, "'content' is not a dataset"),
    "group that holds itself": (cycle, "'content' is not a dataset"),
    "nothing": (lambda _file, _spec: None, "it lacks the dataset: 'content'"),
    "another dataset": (
        and_another(
            "more", lambda file, name: plain(file, DatasetSpec(dtype="<u8", shape=(1,)), name)
        ),
        "it has a member that no store has: 'more'",
    ),
    "another group": (
        and_another("../../x", lambda file, name: file.create_group(name)),
        "it has a member that no store has: '..'",
    ),
    "another external link": (
        and_another("more", lambda f, n: f.__setitem__(n, h5py.ExternalLink(target_of(f), "/x"))),
        "it has a member that no store has: 'more'",
    ),
    "text of any length": (
        attribute("more", "text"),
        "attribute 'more' is neither a number nor a text",
    ),
    "attribute of 60,000 numbers": (
        attribute("more", np.zeros(60_000, "i1")),
        "attribute 'more' is neither a number nor a text",
    ),
    "reference": (attribute("more", h5py.Reference()), "attribute 'more' is neither"),
    "codec of 60,000 letters": (attribute("codec", np.bytes_(b"x" * 60_000)), "no codec 'xxx"),
    "no images": (attribute("num_images", np.int64(0)), "num_images is 0"),
    "fewer images": (attribute("num_images", np.int64(-5)), "num_images is -5"),
    "very many images": (attribute("num_images", np.int64(2**62)), "describe different datasets"),
    "very many views": (attribute("num_views", np.int64(2**40)), "num_views is 1099511627776"),
    "nesting": (attribute("teacher", np.bytes_(b"[" * 50_000)), "its attributes are not those"),
    "infinite number": (
        attribute("teacher", np.bytes_(b'{"a": 1e999}')),
        "its attributes are not those of a store (it holds the number 1e999, which is too large)",
    ),
    "NaN": (
        attribute("teacher", np.bytes_(b'{"a": NaN}')),
        "its attributes are not those of a store (it holds NaN, which is no number)",
    ),
    "number of 5,000 digits": (
        attribute("teacher", np.bytes_(b'{"a": %s}' % (b"9" * 5000))),
        "its attributes are not those of a store",
    ),
    "list": (attribute("teacher", np.bytes_(b"[1]")), "attribute 'teacher' is no JSON object"),
    "other format": (
        attribute("format", np.bytes_(b"zarr")),
        "attribute 'format' is not that of a store",
    ),
    "other version": (
        attribute("format_version", np.int64(2)),
        "attribute 'format_version' differs from the userblock",
    ),
    "no text": (attribute("decoder", np.bytes_(b"\xff\xfe")), "its attributes are not those"),
}


def refused(path, message):
    """Checks the refusal of a file."""
    with pytest.raises(StoreError) as info:
        open_store(path)
    assert message in str(info.value) and len(str(info.value)) < 1000


@WATCHED
@pytest.mark.parametrize("case", DATASETS)
def test_a_hostile_dataset_is_refused_and_its_target_not_opened(path, case):
    make, message = DATASETS[case]
    target = path.with_name("target")
    target.write_bytes(bytes(4096))
    helpers.hostile_store(path, "content", make)
    with Watch(target) as watch:
        watch.opened()  # h5py may have looked at it while it made the file
        refused(path, message)
        assert not watch.opened()
        assert not verify_store(path).sound
        assert not watch.opened()
        with pytest.raises(DamagedStoreError, match=re.escape(message)):
            StoreWriter(path)
        assert not watch.opened()


@WATCHED
@pytest.mark.parametrize("make", [external, external_link, virtual])
def test_plain_hdf5_does_open_the_target(path, make):
    # What the test above would see if we let HDF5 read such a dataset.
    target = path.with_name("target")
    with h5py.File(target, "w") as file:
        file["content"] = np.arange(10, dtype="<u8")
    helpers.hostile_store(path, "content", make)
    with Watch(target) as watch:
        watch.opened()
        with h5py.File(path, "r") as file:
            assert len(file["content"][:]) == 10
        assert watch.opened()


def _places(block):
    offset, size = block.extents["content"]
    header = {**block.datasets, "content": DatasetSpec(dtype="<u8", shape=(1 << 62,))}
    more = {**block.datasets, "more": DatasetSpec(dtype="|u1", shape=(0,))}
    dimensions = {**block.datasets, "content": DatasetSpec(dtype="<u8", shape=(1,) * 9)}
    fewer = {name: spec for name, spec in block.datasets.items() if name != "content"}
    other = {**block.datasets, "content": DatasetSpec(dtype="<u4", shape=(20,))}
    return {
        "in the userblock": ({"content": (0, 80)}, {}, "'content' overlaps the userblock"),
        "over each other": (
            {"content": block.extents["key_hash"]},
            {},
            "'key_hash' overlaps dataset 'content'",
        ),
        "half over each other": ({"content": (block.extents["labels"][0] + 8, 80)}, {}, "overlaps"),
        "behind the end": (
            {"content": (block.file_size, 80)},
            {},
            "'content' ends outside the file",
        ),
        "over the end": (
            {"summary": (block.extents["summary"][0] + 8, 4096)},
            {},
            "ends outside the file",
        ),
        "far away": ({"content": (1 << 62, 80)}, {}, "ends outside the file"),
        "too short": ({"content": (offset, 8)}, {}, "has 8 bytes where its shape needs 80"),
        "elsewhere": ({"content": (offset + 8, size)}, {}, "does not lie where the userblock"),
        "huge": ({"content": (offset, 1 << 64)}, {"datasets": header}, "not describe a store"),
        "nine dimensions": ({}, {"datasets": dimensions}, "does not describe a store"),
        "no place": ({}, {"datasets": more}, "does not describe a store"),
        "no dataset": ({}, {"datasets": fewer}, "does not describe a store"),
        "longer": ({}, {"file_size": block.file_size + 1}, "and was written with"),
        "shorter": ({}, {"file_size": block.file_size - 1}, "and was written with"),
        "other shape of as many bytes": ({}, {"datasets": other}, "describe different datasets"),
        "no digests": ({}, {"static_digests": {}}, "describe different datasets"),
    }


PLACES = tuple(
    _places(
        userblock.Userblock(
            file_size=0,
            datasets={},
            extents=dict.fromkeys(("content", "key_hash", "labels", "summary"), (0, 0)),
            metadata_digest="",
            static_digests={},
        )
    )
)


@pytest.mark.parametrize("case", PLACES)
def test_datasets_where_none_can_be_are_refused(path, case):
    helpers.teach(path)
    block = userblock.parse("", path.read_bytes())
    extents, changes, message = _places(block)[case]
    helpers.forge_userblock(path, extents={**block.extents, **extents}, **changes)
    refused(path, message)


def with_body(change):
    """Returns a userblock with its JSON changed and a digest that fits."""

    def changed(head):
        values = json.loads(head.split(b"\n")[1])
        change(values)
        return json.dumps(values).encode()

    return changed


BODIES = {
    "nothing": lambda _head: b"",
    "list": lambda _head: b"[]",
    "no statements": lambda _head: b"{}",
    "null": lambda _head: b"null",
    "two of five statements": lambda _head: b'{"datasets":{},"extents":{}}',
    "one byte that is no UTF-8": lambda _head: b"\xff",
    "nesting": lambda _head: b"[" * 3000,
    "nesting of dicts": lambda _head: b'{"a":' * 700,
    "text": lambda _head: b'"x"',
    "NaN": lambda _head: b"NaN",
    "number of 3,900 digits": lambda _head: b"9" * 3900,
    "no UTF-8": lambda _head: b'{"datasets": "\xff"}',
    "negative size": with_body(lambda v: v.update(file_size=-1)),
    "size with a fraction": with_body(lambda v: v.update(file_size=v["file_size"] + 0.0)),
    "infinite size": with_body(lambda v: v.update(file_size=float("inf"))),
    "size that is true": with_body(lambda v: v.update(file_size=True)),
    "negative offset": with_body(lambda v: v["extents"].update(content=[-4096, 80])),
    "offset that is NaN": with_body(lambda v: v["extents"].update(content=[float("nan"), 80])),
    "offset of 1,000 digits": with_body(lambda v: v["extents"].update(content=[10**1000, 80])),
    "offset that is a text": with_body(lambda v: v["extents"].update(content=["8192", 80])),
    "negative shape": with_body(lambda v: v["datasets"].update(content=["<u8", [-10]])),
    "shape beyond all disks": with_body(lambda v: v["datasets"].update(content=["<u8", [1 << 62]])),
    "shape whose product wraps": with_body(
        lambda v: v["datasets"].update(content=["<u8", [1 << 32, 1 << 32]])
    ),
    "objects": with_body(lambda v: v["datasets"].update(content=["|O", [10]])),
    "dtype that is a list": with_body(lambda v: v["datasets"].update(content=[["<u8"], [10]])),
    "datasets that are a list": with_body(lambda v: v.update(datasets=[])),
    "dataset without a shape": with_body(lambda v: v["datasets"].update(content=["<u8"])),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_hostile_userblock_is_refused(path, case):
    helpers.teach(path)
    body = BODIES[case](path.read_bytes()[:4096])
    line = b"streamkd logit store 1 " + userblock.digest(body).encode() + b"\n"
    packed = line + body + b"\n"
    assert len(packed) <= 4096
    with open(path, "r+b") as file:
        file.write(packed.ljust(4096, b"\0"))
    refused(path, "its userblock does not describe a store")


KEYS = {
    "out of the directory": ([b"../target", b"b"], "leads out of the directory"),
    "out of the directory, later": ([b"a/../../target", b"b"], "leads out of the directory"),
    "absolute": ([b"/etc/passwd", b"b"], "is an absolute path"),
    "with a NUL byte": ([b"a\0b", b"b"], "has a NUL byte"),
    "empty": ([b"", b"b"], "is empty"),
    "longer than any path": ([b"a" * 70_000, b"b"], "more than any path"),
}


@pytest.mark.parametrize("case", KEYS)
def test_keys_that_lead_elsewhere_name_no_file(path, monkeypatch, case):
    names, message = KEYS[case]
    with monkeypatch.context() as patch:
        patch.setattr(creation, "check_keys", lambda _keys: None)
        helpers.create_store(path, helpers.header_of(2), Keys.from_list(names), np.zeros(2, int))

    def asked(*_args):
        raise AssertionError("the files of such keys must not be looked at")

    report = verify_store(path, compare=asked)
    assert any(message in problem["reason"] for problem in report.problems)
    with pytest.raises(DamagedStoreError, match=re.escape(message)):
        StoreWriter(path)


OFFSETS = {
    "not rising": [0, 5, 3, 9],
    "beyond the end": [0, 3, 6, 10],
    "far beyond the end": [0, 1 << 40, 1 << 41, 9],
    "negative when signed": [0, (1 << 64) - 3, 6, 9],
    "not from the start": [3, 3, 6, 9],
    "not to the end": [0, 3, 6, 6],
}


@pytest.mark.parametrize("case", OFFSETS)
def test_key_offsets_that_do_not_divide_the_keys_are_refused(path, case):
    keys = Keys.from_list([b"a.1", b"b.2", b"c.3"])
    helpers.create_store(path, helpers.header_of(3), keys, np.zeros(3, int))
    helpers.fill(path)
    forge_static(path, "key_offsets", np.array(OFFSETS[case], "<u8"))
    report = verify_store(path)
    assert "the key offsets do not divide the key bytes" in report.problems[0]["reason"]
    with pytest.raises(DamagedStoreError, match="key offsets do not divide the key bytes"):
        StoreWriter(path)
    store = open_store(path)
    for row in range(3):
        try:
            logits = store.gather(np.array([row]))
        except DamagedStoreError:
            continue
        assert np.array_equal(logits, helpers.logits_of([row], 4)), "a row of another key"
    try:
        images = store.images_of_keys(keys)
    except DamagedStoreError:
        return
    assert all(image in (-1, number) for number, image in enumerate(images.tolist()))


STATIC = {
    "images beyond the last in the index": (
        "key_row",
        np.array([3, 3, 3], "<u8"),
        "the key index does not lead to the keys",
    ),
    "class offsets that fall": (
        "class_offsets",
        np.array([0, 3, 1, 11, 14], "<u8"),
        "the class offsets do not divide the class bytes",
    ),
    "keys out of order": (
        "key_bytes",
        np.frombuffer(b"c.3b.2a.1", "|u1"),
        "the key does not follow the key before it in order",
    ),
    "a label beyond the last class": (
        "labels",
        np.array([0, 4, 0], "<i4"),
        "the label is 4, and there are 4 classes",
    ),
}


@pytest.mark.parametrize("case", STATIC)
def test_static_data_with_a_digest_that_fits_is_verified_for_what_it_says(path, case):
    name, values, message = STATIC[case]
    keys = Keys.from_list([b"a.1", b"b.2", b"c.3"])
    helpers.create_store(
        path, helpers.header_of(3), keys, np.zeros(3, int), ["cat", "dog", "été", "owl"]
    )
    helpers.fill(path)
    assert verify_store(path).sound
    forge_static(path, name, values)
    reasons = [problem["reason"] for problem in verify_store(path).problems]
    assert message in reasons


def test_an_index_that_names_images_beyond_the_last_is_refused(path):
    helpers.teach(path, 4)
    forge_static(path, "key_row", np.full(4, 4, "<u8"))
    keys = helpers.keys_of(4).take(np.array([2, 0]))
    with pytest.raises(DamagedStoreError, match="its key index names images that it does not have"):
        open_store(path).images_of_keys(keys)


def test_a_row_of_an_unknown_state_is_a_problem(path):
    helpers.teach(path, 4)
    with open(path, "r+b") as file:
        file.seek(helpers.extents_of(path)["done"][0] + 1)
        file.write(b"\7")
    reasons = [problem["reason"] for problem in verify_store(path).problems]
    assert reasons == ["`done` is 7; it must be 0, 1 or 2"]


@pytest.mark.parametrize("name", ["key_bytes", "class_offsets"])
def test_a_userblock_with_another_shape_of_keys_or_classes_is_refused(path, name):
    helpers.teach(path)
    block = userblock.parse("", path.read_bytes())
    spec = block.datasets[name]
    changed = {name: DatasetSpec(dtype=spec.dtype, shape=(1, *spec.shape))}
    helpers.forge_userblock(path, datasets={**block.datasets, **changed})
    refused(path, "its userblock does not describe the keys and classes")


def test_a_userblock_without_a_single_class_offset_is_refused(path):
    helpers.teach(path)
    block = userblock.parse("", path.read_bytes())
    empty = DatasetSpec(dtype="<u8", shape=(0,))
    helpers.forge_userblock(
        path,
        datasets={**block.datasets, "class_offsets": empty},
        extents={**block.extents, "class_offsets": (0, 0)},
    )
    refused(path, "its userblock does not describe the keys and classes")


def forge_static(path, name, values):
    """Changes a static dataset, and its digest with it."""
    with StoreFile(path) as file:
        offset, block = file.offset(name), file.userblock
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(values.tobytes())
    digests = {**block.static_digests, name: userblock.digest(values.tobytes())}
    helpers.forge_userblock(path, static_digests=digests)


def forge_rows(path, name, change):
    """Changes a dataset of the rows, and their checksums with it."""
    with StoreFile(path) as file:
        values = np.array(file.read(name))
        change(values)
        stored = [values if n == name else file.read(n) for n in checksums.row_datasets(file)]
        sums = checksums.row_crc32(hash_keys(file.read_keys()), file.read("content"), stored)
        places = file.offset(name), file.offset("row_crc32")
    with open(path, "r+b") as file:
        for place, array in zip(places, (values, sums), strict=True):
            file.seek(place)
            file.write(array.tobytes())


def test_a_class_beyond_the_last_is_refused(path):
    helpers.teach(path, codec="packed:0+3", num_classes=10)
    for wrong in (10, 65_535):
        forge_rows(path, "kept_classes", lambda values, wrong=wrong: values.fill(wrong))
        with pytest.raises(DamagedStoreError, match=r"not one that the codec packed:0\+3 writes"):
            open_store(path).gather(np.arange(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
        (lambda path: path.symlink_to(path), "cannot be opened for reading: Too many levels"),
        (lambda path: os.mkfifo(path), "it is not a regular file"),
    ],
    ids=["device", "link to itself", "pipe"],
)
def test_a_path_that_is_no_file_is_refused(path, make, message):
    make(path)
    refused(path, message)


def test_seventeen_megabytes_outside_of_all_datasets_is_refused(path):
    def large(file, spec):
        plain(file, spec)
        file.create_dataset("more", (17 << 20,), "u1")[:] = 1

    helpers.hostile_store(path, "content", large)
    refused(path, "of its bytes belong to no dataset")
