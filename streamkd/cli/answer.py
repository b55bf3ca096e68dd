"""The answer of a command, and how it is printed: for a person, or as one JSON object.

answer = Answer({"sound": False, "num_problems": 3}, exit_code=1)
print_answer(answer, as_json=True)
"""

from __future__ import annotations

import dataclasses
import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

# Entries of a list that a person is shown.
MAX_SHOWN = 20
# Control and format characters, of Unicode's categories.
_CATEGORIES_ESCAPED = ("Cc", "Cf")


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of a command.

    Attributes:
      fields: the JSON object, by its keys.
      exit_code: 0, or 1 if the answer is no.
      text: printed for a person instead of the fields; None to print the fields.
    """

    fields: Mapping[str, Any]
    exit_code: int = dataclasses.field(default=0, kw_only=True)
    text: str | None = dataclasses.field(default=None, kw_only=True)


def print_answer(answer: Answer, as_json: bool) -> None:
    """Prints the answer on standard output."""
    if as_json:
        print(json.dumps(_finite(answer.fields), allow_nan=False))
    elif answer.text is not None:
        print(printable(answer.text))
    else:
        width = max(map(len, answer.fields))
        for name, value in answer.fields.items():
            if name == "warnings":
                continue  # printed when they were given
            print(printable(f"{name:<{width}}  {_shown(value)}"))


def printable(text: str) -> str:
    """Returns `text` with control characters escaped, so that no name commands a terminal.

    Line feeds stay. Characters of direction, which reorder what is read, are escaped as well.
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if character != "\n" and unicodedata.category(character) in _CATEGORIES_ESCAPED
        else character
        for character in text
    )


def _finite(value: Any) -> Any:
    """Returns `value` with null for every number that JSON cannot write."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _part(value: Any) -> str:
    """Returns a value within an object as a person reads it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    """Returns a value as a person reads it."""
    if value is None or value == []:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list) and isinstance(value[0], Mapping):
        lines = ["  " + ", ".join(f"{n}: {_part(v)}" for n, v in one.items()) for one in value]
        return "\n" + "\n".join(lines)
    if isinstance(value, list):
        return ", ".join(map(str, value[:MAX_SHOWN])) + (" …" if len(value) > MAX_SHOWN else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return str(value)
