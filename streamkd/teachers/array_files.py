"""What a file of arrays holds, and which of its arrays are the logits and their keys.

    logits = choose_logits({"out": ArrayInfo((30, 3), "numbers")}, None)      # "out"
    keys = choose_keys({"files": ArrayInfo((30,), "texts")}, None, 30)        # "files"

An array is chosen by its name, or where only one has the shape and the kind.
"""

from __future__ import annotations

import tokenize
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# Names of arrays and columns that hold the keys, without 's' at the end and marks between words.
KEY_NAMES = frozenset(
    (
        *("key", "file", "filename", "filepath", "path", "image", "imagefile", "imagename"),
        *("imagepath", "img", "imgname", "imgpath"),
    )
)
# Names of arrays that hold the classes in the order of the logits, written like those of keys.
CLASS_NAMES = frozenset(("classname", "classe"))
# What NumPy and h5py raise, besides OSError and ValueError, for files that were damaged.
DAMAGED = (
    *(tokenize.TokenError, SyntaxError, TypeError, LookupError, RuntimeError, MemoryError),
    *(EOFError, zlib.error),
)
# Number of arrays that a refusal names.
_MAX_NAMED = 8


class ArrayInfo(NamedTuple):
    """Shape of an array, and its kind: 'numbers' (floating-point), 'texts' or 'others'."""

    shape: tuple[int, ...]
    kind: str


def choose_logits(arrays: Mapping[str, ArrayInfo], wanted: str | None) -> str:
    """Returns the name of the logits.

    Args:
      arrays: all arrays of a file, by name.
      wanted: the name that the user gave, or None.

    Raises:
      ValueError: no array fits, or several.
    """
    if wanted is not None:
        return _existing(arrays, wanted, "--logits-dataset")
    named = [name for name in arrays if is_logits_name(name)]
    fitting = [
        name
        for name, info in arrays.items()
        if info.kind == "numbers" and len(info.shape) == 2 and info.shape[1] > 1
    ]
    for chosen in (named, fitting, list(arrays)):
        if len(chosen) == 1:
            return chosen[0]
    if not arrays:
        raise ValueError("it has no arrays")
    none = "none is" if not named else f"{len(named)} are"
    raise ValueError(
        f"it has the arrays {readable(arrays)}, and {none} named logits; name one with "
        f"`--logits-dataset {(named or fitting or list(arrays))[0]}`"
    )


def choose_keys(arrays: Mapping[str, ArrayInfo], wanted: str | None, num_rows: int) -> str | None:
    """Returns the name of the keys, or None for a file that has none; otherwise like the logits."""
    if wanted is not None:
        return _existing(arrays, wanted, "--keys-dataset")
    fitting = [name for name, info in arrays.items() if info == ArrayInfo((num_rows,), "texts")]
    named = [name for name in fitting if is_key_name(name)]
    for chosen in (named, fitting):
        if len(chosen) == 1:
            return chosen[0]
    if not fitting:
        return None
    raise ValueError(
        f"it has {len(fitting)} arrays of {num_rows:,} texts, {readable(fitting)}; name the keys "
        f"with `--keys-dataset {(named or fitting)[0]}`"
    )


def choose_class_names(arrays: Mapping[str, ArrayInfo], num_classes: int) -> str | None:
    """Returns the name of the array of class names, or None."""
    named = [
        name
        for name, info in arrays.items()
        if info == ArrayInfo((num_classes,), "texts") and _plain(name) in CLASS_NAMES
    ]
    return named[0] if len(named) == 1 else None


def is_row_each(arrays: Mapping[str, ArrayInfo]) -> bool:
    """Returns whether a file has one array of logits for each image, named by its key."""
    if len(set(arrays.values())) != 1 or any(is_logits_name(name) for name in arrays):
        return False
    shape, kind = next(iter(arrays.values()))
    return kind == "numbers" and len(shape) == 1 and shape[0] > 1


def is_key_name(name: str) -> bool:
    """Returns whether an array or a column has a name that keys have, such as 'file_names'."""
    return _plain(name) in KEY_NAMES


def is_logits_name(name: str) -> bool:
    """Returns whether an array or a column is called logits."""
    return _last_part(name).lower() == "logits"


def readable(names: Iterable[str]) -> str:
    """Returns the first names as text."""
    names = list(names)
    shown = ", ".join(name[:80] for name in names[:_MAX_NAMED])
    more = len(names) - _MAX_NAMED
    return f"{shown} and {more:,} more" if more > 0 else shown


def _existing(arrays: Mapping[str, ArrayInfo], wanted: str, flag: str) -> str:
    """Returns the array that a flag names, by its whole path or by the last part of it."""
    ending = [name for name in arrays if _last_part(name) == wanted]
    if wanted.strip("/") in arrays:
        return wanted.strip("/")
    if len(ending) != 1:
        raise ValueError(f"it has the arrays {readable(arrays)}, and {flag} is {wanted}")
    return ending[0]


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _plain(name: str) -> str:
    """Returns the last part of a name without marks and the 's' of a plural."""
    return "".join(filter(str.isalnum, _last_part(name).lower())).removesuffix("s")
