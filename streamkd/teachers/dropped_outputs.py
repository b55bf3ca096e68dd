"""Outputs of a teacher that are no class, such as background.

numbers = dropped_output([3, 0])                               # [0, 3]
without_outputs(logits, numbers, name="net", fewest=2)         # without these columns
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamkd.errors import OptionError, TeacherError


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
