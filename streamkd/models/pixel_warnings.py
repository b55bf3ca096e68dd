"""Warnings of pixels that a model is given preprocessed twice, or not at all.

warn_of_pixels(model, "teacher", preprocess="scale", shape=(224, 224, 3))

The judgement is about the numbers that reach the first weights (`pixel_range.py`): a Keras
application is known by its layers and expects certain ones; any other model is told of numbers that
no model is trained on. Neither is refused, since only the user knows how a model was trained.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamkd.codes import warn
from streamkd.models.pixel_range import Reach, colors, expected_of, reach_of
from streamkd.models.preprocessing import parse

# Flag that preprocesses the pixels of each model.
FLAGS = {"teacher": "--preprocess", "student": "--student-preprocess"}
# Numbers that suit a model: not larger, and black and white not nearer to each other. Those of
# Keras' applications with a preprocessing of their own reach from -2.1 to 2.7.
_LARGEST = 10.0
_LEAST_WIDTH = 0.3
# Black and white are nearer than this only after two divisions.
_WIDTH_OF_TWO_SCALES = 0.1
# From here on numbers are pixels as they are in the file.
_RAW = 50.0
# Largest distance of what an application is given from what it expects, as a fraction of its range.
_TOLERANCE = 0.1


def warn_of_pixels(
    model: Any, who: str, *, preprocess: str, shape: tuple[int, int, int], stacklevel: int = 1
) -> Reach | None:
    """Warns if a model's first weights are given pixels preprocessed twice, or not at all.

    Args:
      model: of either family, without `preprocess`.
      who: 'teacher' or 'student'.
      preprocess: the name of the preprocessing of its pixels.
      shape: height, width and channels of an image.
      stacklevel: as in `warnings.warn`.

    Returns:
      What reaches the first weights; None if that cannot be followed.
    """
    given, plain = parse(preprocess, shape[2]), parse("none", shape[2])
    reach = reach_of(model, given, shape)
    if reach is None:
        return None
    alone = reach if given.is_identity else reach_of(model, plain, shape) or reach
    code, words = _judged(reach, alone, who, preprocess)
    if code == "pixels_preprocessed_twice":
        warn("pixels_preprocessed_twice", words, stacklevel=stacklevel + 1)
    elif code is not None:
        warn("pixels_not_preprocessed", words, stacklevel=stacklevel + 1)
    return reach


def numbers(reach: Reach) -> str:
    """Returns the range of what reaches a layer, in words."""
    return f"Numbers from {reach.low:.3g} to {reach.high:.3g} reach its layer '{reach.layer}'"


def _judged(reach: Reach, alone: Reach, who: str, preprocess: str) -> tuple[str | None, str]:
    """Returns the code of a warning and its words; None if there is nothing to say.

    Args:
      reach: with the preprocessing.
      alone: without it.
    """
    flag, is_given = FLAGS[who], preprocess != "none"
    numbers_now = numbers(reach)
    twice = (
        f"The pixels of the {who} are preprocessed twice: by `{flag} {preprocess}` and by its own "
        f"layers. {numbers_now}. Leave `{flag}` out."
    )
    expected = None
    if reach.application is not None:
        expected = expected_of(reach.application, len(reach.values[0]))
    if expected is not None:
        if _is_near(reach.values, expected):
            return None, ""
        if is_given and _is_near(alone.values, expected):
            return "pixels_preprocessed_twice", twice
        remedy = "Change the layers before it."
        if _is_near(alone.values, colors(len(expected[0]))):  # the model has none of its own
            remedy = f"Give `{flag} {reach.application}`."
        return "pixels_not_preprocessed", (
            f"The {who} has the layers of {reach.application}, which expects numbers from "
            f"{expected.min():.3g} to {expected.max():.3g}. {numbers_now}. {remedy}"
        )
    if is_given and _suits(alone):
        return "pixels_preprocessed_twice", twice
    if reach.high - reach.low < _WIDTH_OF_TWO_SCALES:
        return "pixels_preprocessed_twice", (
            f"{numbers_now} of the {who}, which is hardly any contrast. Were the pixels scaled "
            f"twice? Look at its first layers, and at `{flag}`."
        )
    if who == "student" and not reach.is_normalized and is_raw(reach):
        return "pixels_not_preprocessed", (
            f"{numbers_now} of the student. Most students learn better from numbers around -1 to "
            f"1: give `{flag} scale`, or begin the student with a Rescaling layer."
        )
    return None, ""


def is_raw(reach: Reach) -> bool:
    """Returns whether numbers reach the first weights as they are in the file."""
    return max(abs(reach.low), abs(reach.high)) > _RAW


def _suits(reach: Reach) -> bool:
    largest = max(abs(reach.low), abs(reach.high))
    return largest <= _LARGEST and reach.high - reach.low >= _LEAST_WIDTH


def _is_near(values: np.ndarray, expected: np.ndarray) -> bool:
    if values.shape != expected.shape:
        return False
    return bool(np.abs(values - expected).max() <= _TOLERANCE * np.ptp(expected))
