"""The words of the command that trains one student of a sweep alone.

["streamkd", "train", "images.jsonl", *store_words(store), *flag_words({"epochs": 10})]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from streamkd.errors import OptionError
from streamkd.sweeps.grid import flag_of, text_of


def store_words(store: Any) -> list[str]:
    """Returns the words of `train` for the stores that a sweep was given in Python.

    Raises:
      OptionError: no command can say how the stores are combined.
    """
    if store is None:
        return []
    members = getattr(store, "members", None)
    if members is None:
        return ["--store", os.fspath(store.path)]
    words = ["--combine", store.rule]
    for member in members:
        if member.dustbin is not None or not isinstance(member.weight, int | float | None):
            raise OptionError(
                "These stores are combined by weights of classes or with a dustbin, and the "
                "command of a student could not say so.\n"
                "Write them as one store first, `EnsembleStore.write`, or use `streamkd sweep`."
            )
        weight = "" if member.weight is None else f"={member.weight!r}"
        words += ["--store", f"{os.fspath(member.opened.path)}{weight}"]
    return words


def flag_words(values: Mapping[str, Any]) -> list[str]:
    """Returns flags and their values as words, without those that are off."""
    words: list[str] = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        words.append(flag_of(name))
        if name == "image_size":
            words.append("x".join(map(str, value)))
        elif value is not True:
            words.append(text_of(value))
    return words
