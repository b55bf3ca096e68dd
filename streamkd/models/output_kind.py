"""Tells logits, probabilities and log-probabilities apart by the numbers that a model answers with.

    kind = output_kind(answers)             # 'probabilities'
    logits = to_logits(answers, kind)       # float32 [batch, num_classes]

For models whose layers are hidden: callables, subclassed models. `--teacher-output` goes first.
Independent labels are never guessed: 'sigmoid' stands for a probability of each label, and
'sigmoid-logits' for its logit, before sigmoid. A single output is one of these. 'class' stands for
a teacher of which only its first choice is taken.
"""

from __future__ import annotations

import numpy as np

from streamkd.errors import TeacherError
from streamkd.models.rounding import logits_of_rounded

KINDS = ("logits", "probabilities", "log-probabilities", "sigmoid", "sigmoid-logits", "class")
# Values of `--teacher-output`; 'auto' judges by the answers.
CHOICES = ("auto", *KINDS)
# Largest distance of a row's sum from 1. Rows of float32 probabilities sum to 1 within a few
# rounding steps; float16 needs more.
SUM_TOLERANCE = 2e-3
# Replacement for a probability of 0, unless the same row holds a smaller positive one. Smaller ones
# are kept: cutting them off at 1e-7 moved soft targets at temperature 20 by up to 0.016.
MIN_PROBABILITY = 1e-7
# Distance from 0 and 1 at which the probability of a label is cut off, unless its row holds a
# smaller one: half a step of float32 below 1, a logit of 17.3.
LABEL_MARGIN = 2.0**-25
# What a teacher that gives the class alone is taken to give to all classes alike: the usual label
# smoothing (Szegedy et al., arXiv:1512.00567).
CLASS_SMOOTHING = 0.1


def output_kind(answers: np.ndarray) -> str:
    """Returns the one of `KINDS` that answers are, float32 `[batch, num_classes]`.

    Raises:
      TeacherError: the answers lie between 0 and 1 but do not sum to 1. They may be sigmoid outputs
        or small logits, and a guess would be wrong for one of the two.
    """
    answers = np.asarray(answers, np.float64)
    if answers.size == 0:
        return "logits"
    if are_probabilities(answers):
        return "probabilities"
    if answers.min() >= 0 and answers.max() <= 1 + SUM_TOLERANCE:
        if answers.shape[1] == 1:
            raise TeacherError(
                "The teacher answers each image with one number between 0 and 1: a probability, or "
                "the number before sigmoid.\nSay which: `--teacher-output sigmoid` for the "
                "probability of the second of two classes, or `--teacher-output sigmoid-logits`."
            )
        raise TeacherError(
            "The teacher's answers lie between 0 and 1 but do not sum to 1 "
            f"(the first row sums to {answers[0].sum():.3f}): sigmoid outputs or logits.\n"
            "Say which: `--teacher-output sigmoid` for independent labels or one unit for two "
            "classes, `--teacher-output logits`, or `--teacher-output probabilities`."
        )
    if answers.shape[1] == 1:
        return "sigmoid-logits"
    if answers.max() <= SUM_TOLERANCE and np.allclose(
        np.exp(answers).sum(axis=1), 1, atol=SUM_TOLERANCE
    ):
        return "log-probabilities"
    return "logits"


def refuse_scaled(answers: np.ndarray, name: str) -> None:
    """Refuses answers of a model that look like probabilities times a number, such as per cent.

    Raises:
      TeacherError: no number is negative, and all rows have one sum, though they differ.
    """
    answers = np.asarray(answers, np.float64)
    sums = answers.sum(axis=1)
    differ = len(answers) > 1 and not np.allclose(answers, answers[0])
    if differ and answers.min() >= 0 and np.allclose(sums, sums[0], rtol=SUM_TOLERANCE):
        raise TeacherError(
            f"The answers of the teacher {name!r} are never negative, and those to every image sum "
            f"to {sums[0]:.4g}: probabilities times a number, or logits.\n"
            "Say which: `--teacher-output probabilities` or `--teacher-output logits`."
        )


def are_probabilities(answers: np.ndarray) -> bool:
    """Returns whether no number is negative and every row, of several, sums to 1."""
    answers = np.asarray(answers, np.float64)
    if answers.shape[1] == 1:
        return False
    return bool(answers.min() >= 0 and np.allclose(answers.sum(axis=1), 1, atol=SUM_TOLERANCE))


def to_logits(answers: np.ndarray, kind: str, step: float | None = None) -> np.ndarray:
    """Returns float32 logits `[batch, num_classes]` for answers of one of `KINDS`.

    The logarithm of a probability is a logit up to a number that is the same for all classes,
    and softmax ignores that number at every temperature. So only those digits are lost that the
    probability itself had lost. `step` is that to which probabilities were rounded, if they were:
    see `rounding`.

    Raises:
      TeacherError: a probability is negative or NaN, or that of a label above 1.
    """
    answers = np.asarray(answers, np.float32)
    step = None if step == 1 else step  # 1 stands for the class alone
    if kind == "sigmoid":
        return _logits_of_labels(answers, step / 4 if step else LABEL_MARGIN)
    if kind == "class":
        return _logits_of_classes(answers.argmax(axis=1), answers.shape[1])
    if kind == "probabilities":
        if not np.all(answers >= -SUM_TOLERANCE):  # False for NaN too
            row = int(np.flatnonzero(~(answers >= -SUM_TOLERANCE).all(axis=1))[0])
            raise TeacherError(
                f"The teacher's answers are taken as probabilities, and one of them is "
                f"{answers[row].min():.4g} (row {row} of a batch of {len(answers)}).\n"
                "If they are logits, add `--teacher-output logits`; else look at the teacher."
            )
        if step:
            return logits_of_rounded(answers, step)
        positive = answers > 0
        smallest = np.min(answers, axis=1, keepdims=True, where=positive, initial=MIN_PROBABILITY)
        return np.log(np.where(positive, answers, smallest))
    return answers


def _logits_of_labels(answers: np.ndarray, margin: float) -> np.ndarray:
    """Returns log(p / (1 - p)), float32, for the probability p of each label, and of 0 and 1."""
    inside = (answers >= -SUM_TOLERANCE) & (answers <= 1 + SUM_TOLERANCE)  # False for NaN too
    if not inside.all():
        row, label = np.argwhere(~inside)[0].tolist()
        raise TeacherError(
            "The teacher's answers are taken as sigmoid outputs, which lie between 0 and 1, and "
            f"one of them is {answers[row, label]:.4g} (row {row} of a batch of {len(answers)}).\n"
            "If they are the numbers before sigmoid, add `--teacher-output sigmoid-logits`."
        )
    exact = answers.astype(np.float64)
    smallest = np.min(exact, axis=1, keepdims=True, where=exact > 0, initial=margin)
    exact = np.clip(exact, smallest, 1 - margin)
    return (np.log(exact) - np.log1p(-exact)).astype(np.float32)


def scores_of_classes(answers: np.ndarray, num_classes: int | None, name: str) -> np.ndarray:
    """Returns numbers of classes as scores, float32 `[batch, num_classes]`, 1 for the class.

    Args:
      answers: `[batch]` or `[batch, 1]`, whole numbers from 0.
      num_classes: None if nothing tells it.
      name: of the teacher in messages.

    Raises:
      TeacherError: one of them is the number of no class.
    """
    numbers = answers.reshape(-1)
    if num_classes is None:
        raise TeacherError(
            f"The teacher {name!r} answers with the numbers of classes, and nothing says how many "
            "there are.\nGive its classes in the order of their numbers: `--class-names FILE`."
        )
    wrong = ~((numbers >= 0) & (numbers < num_classes) & (numbers == np.floor(numbers)))
    if wrong.any():
        raise TeacherError(
            f"The teacher {name!r} answered {numbers[wrong][0]:g}, and its {num_classes} classes "
            f"have the numbers 0 to {num_classes - 1}.\nGive all of its classes: `--class-names "
            "FILE`; or leave out `--teacher-output class`."
        )
    return np.eye(num_classes, dtype=np.float32)[numbers.astype(np.int64)]


def _logits_of_classes(chosen: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the logarithms of smoothed labels, float32 `[batch, num_classes]`."""
    rest = CLASS_SMOOTHING / num_classes
    logits = np.full((len(chosen), num_classes), np.log(rest), np.float32)
    logits[np.arange(len(chosen)), chosen] = np.log(1 - CLASS_SMOOTHING + rest)
    return logits
