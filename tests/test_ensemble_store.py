"""The stores of several teachers read as one: every row is the combination of their own rows."""

from __future__ import annotations

import itertools
import pickle
import shutil
import signal
import threading
from unittest import mock

import numpy as np
import pytest
import store_helpers
from ensemble_helpers import (
    OURS,
    answers_of,
    log_softmax,
    refusal,
    write_small,
    write_store_of,
)
from process_helpers import running

import streamkd as kd
from streamkd.ensemble.checks import islands_of
from streamkd.ensemble.ensemble_store import as_store
from streamkd.errors import MissingLogitsError, OptionError
from streamkd.keys import Keys
from streamkd.store.layout import DONE, REFUSED
from streamkd.store.writer import StoreWriter
from streamkd.views.views import Views

# Kills itself at a given write to the disk, counted from the start of the process.
KILLED = """
import itertools, os, signal, sys
import streamkd as kd
from streamkd import disk

numbers, write_at = itertools.count(1), disk.write_at

def killed(*values):
    write_at(*values)
    if next(numbers) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

disk.write_at = killed
kd.combine_stores(sys.argv[3:], [0.7, 0.3]).write(sys.argv[2], progress=False)
"""
VIEWS = Views(2, crop=(0.35, 1), flip=True, seed=5)


@pytest.fixture
def pair(tmp_path):
    """Two teachers of the same classes."""
    return [write_small(tmp_path / f"{name}.h5", seed=n) for n, name in enumerate("ab")]


@pytest.fixture
def trio(tmp_path):
    """Teachers of ant and bee, of bee and cat, and of cat, emu and ant."""
    lists = (["ant", "bee"], ["bee", "cat"], ["cat", "emu", "ant"])
    return [write_small(tmp_path / f"{n}.h5", names, seed=n) for n, names in enumerate(lists)]


@pytest.mark.parametrize("weights", [None, [0.7, 0.3], [np.float32(0.5), 0.5], (1, 0)])
def test_the_mean_of_log_probabilities_is_that_of_the_teachers(pair, weights):
    store = kd.combine_stores(pair, weights)
    first, second = (log_softmax(answers_of(path)) for path in pair)
    share, other = weights or (0.5, 0.5)
    rows = np.array([7, 0, 7, 3])
    expected = log_softmax(share * first + other * second)[rows]
    assert store.rule == "logits" and store.gather(rows).dtype == np.float32
    np.testing.assert_allclose(log_softmax(store.gather(rows)), expected, atol=1e-5)


def test_the_mean_of_probabilities_is_that_of_the_teachers(pair):
    store = kd.combine_stores(dict(zip(pair, [0.25, 0.75], strict=True)), rule="probabilities")
    first, second = (np.exp(log_softmax(answers_of(path))) for path in pair)
    answers = np.exp(log_softmax(store.gather(np.arange(10))))
    np.testing.assert_allclose(answers, 0.25 * first + 0.75 * second, atol=1e-6)


def test_weights_by_class_weigh_each_class(pair):
    shares = np.array([0.9, 0.5, 0.0])
    weights = [dict(zip(OURS, own.tolist(), strict=True)) for own in (shares, 1 - shares)]
    store = kd.combine_stores(pair, weights)
    first, second = (log_softmax(answers_of(path)) for path in pair)
    expected = log_softmax(shares * first + (1 - shares) * second)
    np.testing.assert_allclose(log_softmax(store.gather(np.arange(10))), expected, atol=1e-5)
    assert store.header.teacher["teachers"]["members"]["1"]["weight"] == [0.9, 0.5, 0.0]


def test_teachers_of_different_classes_are_joined_by_name(trio):
    store = kd.combine_stores(trio)
    assert (store.rule, store.class_names) == ("divergence", ["ant", "bee", "cat", "emu"])
    q = np.exp(log_softmax(store.gather(np.arange(10))))
    columns = [[store.class_names.index(n) for n in kd.open_store(p).class_names] for p in trio]
    p = [np.exp(log_softmax(answers_of(path))) for path in trio]

    def divergence(q):
        parts = []
        for own, answers in zip(columns, p, strict=True):
            given = q[:, own] / q[:, own].sum(axis=1, keepdims=True)
            parts.append((answers * np.log(answers / given)).sum(axis=1))
        return sum(parts)

    least = divergence(q)
    for seed in range(50):  # no neighbour has a smaller sum of divergences
        near = q * np.exp(np.random.default_rng(seed).normal(0, 1e-3, q.shape))
        assert (divergence(near / near.sum(axis=1, keepdims=True)) >= least - 1e-9).all()


def test_teachers_with_the_same_classes_in_another_order_are_joined_by_name(tmp_path, pair):
    other = write_small(tmp_path / "c.h5", OURS[::-1], seed=1)
    store = kd.combine_stores([pair[0], other])
    expected = log_softmax(
        0.5 * log_softmax(answers_of(pair[0])) + 0.5 * log_softmax(answers_of(other))[:, ::-1]
    )
    assert (store.rule, store.class_names) == ("logits", OURS)
    np.testing.assert_allclose(log_softmax(store.gather(np.arange(10))), expected, atol=1e-5)


def test_teachers_without_class_names_are_joined_by_number(tmp_path):
    paths = [write_small(tmp_path / f"{n}.h5", [], seed=n, num_classes=4) for n in range(2)]
    store = kd.combine_stores(paths)
    assert (store.class_names, store.num_classes, store.rule) == ([], 4, "logits")


def test_a_dustbin_is_no_class_of_the_combination(tmp_path, pair):
    cars = write_small(tmp_path / "cars.h5", ["van", "none", "bee"], seed=4)
    store = kd.combine_stores([pair[0], kd.Member(cars, dustbin="none", oversampling=3)])
    assert store.class_names == [*OURS, "van"]
    plain = kd.combine_stores([pair[0], kd.Member(cars, dustbin="none")])
    rows = np.arange(10)
    # Where it saw its own classes too often, it believes less in them.
    own = [1, 3]
    corrected = np.exp(log_softmax(store.gather(rows)))[:, own].sum(axis=1)
    assert (corrected < np.exp(log_softmax(plain.gather(rows)))[:, own].sum(axis=1)).all()


def test_sigmoid_teachers_are_combined_label_by_label(tmp_path):
    teachers = [{"name": n, "output": "sigmoid-logits"} for n in "ab"]
    paths = [
        write_small(tmp_path / f"{n}.h5", seed=n, teacher=teacher)
        for n, teacher in enumerate(teachers)
    ]
    store = kd.combine_stores(paths, rule="probabilities")
    p = [1 / (1 + np.exp(-answers_of(path))) for path in paths]
    answers = 1 / (1 + np.exp(-store.gather(np.arange(10)).astype(np.float64)))
    np.testing.assert_allclose(answers, (p[0] + p[1]) / 2, atol=1e-6)
    assert store.header.is_sigmoid and store.describe()["activation"] == "sigmoid"


def test_sigmoid_teachers_of_different_labels_need_none_in_common(tmp_path):
    lists = (["ant", "bee"], ["cat", "emu"])
    paths = [
        write_small(
            tmp_path / f"{n}.h5", names, seed=n, teacher={"name": "t", "output": "sigmoid-logits"}
        )
        for n, names in enumerate(lists)
    ]
    store = kd.combine_stores(paths)
    expected = np.concatenate([answers_of(path) for path in paths], axis=1)
    np.testing.assert_allclose(store.gather(np.arange(10)), expected, atol=1e-4)


def test_images_are_those_of_all_stores_and_labels_of_the_first_that_knows_one(tmp_path):
    keys, content = store_helpers.keys_of(9), store_helpers.content_of(range(9))
    unlabelled = np.full(9, -1)
    labels = np.array([0, 1, 2] * 3)
    first = write_store_of(tmp_path / "a.h5", keys, content, OURS, labels=unlabelled)
    chosen = np.array([1, 2, 5, 8])
    second = write_store_of(
        tmp_path / "b.h5",
        keys.take(chosen),
        content[chosen],
        ["cat", "bee", "ant"],
        labels=2 - labels[chosen],
        seed=1,
    )
    store = kd.combine_stores([first, second])
    assert store.keys == keys.take(chosen) and store.labels.tolist() == labels[chosen].tolist()
    found = store.images_of_keys(keys)
    assert found.tolist() == [-1, 0, 1, -1, -1, 2, -1, -1, 3]
    assert store.content_of(np.arange(4)).tolist() == content[chosen].tolist()
    expected = log_softmax(answers_of(first))[chosen] + log_softmax(answers_of(second))[:, ::-1]
    np.testing.assert_allclose(
        log_softmax(store.gather(np.arange(4))), log_softmax(expected / 2), atol=1e-5
    )
    assert store.store_without(keys[0]).path == second
    with pytest.raises(IndexError, match=r"row 4; the store .* has 0 to 3"):
        store.gather(np.array([4]))


def test_a_teacher_may_have_several_store_files(tmp_path, pair):
    keys, content = store_helpers.keys_of(10), store_helpers.content_of(range(10))
    whole, shards = answers_of(pair[0]), []
    for number, images in enumerate(np.split(np.arange(10), [6])):
        path = tmp_path / f"shard-{number}.h5"
        options = {"logits": whole[images], "teacher": kd.open_store(pair[0]).header.teacher}
        shards.append(write_store_of(path, keys.take(images), content[images], OURS, **options))
    kd.merge(shards[::-1], tmp_path / "a.index", index=True, progress=False)
    store, expected = kd.combine_stores([tmp_path / "a.index", pair[1]]), kd.combine_stores(pair)
    rows = np.array([9, 0, 5, 6, 5])
    assert store.keys == expected.keys
    assert np.array_equal(store.gather(rows), expected.gather(rows))
    assert np.array_equal(store.images_of_content(content), np.arange(10))
    assert store.describe().num_stores == 3


def test_a_file_that_was_moved_is_matched_by_its_content(tmp_path):
    content = store_helpers.content_of(range(3))
    first, moved = (Keys.from_list(k) for k in ([b"a", b"b", b"c"], [b"a", b"bb", b"c"]))
    paths = [
        write_store_of(tmp_path / f"{n}.h5", keys, content, OURS, seed=n)
        for n, keys in enumerate((first, moved))
    ]
    store = kd.combine_stores(paths)
    assert store.num_images == 3
    assert store.images_of_keys(moved).tolist() == [0, -1, 2]
    assert store.images_of_content(content[1:2]).tolist() == [1]


def test_views_are_those_of_the_first_store_once_all_are_compared(tmp_path):
    paths = [write_small(tmp_path / f"{n}.h5", seed=n, views=VIEWS) for n in range(3)]
    store = kd.combine_stores(paths)
    rows = np.array([3, 29, 3, 0])
    parameters = store.view_parameters(rows)
    single = kd.open_store(paths[0]).view_parameters(rows)
    assert list(parameters) == list(single) == ["view_crop", "view_flip"]
    assert all(np.array_equal(parameters[name], single[name]) for name in single)
    one = [mock.Mock(wraps=member.opened.view_parameters) for member in store.members]
    for member, counted in zip(store.members, one, strict=True):
        member.opened.view_parameters = counted
    store.view_parameters(rows)  # compared before: only the first is read
    assert [len(counted.mock_calls) for counted in one] == [1, 0, 0]


def test_mixed_views_keep_their_partners(tmp_path):
    mixed = Views(2, flip=True, mixup=0.8, cutmix=1.0)
    paths = [write_small(tmp_path / f"{n}.h5", seed=n, views=mixed) for n in range(2)]
    store, single = kd.combine_stores(paths), kd.open_store(paths[0])
    rows = np.arange(30)
    ours, theirs = store.view_parameters(rows), single.view_parameters(rows)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    partners = [store.partners_of(view) for view in (1, 2)]
    assert [p.tolist() for p in partners] == [single.partners_of(v).tolist() for v in (1, 2)]
    assert (partners[0] >= 0).all()
    written = store.write(tmp_path / "all.h5", progress=False)
    assert [p.tolist() for p in partners] == [written.partners_of(v).tolist() for v in (1, 2)]


def test_stores_of_other_images_have_other_mixtures(tmp_path):
    mixed = Views(1, mixup=0.8)
    paths = [write_small(tmp_path / f"{n}.h5", seed=n, views=mixed, num_images=n) for n in (10, 16)]
    keys = kd.open_store(paths[0]).keys
    assert (kd.open_store(paths[1]).images_of_keys(keys) >= 0).sum() > 3
    words = str(refusal(kd.combine_stores, paths))
    assert "view 1: view_partner is not the same" in words
    assert "Images are mixed in pairs, which depend on all images of a store." in words


def test_a_refused_image_has_no_answer(tmp_path, pair):
    other = write_small(tmp_path / "c.h5", seed=3, refused=[4])
    store = kd.combine_stores([*pair, other])
    assert store.done_of(np.arange(10)).tolist() == [DONE] * 4 + [REFUSED] + [DONE] * 5
    assert store.store_without(store.keys[4]).path == other
    with pytest.raises(MissingLogitsError, match=r"c\.h5 has no logits of .* could not be decoded"):
        store.gather(np.array([4]))


def test_it_is_pickled_and_read_in_threads_and_hashed(pair):
    store = kd.combine_stores(pair, [0.6, 0.4])
    again = pickle.loads(pickle.dumps(store))
    rows = np.arange(10)
    assert np.array_equal(again.gather(rows), store.gather(rows))
    assert again.digest_of_rows() == store.digest_of_rows()
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(again.gather(rows))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(np.array_equal(r, results[0]) for r in results)


def test_the_digest_tells_weights_rules_members_and_dustbins(tmp_path, pair):
    cars = write_small(tmp_path / "cars.h5", ["ant", "bee", "none"], seed=4)
    stores = [
        kd.combine_stores(pair),
        kd.combine_stores(pair[::-1]),
        kd.combine_stores(pair, [0.6, 0.4]),
        kd.combine_stores(pair, rule="probabilities"),
        kd.combine_stores([pair[0], cars]),
        kd.combine_stores([pair[0], kd.Member(cars, dustbin="none")]),
        kd.combine_stores([pair[0], kd.Member(cars, dustbin="none", oversampling=2)]),
    ]
    assert len({store.digest_of_rows() for store in stores}) == len(stores)
    moved = shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    there = kd.combine_stores([moved / "a.h5", moved / "b.h5"])
    assert there.digest_of_rows() == stores[0].digest_of_rows()
    assert there.header == stores[0].header


def test_the_description_names_the_teachers_and_their_weights(tmp_path):
    labels = np.arange(10) % 3
    logits = np.eye(3)[labels] * 5
    paths = [
        write_small(tmp_path / "a.h5", logits=logits, labels=labels),
        write_small(tmp_path / "b.h5", labels=labels, seed=3),
    ]
    store = kd.combine_stores(paths, [0.9, 0.1])
    described = store.describe()
    assert (described.teacher, described.num_stores, described.stores) == ("a + b", 2, paths)
    members = described["combination"]["members"]
    assert [members[n]["weight"] for n in ("1", "2")] == [0.9, 0.1]
    expected = (store.gather(np.arange(10)).argmax(axis=1) == labels).mean()
    assert described.teacher_accuracy == store.summary["teacher_accuracy"] == expected
    assert "2 stores" not in repr(store) and "10 images, 3 classes, logits" in repr(store)


def test_image_sizes_may_differ_and_are_then_the_students_choice(tmp_path):
    sizes = ({"image_size": [8, 8]}, {"image_size": [9, 9]})
    paths = [write_small(tmp_path / f"{n}.h5", seed=n, images=s) for n, s in enumerate(sizes)]
    assert kd.combine_stores(paths).header.images == {}


def test_one_store_in_a_list_is_that_store(pair):
    assert as_store(pair[:1]).path == pair[0]
    assert as_store(kd.Member(pair[0])).path == pair[0]
    assert as_store({pair[0]: 1.0}).path == pair[0]
    words = str(refusal(as_store, [kd.Member(pair[0], 0.7)]))
    assert "is the only store, and has a weight or a dustbin" in words
    assert "there are not several" in str(refusal(as_store, pair[0], [1.0]))


def test_islands_are_classes_that_no_teacher_compares():
    def numbers(*columns):
        return [np.array(own) for own in columns]

    assert islands_of(numbers([0, 1], [1, 2]), 3) == [([0, 1, 2], False)]
    assert islands_of(numbers([0, 1], [2, -1]), 3) == [([0, 1], False), ([2], True)]
    assert islands_of(numbers([2, 3], [0, 1], [1, 3]), 5) == [([0, 1, 2, 3], False), ([4], False)]


class TestWriting:
    """The combined answers as one ordinary store."""

    def test_the_store_has_the_combined_answers_labels_and_views(self, tmp_path):
        paths = [
            write_small(tmp_path / f"{n}.h5", seed=n, views=VIEWS, labels=np.arange(10) % 3)
            for n in range(2)
        ]
        combination = kd.combine_stores(paths, [0.7, 0.3])
        store = combination.write(tmp_path / "all.h5", codec="float32", progress=False)
        rows = np.arange(30)
        assert np.array_equal(store.gather(rows), combination.gather(rows))
        ours, theirs = (one.view_parameters(rows) for one in (store, combination))
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
        assert store.labels.tolist() == combination.labels.tolist()
        assert store.header.teacher == combination.header.teacher
        assert store.describe()["combination"] == combination.describe()["combination"]
        assert store.finished and store.summary["num_labelled"] == 10
        assert kd.verify(store.path, progress=False).sound

    @pytest.mark.parametrize("after", [0, 1, 2])
    def test_one_that_was_killed_is_continued_to_the_same_bytes(self, tmp_path, pair, after):
        combination = kd.combine_stores(pair, [0.7, 0.3])
        combination.write(tmp_path / "whole.h5", progress=False)
        writes = itertools.count()
        original = StoreWriter.write_stored

        def killed(*values):
            if next(writes) == after:
                raise KeyboardInterrupt
            return original(*values)

        stopped = pytest.raises(KeyboardInterrupt)
        with mock.patch.object(StoreWriter, "write_stored", killed), stopped:
            combination.write(tmp_path / "cut.h5", progress=False)
        assert kd.open_store(tmp_path / "cut.h5").rows_done == 4 * after
        kd.combine_stores(pair, [0.7, 0.3]).write(tmp_path / "cut.h5", progress=False)
        assert (tmp_path / "cut.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()

    @pytest.mark.slow
    def test_a_process_that_is_killed_at_each_write_leaves_the_same_bytes(self, tmp_path, pair):
        kd.combine_stores(pair, [0.7, 0.3]).write(tmp_path / "whole.h5", progress=False)
        out = tmp_path / "cut.h5"
        for call in range(1, 30):
            with running("-c", KILLED, call, out, *pair) as child:
                errors = child.communicate()[1]
            if child.returncode == 0:
                break
            assert child.returncode == -signal.SIGKILL, errors
        assert call > 5 and out.read_bytes() == (tmp_path / "whole.h5").read_bytes()

    def test_other_weights_do_not_continue_it(self, tmp_path, pair):
        kd.combine_stores(pair, [0.7, 0.3]).write(tmp_path / "all.h5", progress=False)
        words = str(refusal(kd.combine_stores(pair).write, tmp_path / "all.h5", progress=False))
        assert "is not the beginning of this combination; it was left as it is" in words
        assert '"1": {"weight": 0.7}' in words and '"1": {"weight": 0.5}' in words

    def test_refused_images_stay_without_an_answer(self, tmp_path, pair):
        other = write_small(tmp_path / "c.h5", seed=3, refused=[4])
        combination = kd.combine_stores([pair[0], other])
        store = combination.write(tmp_path / "all.h5", progress=False)
        assert store.done_of(np.arange(10)).tolist() == combination.done_of(np.arange(10)).tolist()

    def test_a_member_is_not_written_over_or_combined_again(self, pair):
        combination = kd.combine_stores(pair)
        words = str(refusal(combination.write, pair[1], progress=False))
        assert "is one of the stores" in words
        again = refusal(kd.combine_stores, [combination, pair[0]])
        assert "combines several teachers, and a single store is needed" in str(again)
        assert isinstance(again, OptionError)
