"""What a model answers with, judged by its answers: logits, probabilities or log-probabilities.

Used where the layers cannot be inspected: callables and subclassed models. Only the shape of the
numbers is judged; the user's word (`--teacher-output`) always goes before it.
"""

from __future__ import annotations

import numpy as np

from streamkd.errors import TeacherError

KINDS = ("logits", "probabilities", "log-probabilities")
# Rows of float32 probabilities sum to 1 within a few rounding steps; float16 needs more.
SUM_TOLERANCE = 2e-3
# What stands for a probability of 0, unless the same row holds a smaller one. Those are kept:
# cutting them off at 1e-7 moved soft targets at temperature 20 by up to 0.016.
MIN_PROBABILITY = 1e-7


def output_kind(answers: np.ndarray) -> str:
    """Returns one of `KINDS` for some answers, float32 `[batch, num_classes]`.

    Raises:
      TeacherError: the answers lie between 0 and 1 but do not sum to 1, which may be sigmoid
        outputs or small logits; a guess would be wrong for one of the two.
    """
    answers = np.asarray(answers, np.float64)
    if answers.size == 0:
        return "logits"
    if are_probabilities(answers):
        return "probabilities"
    if answers.min() >= 0 and answers.max() <= 1 + SUM_TOLERANCE:
        raise TeacherError(
            "The teacher's answers lie between 0 and 1 but do not sum to 1 "
            f"(the first sums to {answers[0].sum():.3f}), so that they may be sigmoid outputs or "
            "logits.\nSay which: `--teacher-output logits` or `--teacher-output probabilities`."
        )
    if answers.max() <= SUM_TOLERANCE and np.allclose(
        np.exp(answers).sum(axis=1), 1, atol=SUM_TOLERANCE
    ):
        return "log-probabilities"
    return "logits"


def are_probabilities(answers: np.ndarray) -> bool:
    """Returns whether every row has no negative number and sums to 1."""
    answers = np.asarray(answers, np.float64)
    return bool(answers.min() >= 0 and np.allclose(answers.sum(axis=1), 1, atol=SUM_TOLERANCE))


def to_logits(answers: np.ndarray, kind: str) -> np.ndarray:
    """Returns float32 logits `[batch, num_classes]` for answers of one of `KINDS`.

    The logarithm of a probability is a logit up to a number that is the same for all classes,
    and softmax ignores that number at every temperature; so nothing is lost but the digits that
    the probability itself had lost.

    Raises:
      TeacherError: a probability that is negative or no number.
    """
    answers = np.asarray(answers, np.float32)
    if kind == "probabilities":
        if not np.all(answers >= -SUM_TOLERANCE):  # which a NaN is not either
            row = int(np.flatnonzero(~(answers >= -SUM_TOLERANCE).all(axis=1))[0])
            raise TeacherError(
                f"The teacher's answers are taken as probabilities, and one of them is "
                f"{answers[row].min():.4g} (row {row} of a batch of {len(answers)}).\n"
                "Say what they are: `--teacher-output logits`, or look at the teacher."
            )
        positive = answers > 0
        smallest = np.min(answers, axis=1, keepdims=True, where=positive, initial=MIN_PROBABILITY)
        return np.log(np.where(positive, answers, smallest))
    return answers
