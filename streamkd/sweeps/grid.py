"""The settings of a sweep: one student for each point of a grid.

settings = grid({"temperature": [1.0, 2.0], "label_weight": [0.0, 0.1]})
settings[1].values, settings[1].name        # {…, "label_weight": 0.1}, "02-temperature-1-label-…"
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streamkd.errors import OptionError

# Settings that may differ between the students, in the order of the table.
AXES = ("student", "loss", "temperature", "label_weight", "learning_rate", "seed")
# Longest name of a run directory, in characters.
_MAX_NAME = 100


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point of the grid.

    Attributes:
      values: by the names of `AXES`.
      name: of the run directory.
    """

    values: dict[str, Any]
    name: str

    @property
    def text(self) -> str:
        """The values in words, for a line about this student."""
        return ", ".join(f"{name} {text_of(value)}" for name, value in self.values.items())


def as_values(given: Any) -> list[Any]:
    """Returns the values of an axis: those of a list or a tuple, or the only one.

    Pairs of a fraction of the run and a value are one value, which changes over the run.
    """
    if not isinstance(given, list | tuple) or _is_schedule(given):
        return [given]
    return list(given)


def grid(axes: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Returns all combinations of the values of the axes.

    Raises:
      OptionError: an axis without values, or with one twice.
    """
    for name, values in axes.items():
        flag = flag_of(name)
        if not values:
            raise OptionError(
                f"{flag} has no value, so the grid is empty.\nGive one value or several."
            )
        texts = [text_of(value) for value in values]
        for text in texts:
            if texts.count(text) > 1:
                raise OptionError(
                    f"{flag} has the value {text} twice, and the grid would hold every student of "
                    "it twice.\nGive it once."
                )
    names = [name for name in AXES if name in axes]
    varied = [name for name in names if len(axes[name]) > 1]
    points = list(itertools.product(*(axes[name] for name in names)))
    width = max(2, len(str(len(points))))
    settings = []
    for number, point in enumerate(points, 1):
        chosen = dict(zip(names, point, strict=True))
        words = [f"{name.replace('_', '-')}-{text_of(chosen[name])}" for name in varied]
        name = "-".join([f"{number:0{width}}", *words])
        settings.append(Setting(chosen, re.sub(r"[^\w.+-]+", "-", name)[:_MAX_NAME]))
    return settings


def varied_axes(settings: Iterable[Setting]) -> list[str]:
    """Returns the names of the axes in which the settings differ."""
    texts: dict[str, set[str]] = {}
    for setting in settings:
        for name, value in setting.values.items():
            texts.setdefault(name, set()).add(text_of(value))
    return [name for name, different in texts.items() if len(different) > 1]


def flag_of(name: str) -> str:
    """Returns the flag of a setting."""
    return f"--{name.replace('_', '-')}"


def text_of(value: Any) -> str:
    """Returns a value as it is typed behind its flag."""
    if isinstance(value, list | tuple):
        return ",".join(f"{text_of(first)}:{text_of(second)}" for first, second in value)
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def _is_schedule(given: Sequence[Any]) -> bool:
    return bool(given) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in given)
