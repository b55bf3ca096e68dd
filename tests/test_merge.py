"""Shards and merging: parts of a pass, put together, are the undivided pass to the byte."""

import os
import pickle

import h5py
import helpers
import numpy as np
import pytest
import store_helpers
from delta_helpers import change, run_pass
from stream_helpers import assert_all_paired

import streamkd as kd
from streamkd.errors import MissingLogitsError, OptionError, StoreError, UnfinishedStoreError
from streamkd.manifest.manifest import scan
from streamkd.store import store_list
from streamkd.store.collection import open_store
from streamkd.store.merge import merge
from streamkd.store.userblock import digest
from streamkd.store.writer import StoreWriter


@pytest.fixture
def shards(images, tmp_path):
    """Three shards of the pass that `store` is the whole of."""
    paths = [tmp_path / f"shard-{number}.h5" for number in (1, 2, 3)]
    for number, path in enumerate(paths, 1):
        run_pass(images, path, shard=(number, 3))
    return paths


def test_shards_merged_are_the_undivided_pass_to_the_byte(store, shards, tmp_path):
    report = merge(shards, tmp_path / "merged.h5", progress=False)
    assert (tmp_path / "merged.h5").read_bytes() == (tmp_path / "teacher.h5").read_bytes()
    assert (report.num_superseded, report.num_dropped) == (0, 0)


def test_shards_divide_the_images_between_blocks(images, shards):
    counts = [open_store(path).num_images for path in shards]
    assert counts == [7, 14, 9] and sum(counts) == len(images)


def test_shards_in_an_index_file_are_read_as_one(images, shards, store, tmp_path):
    report = merge(shards, tmp_path / "all.index", index=True, progress=False)
    assert report.store.header.fingerprint == store.header.fingerprint == images.fingerprint
    assert report.store.num_images == 30
    assert_all_paired(images, tmp_path / "all.index")
    rows = np.random.default_rng(0).permutation(30)
    assert np.array_equal(open_store(tmp_path / "all.index").gather(rows), store.gather(rows))


def test_an_index_file_grows_by_deltas_like_a_store(shards, directory, tmp_path):
    merge(shards, tmp_path / "all.index", index=True, progress=False)
    images = change(directory)
    taught, _ = run_pass(images, tmp_path / "all.index")
    assert [os.path.basename(s.path) for s in taught.stores][-1] == "all.delta-1.h5"
    assert_all_paired(images, tmp_path / "all.index")


def test_a_shard_that_was_cut_is_resumed(images, store, tmp_path):
    with pytest.raises(helpers.TeacherFailedError):
        run_pass(
            images, tmp_path / "2.h5", shard=(2, 2), teacher=helpers.EncodingTeacher(fail_at=3)
        )
    for number in (1, 2):
        run_pass(images, tmp_path / f"{number}.h5", shard=(number, 2))
    merge([tmp_path / "2.h5", tmp_path / "1.h5"], tmp_path / "merged.h5", progress=False)
    assert (tmp_path / "merged.h5").read_bytes() == (tmp_path / "teacher.h5").read_bytes()


@pytest.mark.parametrize(
    ("shard", "words"),
    [
        ((0, 2), r"--shard is 0/2; the parts of a pass are counted from 1 to 2"),
        ((3, 2), r"--shard is 3/2; the parts"),
        ((1, 6), r"30 images are 5 blocks of 7: a part would be .*\n.*at most 5 parts"),
    ],
)
def test_a_part_that_cannot_be_is_refused(images, tmp_path, shard, words):
    with pytest.raises(OptionError, match=words):
        run_pass(images, tmp_path / "s.h5", shard=shard)


def test_a_finished_shard_of_other_images_is_refused(shards, directory):
    images = change(directory)
    with pytest.raises(StoreError, match="was written for other images"):
        run_pass(images, shards[0], shard=(1, 3))


def test_shards_with_one_missing_are_merged_and_its_images_have_no_logits(images, shards, tmp_path):
    path = tmp_path / "merged.h5"
    store = merge([shards[0], shards[2]], path, progress=False).store
    assert store.finished and store.num_images == 7 + 9
    numbers = store.images_of_keys(images.keys)
    assert np.flatnonzero(numbers < 0).tolist() == list(range(7, 21))
    with pytest.raises(MissingLogitsError, match="14 of 30 images") as refusal:
        kd.join(images, path, batch_size=4, missing="raise", progress=False)
    assert refusal.value.key == images.keys[7]
    with pytest.warns(UserWarning, match="14 of 30 images have no logits and are left out"):
        stream = kd.join(images, path, batch_size=4, missing="drop", progress=False)
    assert len(stream.rows) == 16


class TestCollection:
    """Three shards read as one, against the store of the undivided pass."""

    @pytest.fixture(params=["mmap", "pread"])
    def collection(self, request, shards, tmp_path):
        merge(shards, tmp_path / "all.index", index=True, progress=False)
        return open_store(tmp_path / "all.index", request.param)

    def test_rows_of_several_stores_come_in_the_order_asked_for(self, collection, store):
        rows = np.array([29, 0, 7, 7, 20, 21])
        assert np.array_equal(collection.gather(rows), store.gather(rows))
        assert np.array_equal(collection.content_of(rows), store.content_of(rows))
        assert np.array_equal(collection.done_of(rows), np.ones(6, np.uint8))
        stored, done = collection.stored_rows(rows)
        expected, expected_done = store.stored_rows(rows)
        assert list(stored) == list(expected) == ["logits"]
        assert np.array_equal(stored["logits"], expected["logits"])
        assert np.array_equal(done, expected_done)
        assert collection.view_parameters(rows) == store.view_parameters(rows) == {}

    def test_no_rows_are_rows(self, collection):
        rows = np.array([], np.int64)
        assert collection.gather(rows).shape == (0, 3)
        stored, done = collection.stored_rows(rows)
        assert stored["logits"].shape == (0, 3) and done.shape == (0,)

    def test_the_store_of_each_image_is_known(self, collection):
        images = np.array([0, 6, 7, 20, 21, 29])
        assert collection.store_of_images(images).tolist() == [0, 0, 1, 1, 2, 2]

    def test_numbers_outside_of_all_stores_are_refused(self, collection):
        with pytest.raises(IndexError, match=r"row 30; the store .*all\.index has 0 to 29"):
            collection.gather(np.array([0, 30]))
        with pytest.raises(IndexError, match=r"image -1; the store .*all\.index has 0 to 29"):
            collection.content_of(np.array([-1]))

    def test_the_digest_of_rows_changes_with_any_row(self, collection, shards, tmp_path):
        before = collection.digest_of_rows()
        assert open_store(tmp_path / "all.index").digest_of_rows() == before
        store_helpers.flip_bit(shards[2], store_helpers.extents_of(shards[2])["row_crc32"][0])
        assert open_store(tmp_path / "all.index").digest_of_rows() != before

    def test_it_lies_beneath_a_join(self, collection, images):
        assert_all_paired(images, collection)

    def test_it_is_pickled_as_its_path(self, collection, store):
        copy = pickle.loads(pickle.dumps(collection))
        assert copy.path == collection.path and copy.stores[0].io == collection.stores[0].io
        assert np.array_equal(copy.gather(np.arange(30)), store.gather(np.arange(30)))

    def test_it_is_returned_as_it_is_when_it_is_opened_again(self, collection):
        assert open_store(collection) is collection


class TestCompaction:
    def test_base_and_deltas_become_one_store(self, store, directory, tmp_path):
        images = change(directory)
        run_pass(images, tmp_path / "teacher.h5")
        report = merge([tmp_path / "teacher.h5"], tmp_path / "merged.h5", progress=False)
        assert (report.num_superseded, report.num_dropped) == (1, 0)
        assert report.store.num_images == 32  # the removed one is still in it
        assert_all_paired(images, tmp_path / "merged.h5")

    def test_vanished_images_are_dropped_and_renamed_files_are_kept(
        self, store, directory, tmp_path
    ):
        images = change(directory)
        run_pass(images, tmp_path / "teacher.h5")
        report = merge(
            [tmp_path / "teacher.h5"], tmp_path / "merged.h5", images=images, progress=False
        )
        assert (report.num_superseded, report.num_dropped) == (1, 1)
        assert report.store.keys == images.keys.take(images.keys.sort_order())
        numbers = helpers.encoded_numbers(report.store.gather(np.arange(31)))[:, 0]
        renamed = report.store.images_of_keys(kd.Keys.from_list([b"ant/renamed.png"]))
        assert numbers[renamed].tolist() == [1]
        assert kd.verify(tmp_path / "merged.h5", images=images, progress=False).sound

    def test_the_merged_store_is_the_one_that_a_single_pass_makes(self, store, directory, tmp_path):
        images = change(directory)
        run_pass(images, tmp_path / "teacher.h5")
        run_pass(images, tmp_path / "whole.h5")
        merge([tmp_path / "teacher.h5"], tmp_path / "m.h5", images=images, progress=False)
        assert (tmp_path / "m.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()

    def test_teaching_continues_with_a_merged_store(self, store, directory, tmp_path):
        images = change(directory)
        run_pass(images, tmp_path / "teacher.h5")
        merge([tmp_path / "teacher.h5"], tmp_path / "m.h5", images=images, progress=False)
        _, teacher = run_pass(images, tmp_path / "m.h5")
        assert teacher.num_calls == 1 and not (tmp_path / "m.h5.index").exists()


def test_a_merge_that_was_cut_resumes_to_the_same_bytes(shards, store, tmp_path, monkeypatch):
    write, blocks = StoreWriter.write_stored, []

    def fail_later(self, block, *rest):
        blocks.append(block)
        if len(blocks) == 3:
            raise OSError("pulled out")
        write(self, block, *rest)

    monkeypatch.setattr(StoreWriter, "write_stored", fail_later)
    with pytest.raises(OSError, match="pulled out"):
        merge(shards, tmp_path / "m.h5", progress=False)
    merge(shards, tmp_path / "m.h5", progress=False)
    assert blocks == [0, 1, 2, 2, 3, 4]  # what was copied is not copied again
    assert (tmp_path / "m.h5").read_bytes() == (tmp_path / "teacher.h5").read_bytes()


def test_rows_of_several_views_and_refused_images_are_copied(tmp_path):
    header = store_helpers.create(tmp_path / "a.h5", 10, num_views=2)
    with StoreWriter(tmp_path / "a.h5") as writer:
        for block in writer.pending_blocks().tolist():
            images = writer.images_of_block(block)
            logits = store_helpers.logits_of(writer.rows_of_block(block), 4)
            refused = np.array(images) == 4
            writer.write_block(block, logits, store_helpers.content_of(images), refused)
        writer.finish({"teacher_accuracy": 0.5})
    store = merge([tmp_path / "a.h5"], tmp_path / "m.h5", progress=False).store
    assert store.header.num_views == header.num_views
    good = np.delete(np.arange(20), [8, 9])
    assert np.array_equal(store.gather(good), store_helpers.logits_of(good, 4))
    with h5py.File(tmp_path / "m.h5") as file:
        assert file["done"][:, 0].tolist() == [1, 1, 1, 1, 2, 1, 1, 1, 1, 1]
    with pytest.raises(MissingLogitsError, match="was skipped"):
        store.gather(np.array([8]))


class TestRefusals:
    def test_stores_of_two_teachers(self, images, store, tmp_path):
        run_pass(
            images,
            tmp_path / "other.h5",
            teacher=kd.load_teacher(helpers.EncodingTeacher(), name="b"),
        )
        words = r'(?s)differ in teacher .*teacher\.h5: {"name": "E.*other\.h5: +{"name": "b"}'
        with pytest.raises(StoreError, match=words):
            merge(
                [tmp_path / "teacher.h5", tmp_path / "other.h5"], tmp_path / "m.h5", progress=False
            )
        assert not (tmp_path / "m.h5").exists()

    def test_an_unfinished_store(self, images, store, tmp_path):
        with pytest.raises(helpers.TeacherFailedError):
            run_pass(images, tmp_path / "u.h5", teacher=helpers.EncodingTeacher(fail_at=2))
        with pytest.raises(UnfinishedStoreError, match=r"u\.h5 is unfinished: 7 of 30 rows"):
            merge([tmp_path / "teacher.h5", tmp_path / "u.h5"], tmp_path / "m.h5", progress=False)

    def test_an_output_that_is_something_else(self, shards, store, tmp_path):
        with pytest.raises(StoreError, match="is not the beginning of this merge"):
            merge(shards[:2], tmp_path / "teacher.h5", progress=False)
        with pytest.raises(OptionError, match="is one of the stores"):
            merge(shards, shards[0], progress=False)

    def test_images_that_are_not_in_the_stores(self, store, tmp_path):
        other = helpers.draw_directory(tmp_path / "other", {"dog": 3}, first=700)
        with pytest.raises(MissingLogitsError, match="the merged store would be empty"):
            merge([store.path], tmp_path / "m.h5", images=scan(other), progress=False)

    def test_an_index_of_stores_elsewhere(self, shards, tmp_path):
        (tmp_path / "deep").mkdir()
        with pytest.raises(OptionError, match="stores below its own directory only"):
            merge(shards, tmp_path / "deep" / "all.index", index=True, progress=False)

    @pytest.mark.parametrize("where", ["magic", "body", "cut"])
    def test_a_damaged_index_file(self, shards, tmp_path, where):
        merge(shards, tmp_path / "all.index", index=True, progress=False)
        data = bytearray((tmp_path / "all.index").read_bytes())
        if where == "magic":
            data[3] ^= 1
        elif where == "body":
            data[200] ^= 1
        else:
            del data[-9:]
        (tmp_path / "all.index").write_bytes(data)
        with pytest.raises(
            StoreError, match=r"is not a logit store|cannot be used: it does not have"
        ):
            open_store(tmp_path / "all.index")

    def test_an_index_file_of_a_later_version(self, shards, tmp_path):
        merge(shards, tmp_path / "all.index", index=True, progress=False)
        data = (tmp_path / "all.index").read_bytes()
        (tmp_path / "all.index").write_bytes(data.replace(b"index 1 ", b"index 2 ", 1))
        with pytest.raises(StoreError, match="store index of format version 2, and this version"):
            open_store(tmp_path / "all.index")

    @pytest.mark.parametrize(
        "body",
        [
            b"[]",
            b"nonsense",
            b'{"stores": [], "num_images": 1, "fingerprint": ""}',
            b'{"stores": [{"path": "/s.h5", "digest": ""}], "num_images": 1, "fingerprint": ""}',
            b'{"stores": [{"path": "../s.h5", "digest": ""}], "num_images": 1, "fingerprint": ""}',
        ],
        ids=["list", "no JSON", "no stores", "absolute path", "other directory"],
    )
    def test_an_index_file_that_lists_no_stores_below_it(self, tmp_path, body):
        head = b"streamkd store index 1 " + digest(body).encode()
        (tmp_path / "all.index").write_bytes(head + b"\n" + body + b"\n")
        with pytest.raises(StoreError, match="cannot be used: it does not list stores"):
            open_store(tmp_path / "all.index")

    def test_an_index_file_that_cannot_be_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(store_list, "is_index_file", lambda _path: True)
        with pytest.raises(StoreError, match=r"all\.index cannot be read: No such file.*\nChange"):
            open_store(tmp_path / "all.index")

    def test_an_index_beside_a_store_that_it_does_not_begin_with(self, shards, tmp_path):
        merge(shards, tmp_path / "shard-2.h5.index", index=True, progress=False)
        with pytest.raises(StoreError, match=r"it belongs to shard-1\.h5, not to .*shard-2\.h5"):
            open_store(shards[1])

    def test_a_shard_that_is_gone_is_named(self, shards, tmp_path):
        merge(shards, tmp_path / "all.index", index=True, progress=False)
        shards[1].unlink()
        with pytest.raises(StoreError, match=r"it lists .*shard-2\.h5, which does not exist"):
            open_store(tmp_path / "all.index")
