"""The labels in a line of a table: one of them, or several.

label_of({"label": "cat"})                     # 'cat'
label_of({"label": '["cat", "dog"]'})          # ['cat', 'dog'], and so of a list in JSON lines
label_of({"labels": "cat; dog"})               # ['cat', 'dog']; the column `label` goes first
label_of({"labels": "[]"})                     # []: the image has none of the labels
label_of({"labels": ""})                       # '': nobody knows its labels
"""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Any

from streamkd import json_text
from streamkd.codes import warn
from streamkd.manifest import look_alikes

# Separator of several labels in a text of the column `labels`.
SEPARATOR = ";"


def label_of(entry: dict[str, Any]) -> Any:
    """Returns the label of a line, given its cells by column; a list for several, None for none.

    Raises:
      ValueError: a cell of `labels` begins like a list and is none.
    """
    if "label" in entry:
        value = entry["label"]
        found = _list_in(value)
        return value if found is None else found
    value = entry.get("labels")
    if value is None or value == "":
        return value
    if not isinstance(value, str):
        return value if isinstance(value, list) else [value]
    found = _list_in(value)
    if found is None and value.startswith("["):
        raise ValueError(f'labels {value!r}; write a list as ["cat", "dog"], or as cat;dog')
    return [part.strip() for part in value.split(SEPARATOR)] if found is None else found


def _list_in(value: Any) -> list[Any] | None:
    """Returns the list that a text holds, in JSON or as Python and pandas write it; else None."""
    if not (isinstance(value, str) and value.startswith("[") and value.endswith("]")):
        return None
    found: Any = None
    with contextlib.suppress(ValueError):
        found = json_text.load(value)
    if found is None:
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = ast.literal_eval(value)
    return found if isinstance(found, list) else None


def warn_of_separators(path: Path, names: list[str]) -> None:
    """Warns of texts that look like several labels and are one class each."""
    joined = [name for name in names if SEPARATOR in name]
    if joined:
        warn(
            "label_with_separator",
            f"The label {look_alikes.shown(joined[0])} of {path} is one class, with its "
            f"{SEPARATOR!r}. If it stands for several labels of an image, call the column "
            "`labels`.",
            stacklevel=3,
        )
