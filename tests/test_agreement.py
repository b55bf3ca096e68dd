"""Agreement of teachers: tallies over batches against plain float64 sums over all images."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest

from streamkd.ensemble.agreement import (
    MAX_EXAMPLES,
    AccuracyTally,
    CodeTally,
    PairTally,
    jensen_shannon,
    label_jensen_shannon,
)
from streamkd.store.decisions import right

# Two teachers of six combined classes: the first knows 0 to 3, in another order and with an output
# that is no class; the second knows 1, 2, 3 and 5.
FIRST = np.array([3, 0, -1, 1, 2])
SECOND = np.array([1, 5, 2, 3])
NUM_CLASSES, SHARED = 6, [1, 2, 3]


@pytest.fixture(scope="module")
def answers():
    """Logits of both teachers for 500 images, and labels: of all classes, some without."""
    rng = np.random.default_rng(0)
    first = rng.normal(0, 3, (500, len(FIRST))).astype(np.float32)
    second = rng.normal(0, 3, (500, len(SECOND))).astype(np.float32)
    return first, second, rng.integers(-1, NUM_CLASSES, 500)


def in_batches(pair, first, second, labels, size):
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        pair.add(first[part], second[part], labels[part], np.arange(len(labels))[part])
    return pair


def softmax(logits):
    powers = [math.exp(z) for z in logits]
    return [power / math.fsum(powers) for power in powers]


def plain_jensen_shannon(p, q):
    """Returns the divergence of two rows of probabilities, with Python's own sums."""
    mean = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    halves = ([a * math.log(a / m) for a, m in zip(r, mean, strict=True)] for r in (p, q))
    return math.fsum(math.fsum(half) for half in halves) / 2


def test_the_divergence_is_the_plain_sum():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0, 4, (2, 20, 7))
    expected = [
        plain_jensen_shannon(softmax(a), softmax(b)) for a, b in zip(first, second, strict=True)
    ]
    assert jensen_shannon(first, second) == pytest.approx(expected, rel=1e-12)
    assert jensen_shannon(second, first) == pytest.approx(expected, rel=1e-12)
    labels = label_jensen_shannon(first, second)
    p, q = (1 / (1 + np.exp(-part[3, 2])) for part in (first, second))
    assert labels.shape == first.shape
    assert labels[3, 2] == pytest.approx(plain_jensen_shannon([1 - p, p], [1 - q, q]), rel=1e-12)


def test_the_divergence_stays_between_zero_and_log_two():
    far = np.array([[3e38, -3e38], [0, 0], [1e-3, 0]], np.float32)
    assert jensen_shannon(far, far[:, ::-1]) == pytest.approx([np.log(2), 0, 0], abs=1e-6)
    assert (jensen_shannon(far, far) == 0).all()
    assert label_jensen_shannon(far, -far)[0] == pytest.approx(np.log(2))


@pytest.mark.parametrize("size", [1, 64, 500])
def test_a_pair_is_compared_on_the_classes_that_both_know(answers, size):
    first, second, labels = answers
    pair = in_batches(PairTally(FIRST, SECOND, NUM_CLASSES, is_sigmoid=False), *answers, size)
    taken = np.flatnonzero(np.isin(labels, [-1, *SHARED]))
    ours = first[taken][:, [list(FIRST).index(c) for c in SHARED]]
    theirs = second[taken][:, [list(SECOND).index(c) for c in SHARED]]
    said = [(SHARED[a], SHARED[b]) for a, b in zip(ours.argmax(1), theirs.argmax(1), strict=True)]
    assert pair.shared.tolist() == SHARED and pair.num_images == len(taken)
    assert pair.agreement == sum(a == b for a, b in said) / len(taken)
    expected = [
        plain_jensen_shannon(softmax(a), softmax(b)) for a, b in zip(ours, theirs, strict=True)
    ]
    assert pair.divergence == pytest.approx(np.mean(expected), rel=1e-9)

    counted = collections.Counter(pair for pair in said if pair[0] != pair[1])
    found = pair.most_frequent(100)
    assert pair.num_class_pairs == len(found) == len(counted)
    assert {(entry.first, entry.second): entry.count for entry in found} == counted
    assert [entry.count for entry in found] == sorted(counted.values(), reverse=True)
    for entry in found:
        where = [i for i, s in zip(taken, said, strict=True) if s == (entry.first, entry.second)]
        assert entry.images == where[:MAX_EXAMPLES]
    assert pair.most_frequent(2) == found[:2]


def test_independent_labels_are_compared_one_by_one(answers):
    first, second, labels = answers
    pair = in_batches(PairTally(FIRST, SECOND, NUM_CLASSES, is_sigmoid=True), *answers, 64)
    taken = np.isin(labels, [-1, *SHARED])
    ours = first[taken][:, [list(FIRST).index(c) for c in SHARED]]
    theirs = second[taken][:, [list(SECOND).index(c) for c in SHARED]]
    assert pair.agreement == pytest.approx(np.mean((ours > 0) == (theirs > 0)), rel=1e-12)
    assert pair.divergence == pytest.approx(label_jensen_shannon(ours, theirs).mean(), rel=1e-9)
    found = {(entry.first, entry.second): entry.count for entry in pair.most_frequent(100)}
    for number, label in enumerate(SHARED):
        has, other_has = ours[:, number] > 0, theirs[:, number] > 0
        assert found[label, -1] == (has & ~other_has).sum()
        assert found[-1, label] == (other_has & ~has).sum()


def test_less_than_two_shared_classes_say_nothing(answers):
    first, second, labels = answers
    pair = PairTally(np.array([3, 0, -1, 4, 4]), SECOND, NUM_CLASSES, is_sigmoid=False)
    pair.add(first, second, labels, np.arange(500))
    assert (pair.shared.tolist(), pair.num_images, pair.agreement) == ([3], 0, None)
    assert pair.divergence is None and pair.most_frequent(10) == []
    one = PairTally(np.array([3, 0, -1, 4, 4]), SECOND, NUM_CLASSES, is_sigmoid=True)
    one.add(first, second, labels, np.arange(500))
    assert one.num_images == np.isin(labels, [-1, 3]).sum() and one.agreement is not None


def test_a_teacher_is_right_or_wrong_on_the_labels_that_it_knows(answers):
    first, _, labels = answers
    tally = AccuracyTally(FIRST, NUM_CLASSES, NUM_CLASSES)
    for start in range(0, 500, 77):
        tally.add(first[start : start + 77], labels[start : start + 77])
    known = np.isin(labels, [0, 1, 2, 3])
    chosen = FIRST[np.where(FIRST >= 0, first, -np.inf).argmax(1)]
    assert tally.num_labelled == known.sum()
    assert tally.accuracy == np.mean((chosen == labels)[known])
    assert AccuracyTally(FIRST, NUM_CLASSES, NUM_CLASSES).accuracy is None


@pytest.mark.parametrize("num_names", [1, 2])
def test_a_single_logit_decides_as_it_does_in_its_own_store(num_names):
    logits = np.array([[-1.0], [2.0], [0.5], [-3.0], [1.0]], np.float32)
    labels = np.array([0, 0, num_names - 1, 0, -1])
    tally = AccuracyTally(np.array([0]), 1, num_names)
    tally.add(logits, labels)
    own = right(logits, labels, ["no", "yes"][:num_names])[labels >= 0]
    assert (tally.num_right, tally.num_labelled) == (own.sum(), 4)
    pair = PairTally(np.array([0]), np.array([0]), 1, is_sigmoid=True)
    pair.add(logits, -logits, labels, np.arange(5))
    assert (pair.num_images, pair.agreement) == (5, 0)


def test_codes_are_counted_in_any_order_of_batches():
    rng = np.random.default_rng(2)
    codes = rng.zipf(1.3, 3000) % 10**12
    tally = CodeTally()
    for part in np.array_split(np.arange(3000), 41):
        tally.add(codes[part], part)
    tally.add(codes[:0], np.arange(0))
    counted = collections.Counter(codes.tolist())
    assert dict(zip(tally.codes.tolist(), tally.counts.tolist(), strict=True)) == counted
    assert (np.diff(tally.codes) > 0).all()
    for code, examples in zip(tally.codes.tolist(), tally.examples, strict=True):
        first = np.flatnonzero(codes == code)[:MAX_EXAMPLES].tolist()
        assert examples.tolist() == first + [-1] * (MAX_EXAMPLES - len(first))
