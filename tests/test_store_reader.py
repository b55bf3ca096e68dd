"""The reader against plain h5py, and what it refuses."""

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import threading

import h5py
import numpy as np
import pytest
import store_helpers as helpers
from process_helpers import finished

from streamkd.errors import DamagedStoreError, MissingLogitsError, OptionError, StoreError
from streamkd.keys import Keys
from streamkd.store import key_index
from streamkd.store.checksums import check_single_rows
from streamkd.store.collection import open_store
from streamkd.store.reader import LogitStore
from streamkd.store.row_store import RowStore
from streamkd.store.writer import StoreWriter

LARGE = {"num_views": 2, "num_classes": 5, "block_rows": 8}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "teacher.h5"


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("codec", ["float16", "float32"])
def test_rows_read_by_h5py_and_by_gather_are_those_written(path, io, codec):
    helpers.teach(path, 50, codec=codec, **LARGE)
    store = open_store(path, io)
    rows = np.random.default_rng(0).integers(0, 100, 300)
    gathered = store.gather(rows)
    assert gathered.dtype == np.float32
    assert np.array_equal(gathered, helpers.logits_of(rows, 5))
    with h5py.File(path, "r") as file:
        assert file["logits"].dtype == codec and file["logits"].shape == (50, 2, 5)
        assert np.array_equal(file["logits"][:].reshape(100, 5)[rows], gathered)
        assert (file["done"][:] == 1).all()
        assert file.attrs["teacher"].decode().startswith('{"digest"')


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_an_open_store_tells_what_it_was_made_of(path, io):
    header = helpers.teach(path, 10)
    store = open_store(path, io)
    assert store.header == header
    assert store.keys == helpers.keys_of(10)
    assert store.labels.dtype == np.int32 and store.labels[:3].tolist() == [0, -1, 2]
    assert store.class_names == helpers.CLASS_NAMES
    assert (store.rows_done, store.rows_total, store.finished) == (10, 10, True)
    assert store.summary == helpers.SUMMARY
    assert np.array_equal(store.content_of(np.array([7, 2])), helpers.content_of(np.array([7, 2])))


def test_a_description_has_the_keys_of_inspect_in_their_order(path):
    header = helpers.teach(path, 10)
    described = open_store(path).describe()
    assert list(described.to_dict().items()) == [
        ("num_images", 10),
        ("num_views", 1),
        ("num_classes", 4),
        ("rows_done", 10),
        ("rows_total", 10),
        ("codec", "float16"),
        ("teacher", "Lehrer für Tiere"),
        ("teacher_accuracy", 0.75),
        ("num_bytes", os.path.getsize(path)),
        ("num_stores", 1),
        ("stores", [str(path)]),
        ("finished", True),
        ("fingerprint", "8f31c2d0"),
        ("block_rows", 3),
        ("num_class_names", 4),
        ("class_names", helpers.CLASS_NAMES),
        ("images", header.images),
        ("views", header.views),
        ("decoder", header.decoder),
        ("versions", header.versions),
    ]
    assert described["num_images"] == described.num_images
    assert json.loads(json.dumps(described.to_dict())) == described.to_dict()


def test_a_store_that_is_open_already_is_returned_as_it_is(path):
    helpers.teach(path, 10)
    store = open_store(path, "pread")
    assert open_store(store) is store
    assert isinstance(store, LogitStore) and isinstance(store, RowStore)


def test_a_summary_that_was_damaged_is_refused(path):
    helpers.teach(path, 10)
    helpers.flip_bit(path, helpers.extents_of(path)["summary"][0] + 12)
    with pytest.raises(DamagedStoreError, match="its summary does not have its checksum"):
        _ = open_store(path).summary


def test_half_precision_is_decoded_as_numpy_does(path):
    helpers.create(path, 3, num_classes=4)
    values = np.array([[65504, -65504, 6e-8, -0.0], [1 / 3, 2049, 1e-5, 0], [1, 2, 3, 4]], "f4")
    with StoreWriter(path) as writer:
        writer.write_block(0, values, helpers.content_of(range(3)))
    gathered = open_store(path).gather(np.arange(3))
    assert gathered.tobytes() == values.astype(np.float16).astype(np.float32).tobytes()


def test_images_are_found_by_key(path):
    helpers.teach(path, 50)
    keys = helpers.keys_of(50)
    asked = Keys.from_list([b"absent", keys[49], keys[0], b"class0/0000", keys[0] + b"x"])
    assert open_store(path).images_of_keys(asked).tolist() == [-1, 49, 0, -1, -1]
    assert open_store(path, "pread").images_of_keys(keys).tolist() == list(range(50))
    assert open_store(path).images_of_keys(Keys.from_list([])).tolist() == []


def test_keys_with_equal_hashes_lead_to_their_own_images(path, monkeypatch):
    def hash_badly(keys):
        return np.array([len(key) + 3 * (key[-5] % 2) for key in keys], np.uint64)

    for module in ("creation", "checksums", "writer", "key_index"):
        monkeypatch.setattr(f"streamkd.store.{module}.hash_keys", hash_badly)
    helpers.teach(path, 30)
    keys = helpers.keys_of(30)
    store = open_store(path)
    assert len(np.unique(hash_badly(keys))) < 5
    assert store.images_of_keys(keys).tolist() == list(range(30))
    assert store.images_of_keys(Keys.from_list([b"class9/0001.png"])).tolist() == [-1]


def test_an_index_of_one_hash_is_refused_instead_of_searched(path, monkeypatch):
    for module in ("creation", "checksums", "writer", "key_index"):
        monkeypatch.setattr(
            f"streamkd.store.{module}.hash_keys", lambda keys: np.zeros(len(keys), np.uint64)
        )
    helpers.teach(path, 200)
    with pytest.raises(DamagedStoreError, match="equal hashes"):
        open_store(path).images_of_keys(Keys.from_list([b"absent"]))


@pytest.mark.parametrize("chunk_keys", [3, 8, 1000])
def test_runs_of_keys_in_the_store_s_order_are_found_wherever_they_break(
    path, monkeypatch, chunk_keys
):
    monkeypatch.setattr("streamkd.store.key_index._CHUNK_KEYS", chunk_keys)
    helpers.teach(path, 50)
    keys, store = helpers.keys_of(50), open_store(path)
    orders = [range(50), [0, 1, 2, 4, 5, *range(6, 50)], [49, 48, *range(48)], [*range(9)] * 2]
    for order in orders:
        assert store.images_of_keys(keys.take(np.array(order))).tolist() == list(order)
    changed = Keys.from_list([key + b"x" * (n == 20) for n, key in enumerate(keys)])
    assert store.images_of_keys(changed).tolist() == [*range(20), -1, *range(21, 50)]


@pytest.mark.parametrize("spread", ["even", "low", "few", "equal"])
def test_guessed_positions_are_those_of_bisection(spread):
    rng = np.random.default_rng(0)
    highest = {"even": 2**64 - 1, "low": 2**40, "few": 100, "equal": 0}[spread]
    hashes = np.sort(rng.integers(0, highest, 50_000, np.uint64, endpoint=True))
    ends = np.array([0, 1, 2**64 - 1, hashes[0], hashes[-1], hashes[-1] // 2], np.uint64)
    others = rng.integers(0, 2**64 - 1, 10, np.uint64)
    for wanted in (ends, rng.choice(hashes, 40), np.concatenate([others, hashes[:30]])):
        assert len(hashes) >= key_index._SPARSE * len(wanted)
        assert np.array_equal(key_index._positions(hashes, wanted), np.searchsorted(hashes, wanted))
        assert np.array_equal(
            key_index._positions(hashes[:90], wanted), np.searchsorted(hashes[:90], wanted)
        )


def test_images_are_found_by_content_the_first_of_equal_ones(path):
    helpers.create(path, 6)
    with StoreWriter(path) as writer:
        writer.write_block(0, helpers.logits_of(range(3), 4), np.array([5, 9, 5], np.uint64))
    store = open_store(path)
    assert store.images_of_content(np.array([9, 5, 0, 2**64 - 1], np.uint64)).tolist() == [
        1,
        0,
        -1,  # what `content` holds where the teacher has not been
        -1,
    ]


def test_a_row_that_is_not_done_is_refused_by_name(path):
    helpers.create(path, 10, num_views=2)
    helpers.fill(path, num_blocks=1)
    store = open_store(path)
    assert not store.finished and store.rows_done == 6 and store.summary is None
    assert len(store.gather(np.arange(6))) == 6
    key = helpers.keys_of(10)[3]
    with pytest.raises(
        MissingLogitsError, match=r"class1/0003\\xff.png', view 1 .*6 of 20"
    ) as info:
        store.gather(np.array([0, 7, 8]))
    assert info.value.key == key
    with pytest.raises(MissingLogitsError, match="view 0"):
        store.content_of(np.array([3]))


def test_a_reader_sees_rows_as_they_are_written(path):
    helpers.create(path, 10)
    store = open_store(path)
    with pytest.raises(MissingLogitsError, match="view 0"):
        store.gather(np.array([0]))
    helpers.fill(path)
    assert np.array_equal(store.gather(np.arange(10)), helpers.logits_of(range(10), 4))
    assert store.finished


def test_a_refused_image_has_no_logits(path):
    helpers.create(path, 3)
    logits = helpers.logits_of(range(3), 4)
    logits[1] = np.nan  # not looked at
    with StoreWriter(path) as writer:
        writer.write_block(0, logits, helpers.content_of(range(3)), np.array([False, True, False]))
        assert writer.pending_blocks().tolist() == []
        writer.finish({})
    store = open_store(path)
    assert store.finished and store.rows_done == 3
    assert np.array_equal(store.gather(np.array([2, 0])), logits[[2, 0]])
    with pytest.raises(MissingLogitsError, match="could not be decoded"):
        store.gather(np.array([0, 1]))
    assert store.content_of(np.array([1])) == helpers.content_of(range(1, 2))
    assert store.images_of_content(helpers.content_of(range(1, 2))).tolist() == [-1]


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("name", ["logits", "content", "row_crc32", "done", "key_bytes"])
def test_a_flipped_bit_in_a_row_is_an_error_for_that_row_alone(path, name, io):
    helpers.teach(path, 12)
    start, num_bytes = helpers.extents_of(path)[name]
    helpers.flip_bit(path, start + 7 * num_bytes // 12 + 2 * (name == "key_bytes"))
    store = open_store(path, io)
    with pytest.raises((StoreError, MissingLogitsError), match=r"class2/0007\.png|cmass2/0007"):
        store.gather(np.arange(12))
    others = np.delete(np.arange(12), [6, 7, 8])
    assert np.array_equal(store.gather(others), helpers.logits_of(others, 4))


@pytest.mark.parametrize("name", ["key_bytes", "key_offsets", "key_hash", "key_row"])
def test_a_damaged_index_is_an_error_never_an_absent_or_another_image(path, name):
    helpers.teach(path, 12)
    keys = helpers.keys_of(12)
    start, num_bytes = helpers.extents_of(path)[name]
    damaged = path.with_name("damaged.h5")
    for offset in range(start, start + num_bytes, 3):
        shutil.copy(path, damaged)
        helpers.flip_bit(damaged, offset, bit=offset % 8)
        try:
            images = open_store(damaged).images_of_keys(keys)
        except DamagedStoreError:
            continue
        assert images.tolist() == list(range(12))


@pytest.mark.parametrize("name", ["labels", "class_bytes", "class_offsets"])
def test_damaged_labels_and_class_names_are_refused(path, name):
    helpers.teach(path, 12)
    helpers.flip_bit(path, helpers.extents_of(path)[name][0])
    store = open_store(path)
    with pytest.raises(DamagedStoreError, match=f"dataset '{name}' does not have its digest"):
        _ = store.labels, store.class_names


def test_a_row_is_compared_with_its_checksum_once(path, monkeypatch):
    helpers.teach(path, 30)
    store, compared = open_store(path), []

    def counting(file, keys, rows):
        compared.append(rows.tolist())
        return check_single_rows(file, keys, rows)

    monkeypatch.setattr("streamkd.store.row_checks.check_single_rows", counting)
    for rows in ([7, 7, 2], [2, 7, 8], [8, 9, 15, 16], [2, 7, 8, 9, 15, 16]):
        assert np.array_equal(store.gather(np.array(rows)), helpers.logits_of(np.array(rows), 4))
    assert compared == [[2, 7], [8], [9, 15, 16]]


def test_rows_outside_the_store_are_refused(path):
    helpers.teach(path, 10)
    store = open_store(path)
    with pytest.raises(IndexError, match=r"row -1; the store .* has 0 to 9"):
        store.gather(np.array([0, -1]))
    with pytest.raises(IndexError, match="row 10"):
        store.gather(np.array([10]))
    with pytest.raises(TypeError, match="row numbers are float64; give whole numbers"):
        store.gather(np.array([1.0]))
    with pytest.raises(ValueError, match=r"row numbers have shape \(1, 2\); give one axis"):
        store.gather(np.array([[1, 2]]))
    with pytest.raises(IndexError, match=r"image 10; the store .* has 0 to 9"):
        store.content_of(np.array([10]))
    assert store.gather(np.array([], np.int64)).shape == (0, 4)


def test_an_unknown_way_to_read_is_refused(path):
    helpers.teach(path, 3)
    with pytest.raises(OptionError, match="choose one of mmap, pread"):
        open_store(path, "carrier pigeon")


def test_a_pickled_store_opens_the_same_file_and_no_other(path):
    helpers.teach(path, 10)
    store = open_store(path)
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copy.gather(np.array([4])), store.gather(np.array([4])))
    text = pickle.dumps(store)
    path.unlink()
    helpers.teach(path, 10, fingerprint="another")
    with pytest.raises(StoreError, match="replaced by another store"):
        pickle.loads(text)


def _rows_are_right(store, seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        rows = rng.integers(0, store.rows_total, 64)
        if not np.array_equal(store.gather(rows), helpers.logits_of(rows, store.num_classes)):
            return False
    return True


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_threads_read_right_rows(path, io):
    helpers.teach(path, 200, block_rows=10)
    store, right = open_store(path, io), []
    threads = [
        threading.Thread(target=lambda seed: right.append(_rows_are_right(store, seed)), args=(n,))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 8


FORKED = """
import os, sys
import test_store_reader as tests
store = tests.open_store(sys.argv[1], sys.argv[2])
store.gather(tests.np.arange(5))
children = []
for seed in range(4):
    child = os.fork()
    if child == 0:
        os._exit(0 if tests._rows_are_right(store, seed) else 1)
    children.append(child)
assert tests._rows_are_right(store, 9)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_forked_processes_read_right_rows(path, io):
    helpers.teach(path, 200, block_rows=10)
    # In a process without threads of other tests: those make a fork unsafe by themselves.
    finished("-c", FORKED, path, io)


@pytest.mark.slow
def test_spawned_processes_read_right_rows(path):
    helpers.teach(path, 200, block_rows=10)
    store = open_store(path)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(_rows_are_right, [(store, n) for n in range(4)]) == [True] * 4


@pytest.mark.skipif(not shutil.which("h5dump"), reason="h5dump is not installed")
def test_h5dump_reads_a_store(path):
    helpers.teach(path, 10)
    shown = subprocess.run(["h5dump", "-H", path], check=True, capture_output=True, text=True)
    assert 'DATASET "logits"' in shown.stdout
