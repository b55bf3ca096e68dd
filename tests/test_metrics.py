"""The numbers of an evaluation against scikit-learn and plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from run_helpers import distillation, log_softmax, softmax

from streamkd.results import metrics
from streamkd.store.codecs import fidelity

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@pytest.fixture(params=[3, 10], ids=["three classes", "ten classes"])
def answers(request):
    """Logits float32 `[200, num_classes]` and labels that they are often right about."""
    rng = np.random.default_rng(request.param)
    labels = rng.integers(0, request.param, 200)
    logits = rng.normal(scale=2, size=(200, request.param)).astype(np.float32)
    logits[np.arange(200), labels] += 2
    return logits, labels


def test_accuracy_is_that_of_scikit_learn(answers):
    logits, labels = answers
    expected = sklearn_metrics.accuracy_score(labels, logits.argmax(axis=1))
    assert metrics.accuracy(logits, labels) == pytest.approx(expected)


@pytest.mark.parametrize("num_top", [1, 2, 5])
def test_top_accuracy_is_that_of_scikit_learn(answers, num_top):
    logits, labels = answers
    if num_top >= logits.shape[1]:
        assert metrics.top_accuracy(logits, labels, num_top) == 1
        return
    expected = sklearn_metrics.top_k_accuracy_score(labels, logits, k=num_top)
    assert metrics.top_accuracy(logits, labels, num_top) == pytest.approx(expected)


def test_negative_log_likelihood_is_that_of_scikit_learn(answers):
    logits, labels = answers
    expected = sklearn_metrics.log_loss(labels, softmax(logits), labels=range(logits.shape[1]))
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(expected, rel=1e-9)


def test_negative_log_likelihood_stays_finite_for_a_confident_mistake():
    nll = metrics.negative_log_likelihood(np.array([[2000.0, 0.0]]), np.array([1]))
    assert nll == pytest.approx(2000)


def test_log_softmax_is_that_of_float64(answers):
    assert fidelity.log_softmax(answers[0]).dtype == np.float64
    np.testing.assert_allclose(fidelity.log_softmax(answers[0]), log_softmax(answers[0]))


def test_calibration_error_is_the_gap_bin_by_bin(answers):
    logits, labels = answers
    confidence = softmax(logits).max(axis=1)
    correct = logits.argmax(axis=1) == labels
    expected = 0.0
    for lower in np.arange(15) / 15:
        inside = (confidence >= lower) & (confidence < lower + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert metrics.expected_calibration_error(logits, labels) == pytest.approx(expected)


def test_calibration_error_of_certainty_is_the_error_rate():
    logits = np.array([[900.0, 0.0]] * 4)
    assert metrics.expected_calibration_error(logits, np.array([0, 0, 0, 1])) == pytest.approx(0.25)


def test_agreement_counts_equal_choices():
    logits, teacher_logits = np.eye(4), np.eye(4)[[0, 1, 3, 3]]
    assert metrics.agreement(logits, teacher_logits) == 0.75


def test_divergence_is_the_mean_kl_at_temperature_one(answers):
    logits = answers[0]
    teacher_logits = np.roll(logits, 1, axis=0)
    expected = distillation(teacher_logits, logits, 1.0).mean()
    assert metrics.divergence(teacher_logits, logits) == pytest.approx(expected)
    assert metrics.divergence(logits, logits + 3) == pytest.approx(0, abs=1e-6)
