"""Logits or probabilities: answers are judged by their numbers."""

import numpy as np
import pytest
from run_helpers import softmax

from streamkd.errors import TeacherError
from streamkd.models.output_kind import MIN_PROBABILITY, output_kind, to_logits

LOGITS = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32) * 4
PROBABILITIES = softmax(LOGITS).astype(np.float32)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (LOGITS, "logits"),
        (LOGITS - 100, "logits"),
        (np.abs(LOGITS), "logits"),
        (np.full((2, 3), -1.0), "logits"),
        (PROBABILITIES, "probabilities"),
        (PROBABILITIES.astype(np.float16), "probabilities"),
        (np.eye(4), "probabilities"),
        (np.log(PROBABILITIES), "log-probabilities"),
        (np.log(PROBABILITIES).astype(np.float16), "log-probabilities"),
        (np.zeros((0, 4)), "logits"),
        (np.full((2, 3), np.nan), "logits"),
    ],
    ids=[
        *["logits", "negative", "positive", "constant", "probabilities", "half probabilities"],
        *["one-hot", "log", "half log", "none", "nan"],
    ],
)
def test_the_kind_of_answers_is_judged_by_their_numbers(answers, kind):
    assert output_kind(answers) == kind


@pytest.mark.parametrize("answers", [np.full((2, 4), 0.9), np.zeros((2, 4)), np.eye(4)[:, :3]])
def test_answers_that_may_be_sigmoid_outputs_are_refused(answers):
    with pytest.raises(TeacherError, match="between 0 and 1 but do not sum to 1") as refusal:
        output_kind(answers)
    assert "--teacher-output logits" in str(refusal.value)


@pytest.mark.parametrize("temperature", [1, 4, 20])
def test_log_probabilities_are_logits_at_every_temperature(temperature):
    for kind, answers in [
        ("logits", LOGITS),
        ("probabilities", PROBABILITIES),
        ("log-probabilities", np.log(PROBABILITIES)),
    ]:
        logits = to_logits(answers, kind)
        assert logits.dtype == np.float32
        probabilities, expected = softmax(logits / temperature), softmax(LOGITS / temperature)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_a_probability_of_zero_has_a_finite_logit_below_all_others():
    logits = to_logits([[1, 0, 0], [0, 1 - 1e-20, 1e-20]], "probabilities")
    zero = np.log(np.float32(MIN_PROBABILITY))
    np.testing.assert_allclose(logits, [[0, zero, zero], [np.log(1e-20), 0, np.log(1e-20)]])
