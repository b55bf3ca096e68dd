"""Verification: damage and changed images are an answer, what is no store is an error."""

import shutil

import numpy as np
import pytest
import store_helpers as helpers

from streamkd.errors import OptionError, StoreError
from streamkd.keys import Keys
from streamkd.store.verify_file import verify_store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "teacher.h5"


def compare(images, keys, content):
    """Expects every image of a test store with its key and the digest the teacher saw."""
    assert keys == helpers.keys_of(12).take(images)
    assert np.array_equal(content, helpers.content_of(images))
    return []


def test_an_untouched_store_is_sound(path):
    helpers.teach(path, 12, num_views=2)
    calls = []
    report = verify_store(path, compare=compare, progress=lambda *rows: calls.append(rows))
    assert report.sound and report.problems == []
    assert (report.rows_checked, report.rows_done, report.rows_total) == (24, 24, 24)
    assert calls == [(24, 24)]


def test_an_unfinished_store_is_not_sound_and_says_how_much_is_missing(path):
    helpers.create(path, 12)
    helpers.fill(path, num_blocks=1)
    report = verify_store(path)
    assert not report.sound and report.num_problems == 1
    assert "unfinished: 9 of 12 rows are missing" in report.problems[0]["reason"]
    assert (report.rows_checked, report.rows_done) == (3, 3)


@pytest.mark.parametrize(
    "name",
    [
        "key_bytes",
        "key_offsets",
        "key_hash",
        "key_row",
        "labels",
        "class_bytes",
        "class_offsets",
        "logits",
        "content",
        "row_crc32",
        "done",
        "summary",
    ],
)
def test_a_flipped_bit_anywhere_in_a_dataset_is_found(path, name):
    helpers.teach(path, 12)
    start, num_bytes = helpers.extents_of(path)[name]
    damaged = path.with_name("damaged.h5")
    for offset in np.linspace(0, num_bytes - 1, 12).astype(int).tolist():
        shutil.copy(path, damaged)
        helpers.flip_bit(damaged, start + offset, bit=offset % 8)
        report = verify_store(damaged)
        assert not report.sound and report.num_problems == len(report.problems) >= 1


@pytest.mark.parametrize("offset", [3, 30, 200, 4000, 4100, 4200])
def test_damage_found_at_opening_is_a_problem(path, offset):
    helpers.teach(path, 12)
    helpers.flip_bit(path, offset)
    report = verify_store(path)
    assert not report.sound and report.rows_checked == 0
    assert report.problems[0]["key"] is None
    assert "is damaged" in report.problems[0]["reason"]


def test_a_truncated_store_is_a_problem(path):
    helpers.teach(path, 12)
    path.write_bytes(path.read_bytes()[:-100])
    assert "bytes and was written with" in verify_store(path).problems[0]["reason"]


def test_a_file_that_is_no_store_is_an_error(path):
    with pytest.raises(StoreError, match="no such file"):
        verify_store(path)
    path.write_text("hello")
    with pytest.raises(StoreError, match="not a logit store"):
        verify_store(path)


def test_a_damaged_row_is_named(path):
    helpers.teach(path, 12, num_views=2)
    start, num_bytes = helpers.extents_of(path)["logits"]
    helpers.flip_bit(path, start + num_bytes * 15 // 24)
    assert verify_store(path).problems == [
        {"key": b"class2/0007.png", "view": 1, "reason": "the row does not have its checksum"}
    ]


def test_of_many_problems_the_first_hundred_are_listed(path):
    helpers.teach(path, 300)
    start, num_bytes = helpers.extents_of(path)["done"]
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(bytes(num_bytes))
    report = verify_store(path)
    assert (report.num_problems, len(report.problems)) == (300, 100)
    assert (
        "the row is missing, although the store is marked as finished"
        in report.problems[0]["reason"]
    )


def test_differences_from_the_images_are_reported_with_their_keys(path):
    helpers.teach(path, 12)

    def compare(images, keys, content):
        yield 2, "the image was changed"
        yield 5, "the image has vanished"

    keys = helpers.keys_of(12)
    assert [(p["key"], p["reason"]) for p in verify_store(path, compare=compare).problems] == [
        (keys[2], "the image was changed"),
        (keys[5], "the image has vanished"),
    ]


def test_a_sample_checks_some_blocks_the_same_ones_for_a_seed(path):
    helpers.teach(path, 300)
    asked = []

    def compare(images, keys, content):
        asked.append(images.tolist())
        return [(place, "wrong") for place in range(len(keys))]

    report = verify_store(path, sample=10, seed=1, compare=compare)
    assert report.rows_checked == 12 and report.rows_total == 300 and report.num_problems == 12
    first = list(asked)
    asked.clear()
    verify_store(path, sample=10, seed=1, compare=compare)
    assert asked == first
    assert verify_store(path, sample=1000).rows_checked == 300
    with pytest.raises(OptionError, match="--sample is 0"):
        verify_store(path, sample=0)


def test_a_key_that_leads_out_of_the_directory_never_reaches_the_file_system(path, monkeypatch):
    monkeypatch.setattr("streamkd.store.creation.check_keys", lambda keys: None)
    keys = Keys.from_list([b"../../etc/passwd", b"a", b"b"])
    helpers.create_store(path, helpers.header_of(3), keys, np.zeros(3, int))

    def compare(images, keys, content):
        raise AssertionError("asked for a file outside the directory")

    problem = verify_store(path, compare=compare).problems[0]
    assert problem["key"] == b"../../etc/passwd"
    assert "leads out of the directory" in problem["reason"]


def test_a_forged_index_is_found(path, monkeypatch):
    monkeypatch.setattr(
        "streamkd.store.creation.hash_keys", lambda keys: np.arange(len(keys), dtype=np.uint64)
    )
    helpers.teach(path, 12)
    reasons = [problem["reason"] for problem in verify_store(path).problems]
    assert reasons == ["the key index does not hold the hashes of the keys"]
