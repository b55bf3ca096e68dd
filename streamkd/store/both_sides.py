"""Both sides of a refusal: two lines that show where two values differ.

    both_sides(["cat", "dog"], ["cat", "owl"], ("now", "store"))

gives

      now:   cat, dog
      store: cat, owl
"""

from __future__ import annotations

from typing import Any

from streamkd.manifest.class_names import shown

_MAX_CHARACTERS = 200


def both_sides(first: Any, second: Any, titles: tuple[str, str]) -> str:
    """Returns two lines, each with a title and a value; of dicts the first entry that differs.

    Args:
      first, second: the values: dicts with names as keys, lists of class names, or anything else.
      titles: whose values they are.
    """
    texts = _texts(first, second)
    width = max(map(len, titles)) + 1
    return "".join(
        f"  {title + ':':<{width}} {_shortened(text)}\n"
        for title, text in zip(titles, texts, strict=True)
    )


def _texts(first: Any, second: Any) -> tuple[str, str]:
    if isinstance(first, list) and isinstance(second, list):
        return shown(first), shown(second)
    if isinstance(first, dict) and isinstance(second, dict):
        names = sorted({*first, *second})
        name = next(n for n in names if first.get(n) != second.get(n))
        return f"{name} = {first.get(name)}", f"{name} = {second.get(name)}"
    return str(first), str(second)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " …"
