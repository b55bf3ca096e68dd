"""Where two values differ, as the two lines that a refusal shows.

both_sides({"now": {"name": "b", "output": "logits"}, "store": {"name": "a", "output": "logits"}})

  now:   {"name": "b"}
  store: {"name": "a"}
"""

from __future__ import annotations

import json
from typing import Any

# Largest length of a value in a refusal, in characters.
MAX_CHARACTERS = 300


def both_sides(sides: dict[str, Any]) -> str:
    """Returns two lines, one for each of two values; a dict shows only the entries that differ, and
    lists too long for a line begin at the first difference.

    Args:
      sides: the two values by the titles of their lines.
    """
    width = max(map(len, sides)) + 1
    texts = zip(sides, _as_texts(*differing_parts(*sides.values())), strict=True)
    return "".join(f"  {title + ':':<{width}} {text}\n" for title, text in texts)


def another(name: str) -> str:
    """Returns the name of a setting behind 'with': 'another seed', 'other metrics'."""
    is_plural = name.endswith("s") and not name.endswith("ss")
    return f"{'other' if is_plural else 'another'} {name}"


def _as_texts(first: Any, second: Any) -> list[str]:
    """Returns both values as JSON, cut to `MAX_CHARACTERS`."""
    texts = [json.dumps(part, default=str) for part in (first, second)]
    if (
        isinstance(first, list)
        and isinstance(second, list)
        and max(map(len, texts)) > MAX_CHARACTERS
    ):
        pairs = enumerate(zip(first, second, strict=False))
        start = next((n for n, (one, two) in pairs if one != two), min(len(first), len(second)))
        texts = [
            f"{len(part):,} entries; from number {start:,}, {json.dumps(part[start:], default=str)}"
            for part in (first, second)
        ]
    return [text[:MAX_CHARACTERS] for text in texts]


def differing_parts(first: Any, second: Any) -> tuple[Any, Any]:
    """Returns the entries in which two nested dicts differ; other values as they are."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return first, second
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    parts = {name: differing_parts(first.get(name), second.get(name)) for name in names}
    return {n: one for n, (one, _) in parts.items()}, {n: two for n, (_, two) in parts.items()}
