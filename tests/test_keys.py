"""Keys against plain Python lists of bytes."""

import hashlib
import random
import re

import numpy as np
import pytest

from streamkd.keys import Keys, hash_keys, key_fields


def random_names(seed):
    """Returns names that share beginnings, end in NULs, are empty, and are no UTF-8."""
    rng = random.Random(seed)
    longest = rng.choice([2, 8, 9, 25, 150])
    names = [
        bytes(rng.choice(b"\0ab/.\xff") for _ in range(rng.randrange(longest + 1)))
        for _ in range(rng.randrange(1, 15))
    ]
    names += [names[0], names[0] + b"\0", names[0] + b"a"]
    rng.shuffle(names)
    return sorted(names) if seed % 3 == 0 else names


@pytest.mark.parametrize("seed", range(40))
def test_keys_are_those_of_the_list(seed):
    names = random_names(seed)
    keys = Keys.from_list(names)
    assert len(keys) == len(names)
    assert keys.tolist() == list(keys) == [keys[i] for i in range(len(names))] == names
    assert keys[-1] == names[-1]
    assert keys == Keys.from_list(names)
    assert keys != Keys.from_list([*names, b"x"])
    assert keys != Keys.from_list([*names[:-1], names[-1] + b"x"])


@pytest.mark.parametrize("seed", range(200))
def test_sort_order_is_the_stable_order_of_the_bytes(seed):
    names = random_names(seed)
    order = Keys.from_list(names).sort_order()
    assert order.dtype == np.int64
    assert order.tolist() == sorted(range(len(names)), key=lambda i: names[i])


@pytest.mark.parametrize("seed", range(60))
def test_first_disorder_is_the_first_key_not_behind_the_one_before(seed):
    names = random_names(seed)
    pairs = list(enumerate(zip(names[1:], names[:-1], strict=True), start=1))
    keys = Keys.from_list(names)
    assert keys.first_disorder() == next((i for i, (b, a) in pairs if b <= a), None)
    assert keys.first_disorder(strictly=False) == next((i for i, (b, a) in pairs if b < a), None)


@pytest.mark.parametrize("seed", range(40))
def test_equal_at_compares_whole_keys(seed):
    names, rng = random_names(seed), np.random.default_rng(seed)
    keys, other = Keys.from_list(names), Keys.from_list([b"", *names])
    mine, theirs = rng.integers(0, len(names), (2, 50))
    expected = [names[i] == names[j] for i, j in zip(mine, theirs, strict=True)]
    assert keys.equal_at(mine, other, theirs + 1).tolist() == expected


def test_take_accepts_indices_ranges_slices_and_masks():
    names = [b"a", b"", b"ccc", b"dd"]
    keys = Keys.from_list(names)
    assert keys.take(np.array([3, 0, 3])).tolist() == [b"dd", b"a", b"dd"]
    assert keys.take(range(1, 3)).tolist() == keys.take(slice(1, 3)).tolist() == names[1:3]
    assert keys.take(np.array([True, False, False, True])).tolist() == [b"a", b"dd"]
    assert keys.take(np.array([], int)).tolist() == []


def test_keys_beyond_one_chunk_are_taken_sorted_and_hashed(monkeypatch):
    monkeypatch.setattr("streamkd.keys._CHUNK_KEYS", 7)
    names = [b"folder/%d" % (i * 37 % 100) for i in range(100)]
    keys = Keys.from_list(names)
    ordered = keys.take(keys.sort_order())
    assert ordered.tolist() == sorted(names)
    assert ordered.first_disorder() is None
    assert keys.first_invalid() is None
    hashes = [
        int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") for name in names
    ]
    assert hash_keys(keys).tolist() == hashes


def test_no_keys_are_keys():
    keys = Keys.from_list([])
    assert len(keys) == 0 and keys.tolist() == [] and keys.sort_order().tolist() == []
    assert len(hash_keys(keys)) == 0 and keys.first_invalid() is None
    with pytest.raises(IndexError):
        keys[0]


def test_keys_mapped_from_a_file_are_keys(tmp_path):
    keys = Keys.from_list([b"x.png", b"y\xff.png"])
    (tmp_path / "data").write_bytes(keys.data.tobytes())
    mapped = Keys(np.memmap(tmp_path / "data", np.uint8, "r"), keys.offsets)
    assert mapped == keys
    assert mapped.take(np.array([1])).tolist() == [b"y\xff.png"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (b"", "is empty"),
        (b"/etc/passwd", "is an absolute path"),
        (b"a/../b", r"a part '\.\.'"),
        (b"..", r"a part '\.\.'"),
        (b"a/..", r"a part '\.\.'"),
        (b"nul\0x.jpg", "NUL"),
    ],
)
def test_first_invalid_names_what_is_no_path_below_a_root(name, fault):
    index, reason = Keys.from_list(
        [b"a", b"...", b"b..png", b"..hidden", name, b"c"]
    ).first_invalid()
    assert index == 4
    assert re.search(fault, reason)


def test_key_fields_keep_a_key_that_is_no_utf8_in_base64():
    assert key_fields(b"a/1.png") == {"key": "a/1.png"}
    assert key_fields(b"\xff.png") == {"key": "\\xff.png", "key_base64": "/y5wbmc="}
