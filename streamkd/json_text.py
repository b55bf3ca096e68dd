"""JSON that others wrote: whatever would be read as something else is a ValueError.

load('{"cat": 1}')                  # {"cat": 1}
load('{"cat": 1, "cat": 2}')        # ValueError: it names 'cat' twice
load('[NaN, 1e999]')                # ValueError: it holds NaN, which is no number
load("[" * 200_000)                 # ValueError: it is nested too deep
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

# Deepest nesting of lists and objects: Python compares and prints values by recursion.
MAX_DEPTH = 100
# Digits of a number, as far as a message shows them.
_SHOWN_DIGITS = 20
# No float holds a whole number of so many digits.
_MANY_DIGITS = 309
_LONG_NUMBER = re.compile(rf"[0-9]{{{_MANY_DIGITS}}}")


def load(text: str | bytes | bytearray, *, finite: bool = True) -> Any:
    """Returns the value that `text` holds.

    Args:
      text: JSON; bytes are UTF-8, with or without a byte order mark.
      finite: refuse NaN and infinite numbers, which JSON does not have. Python writes them, so that
        what we wrote ourselves may hold them.

    Raises:
      ValueError: `text` is no JSON, nests deeper than `MAX_DEPTH`, has a name twice in one object,
        or a number that no float holds.
    """
    text = text if isinstance(text, str) else text.decode("utf-8-sig")
    try:
        if len(text) >= _MANY_DIGITS and _LONG_NUMBER.search(text):
            json.loads(text, parse_int=_bounded_int)
        value = (_FINITE if finite else _ANY).decode(text)
    except RecursionError:
        # Without a cause: the traceback of a recursion is a thousand lines long.
        raise ValueError("it is nested too deep") from None
    # Counting takes less than a walk; few texts have so many brackets.
    if text.count("[") + text.count("{") > MAX_DEPTH and not _is_flat(value):
        raise ValueError("it is nested too deep")
    return value


def _is_flat(value: Any) -> bool:
    """Returns whether lists and objects nest at most `MAX_DEPTH` deep."""
    layer = [value]
    for _ in range(MAX_DEPTH):
        parts = [p.values() if isinstance(p, dict) else p for p in layer if _is_nest(p)]
        layer = [part for some in parts for part in some if _is_nest(part)]
        if not layer:
            return True
    return False


def _is_nest(value: Any) -> bool:
    return isinstance(value, dict | list)


def _entries_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object as a dict; JSON itself would silently keep the last of two entries."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(n for n in names if names.count(n) > 1)!r} twice")
    return entries


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which is no number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {_shortened(text)}, which is too large")
    return number


def _bounded_int(text: str) -> int:
    if len(text) >= _MANY_DIGITS:
        raise ValueError(f"it holds the number {_shortened(text)}, which is too large")
    return int(text)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_DIGITS else f"{text[:_SHOWN_DIGITS]}…"


_FINITE = json.JSONDecoder(
    object_pairs_hook=_entries_once, parse_constant=_no_number, parse_float=_finite_float
)
_ANY = json.JSONDecoder(object_pairs_hook=_entries_once)
