"""Checks of single arguments: each refuses a value that does not fit, with the argument's name.

check_count("--batch-size", batch_size)
check_choice("on_bad", on_bad, ("raise", "skip"))
"""

from __future__ import annotations

import numbers
from typing import Any

from streamkd.errors import OptionError


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Refuses a `value` that is not one of `choices`."""
    if value not in choices:
        raise OptionError(f"{name} is {value!r}; choose one of {', '.join(map(str, choices))}.")


def check_positive(name: str, value: float) -> None:
    """Refuses a `value` that is not a positive finite number."""
    if not 0 < value < float("inf"):
        raise OptionError(f"{name} is {value!r}; it must be a positive number.")


def check_count(name: str, value: int) -> None:
    """Refuses a `value` that is not a whole number above zero."""
    if not isinstance(value, numbers.Integral) or value < 1:
        raise OptionError(f"{name} is {value!r}; it must be a positive whole number.")


def check_fraction(name: str, value: float) -> None:
    """Refuses a `value` outside 0 to 1."""
    if not 0 <= value <= 1:
        raise OptionError(f"{name} is {value!r}; it must lie between 0 and 1.")
