"""Biases that match frequencies: against bisection and known biases, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from run_helpers import softmax

from streamkd.results.bias_estimators import match_frequencies


def drawn_logits(num_classes, scale=2.0, num_rows=400):
    return np.random.default_rng(num_classes).normal(scale=scale, size=(num_rows, num_classes))


def with_bias(logits, classes, bias):
    biased = np.array(logits, np.float64)
    biased[:, classes] += bias
    return biased


@pytest.mark.parametrize("shift", [-40.0, -3.0, 0.0, 25.0])
def test_one_bias_is_that_of_bisection(shift):
    logits = with_bias(drawn_logits(5), [3], shift)
    low, high = -100.0, 100.0
    for _ in range(80):
        middle = (low + high) / 2
        too_high = softmax(with_bias(logits, [3], middle))[:, 3].mean() > 0.2
        low, high = (low, middle) if too_high else (middle, high)
    assert match_frequencies(logits, [3], [0.2]) == pytest.approx([low], abs=1e-6)


@pytest.mark.parametrize("classes", [[0], [1, 4], [0, 1, 2, 3, 5]])
def test_a_bias_that_was_taken_off_is_found_again(classes):
    logits = drawn_logits(6)
    wanted = softmax(logits)[:, classes].mean(axis=0)
    taken = np.linspace(-9, 7, len(classes))
    found = match_frequencies(with_bias(logits, classes, taken).astype(np.float32), classes, wanted)
    assert found == pytest.approx(-taken, abs=1e-5)


@pytest.mark.parametrize(
    ("scale", "shift"),
    [pytest.param(300.0, -1000.0, id="sharp"), pytest.param(1e-3, 60.0, id="flat")],
)
def test_sharp_and_flat_answers_are_matched(scale, shift):
    logits = with_bias(drawn_logits(8, scale), [2, 6], shift)
    bias = match_frequencies(logits, [2, 6], [0.3, 0.01])
    means = softmax(with_bias(logits, [2, 6], bias))[:, [2, 6]].mean(axis=0)
    assert means == pytest.approx([0.3, 0.01], abs=1e-8)


def test_the_logits_stay_as_they_were():
    logits = drawn_logits(4)
    before = logits.copy()
    match_frequencies(logits, [1], [0.5])
    assert np.array_equal(logits, before)
