"""Outputs of a teacher that are no class, such as background.

numbers = dropped_output([3, 0])                               # [0, 3]
without_outputs(logits, numbers, name="net", fewest=2)         # without these columns
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamkd.errors import OptionError, TeacherError, readable_names


def classes_to_give(
    classes: Sequence[str], num_outputs: int, dropped: int | Sequence[int] | None
) -> str:
    """Returns what to type where a teacher has another number of outputs than there are classes.

    Args:
      classes: as the user named them, or as the folders are named.
      num_outputs: without those that are dropped.
      dropped: as `dropped_output` returns them.
    """
    numbers = [] if dropped is None else [dropped] if isinstance(dropped, int) else list(dropped)
    if numbers and len(classes) == num_outputs + len(numbers):
        names = readable_names([classes[number] for number in numbers])
        return (
            f"--drop-output leaves out {names}, so leave the name out, too: `--class-names FILE` "
            "with the other lines."
        )
    if num_outputs == 1:
        return (
            "One output answers for two classes. Give the two: `--class-names FILE`, one a line, "
            "the second that for which the output is large."
        )
    return (
        "Give the teacher's classes in the order of its outputs, one a line: "
        "`--class-names FILE`; an output that is no class is left out by `--drop-output N`."
    )


def dropped_output(given: Any) -> int | list[int] | None:
    """Returns the outputs to leave out as the store keeps them: one is a number, not a list.

    Raises:
      OptionError: no whole numbers, or one of them twice.
    """
    if given is None:
        return None
    is_list = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str | bytes)
    values = list(given) if is_list else [given]
    for value in values:
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise OptionError(
                f"--drop-output is {value!r}; give the number of an output, counted from 0."
            )
    numbers = sorted(map(int, values))
    twice = [one for one, other in itertools.pairwise(numbers) if one == other]
    if twice:
        raise OptionError(f"--drop-output has {twice[0]} twice.\nGive every output once.")
    return numbers[0] if len(numbers) == 1 else numbers or None


def without_outputs(
    logits: np.ndarray, dropped: int | list[int], *, name: str, fewest: int
) -> np.ndarray:
    """Returns logits, `[batch, num_outputs]`, without the columns that are no class.

    Args:
      logits: of all outputs.
      dropped: as `dropped_output` returns it.
      name: of the teacher in messages.
      fewest: outputs that must be left.

    Raises:
      TeacherError: there is no such output, or too few are left.
    """
    num_outputs = logits.shape[1]
    numbers = [dropped] if isinstance(dropped, int) else dropped
    outside = [number for number in numbers if not 0 <= number < num_outputs]
    if outside:
        raise TeacherError(
            f"--drop-output is {outside[0]}, and the teacher {name!r} has the outputs 0 "
            f"to {num_outputs - 1}.\nGive one of them, or leave --drop-output out."
        )
    if num_outputs - len(numbers) < fewest:
        raise TeacherError(
            f"--drop-output leaves out {len(numbers)} of the {num_outputs} outputs of the "
            f"teacher {name!r}, and a teacher needs at least two classes.\n"
            "Leave out fewer outputs."
        )
    return np.delete(logits, numbers, axis=1)
