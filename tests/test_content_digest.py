"""The content digest against TensorFlow's own hash buckets, inside the graph and outside."""

import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from streamkd.pixels import content_digest
from streamkd.pixels.decode import content_digests

# Contents of files: lengths on both sides of those at which FarmHash changes its algorithm.
CONTENTS = [bytes(range(256)) * 4 + b"\xff" * 7][:1] + [
    np.random.default_rng(n).bytes(n) for n in (0, 1, 3, 4, 8, 16, 17, 32, 33, 64, 65, 300, 5000)
]
MODULI = [2**62, 2**61 - 1, 2**31 - 1, 1000]


def assert_farmhash64(digests, contents):
    """Compares with `tf.strings.to_hash_bucket_fast`, documented as FarmHash64 modulo buckets."""
    assert digests.dtype == np.uint64
    for modulus in MODULI:
        buckets = tf.strings.to_hash_bucket_fast(contents, modulus).numpy().tolist()
        assert [value % modulus for value in digests.tolist()] == buckets


@pytest.fixture
def paths(tmp_path):
    paths = [bytes(tmp_path / f"{number:02d}") for number in range(len(CONTENTS))]
    for path, content in zip(paths, CONTENTS, strict=True):
        with open(path, "wb") as file:
            file.write(content)
    return paths


def test_the_digest_in_the_graph_is_farmhash64():
    assert_farmhash64(tf.function(content_digests)(tf.constant(CONTENTS)).numpy(), CONTENTS)


def test_the_digest_of_files_is_farmhash64(paths):
    digests, readable = content_digest.digest_files(paths)
    assert_farmhash64(digests, CONTENTS)
    assert readable.all() and readable.dtype == bool


def test_the_digest_is_the_same_without_farmhash(paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "farmhash", None)
    assert_farmhash64(content_digest.digest_files(paths)[0], CONTENTS)


def test_farmhash_is_asked_for_the_fingerprint_where_it_is_installed(paths, monkeypatch):
    # Its `hash64` differs from TensorFlow's digest on processors with SSE 4.2.
    fake = types.SimpleNamespace(fingerprint64=lambda data: 2**64 - 1 - len(data))
    monkeypatch.setitem(sys.modules, "farmhash", fake)
    expected = [2**64 - 1 - len(content) for content in CONTENTS]
    assert content_digest.digest_files(paths)[0].tolist() == expected


def test_farmhash_gives_the_digest_of_the_graph():
    farmhash = pytest.importorskip("farmhash", reason="pyfarmhash is optional")
    digests = np.array([farmhash.fingerprint64(content) for content in CONTENTS], np.uint64)
    assert_farmhash64(digests, CONTENTS)


def test_files_that_cannot_be_read_are_told_apart(paths, tmp_path):
    paths[3:3] = [bytes(tmp_path / "nowhere"), bytes(tmp_path)]
    counts = []
    digests, readable = content_digest.digest_files(paths, progress=counts.append)
    assert np.flatnonzero(~readable).tolist() == [3, 4]
    assert digests[[3, 4]].tolist() == [0, 0]
    assert_farmhash64(np.delete(digests, [3, 4]), CONTENTS)
    assert sum(counts) == len(paths)


def test_many_files_keep_their_order(tmp_path):
    paths = []
    for number in range(100):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
        paths.append(bytes(tmp_path / str(number)))
    assert_farmhash64(content_digest.digest_files(iter(paths))[0], [b"%d" % n for n in range(100)])


def test_no_files_have_no_digests():
    digests, readable = content_digest.digest_files([])
    assert digests.shape == readable.shape == (0,)
