"""A setting of the loss that changes over a run, such as a label weight that rises at its end.

weight = as_setting("label_weight", [(0, 0.1), (0.5, 0.1), (0.7, 1)])
weight.at(progress)          # float32, in the graph; progress is from 0 to 1
typical_of(weight)           # one number that stands for all, for checks before the run
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from streamkd.errors import OptionError

_EXAMPLE = "[(0, 0.1), (0.5, 0.1), (0.7, 1)]"


@dataclasses.dataclass(frozen=True)
class SettingOverRun:
    """Values at fractions of a run: linear between two of them, constant before and after all.

    Attributes:
      points: fractions of the steps, from 0 to 1 and never falling, each with its value. Two points
        at one fraction are a jump.
    """

    points: tuple[tuple[float, float], ...]

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        """Returns the value, float32, at a fraction of the run, float32 from 0 to 1."""
        value = tf.constant(self.points[0][1], tf.float32)
        for (start, before), (end, after) in zip(self.points, self.points[1:], strict=False):
            if end > start:
                share = tf.clip_by_value((progress - start) / (end - start), 0.0, 1.0)
            else:
                share = tf.cast(progress >= end, tf.float32)
            value += (after - before) * share
        return value


Setting = float | SettingOverRun


def as_setting(name: str, given: Any, check: Callable[[str, float], None]) -> Setting:
    """Returns the number of a run, or its values over the run.

    Args:
      name: of the setting.
      given: a number; or pairs of a fraction and a value, also as a mapping.
      check: refuses a number out of range.

    Raises:
      OptionError: neither of the two, or a number out of range.
    """
    if isinstance(given, SettingOverRun):
        return given
    is_single = isinstance(given, str | bytes) or not isinstance(given, Iterable)
    if is_single and not callable(given):
        check(name, given)
        return float(given)
    kind = "a function" if callable(given) else f"a {type(given).__name__}"
    pairs = list(given.items() if isinstance(given, Mapping) else () if callable(given) else given)
    if not pairs or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise OptionError(
            f"{name} is {kind}, and it must be one number, or pairs of a fraction of the run and "
            f"the value there.\nGive pairs such as `{name}={_EXAMPLE}`."
        )
    for fraction, value in pairs:
        check(name, value)
        if isinstance(fraction, bool) or not isinstance(fraction, int | float):
            raise OptionError(
                f"{name} has the fraction {fraction!r} of a run; it must be a number from 0 to 1."
            )
    fractions = [float(fraction) for fraction, _ in pairs]
    if fractions != sorted(fractions) or not 0 <= fractions[0] <= fractions[-1] <= 1:
        raise OptionError(
            f"{name} has the fractions {', '.join(f'{fraction:g}' for fraction in fractions)} of a "
            f"run; they must rise from 0 to 1.\nGive pairs such as `{name}={_EXAMPLE}`."
        )
    points = tuple(zip(fractions, (float(value) for _, value in pairs), strict=True))
    return SettingOverRun(points)


def typical_of(setting: Setting) -> float:
    """Returns the number of a run, or the mean of its values: 0 or 1 only where all of them are."""
    if not isinstance(setting, SettingOverRun):
        return setting
    values = [value for _, value in setting.points]
    return sum(values) / len(values)


def described(setting: Setting) -> Any:
    """Returns a setting as config.json has it."""
    return [list(p) for p in setting.points] if isinstance(setting, SettingOverRun) else setting


def at_step(setting: Setting, step: tf.Tensor | None, num_steps: int) -> Any:
    """Returns the value of a setting at a step of a run, in the graph."""
    if not isinstance(setting, SettingOverRun):
        return setting
    assert step is not None
    return setting.at(tf.cast(step, tf.float32) / max(num_steps, 1))
