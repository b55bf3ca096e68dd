"""Checks of single arguments: each refuses a value that does not fit, with the argument's name.

check_count("--batch-size", batch_size)
check_choice("on_bad", on_bad, ("raise", "skip"))
check_types(join, locals())      # the first line of `join`: all arguments, by their annotations
"""

from __future__ import annotations

import difflib
import functools
import itertools
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, Sized
from typing import Any

from streamkd.errors import OptionError

# Likeness of two names of files, 0 to 1, from which one may be a slip for the other: most names of
# one directory have the same ending.
_LIKE_A_FILE = 0.8
# Longest value that a message shows, in characters.
_MAX_SHOWN = 80
# Arguments whose types are refused elsewhere, with a remedy, such as by `as_manifest`.
_CHECKED_ELSEWHERE = ("images", "validation", "store", "operation")
# What an argument must be, where its name tells more than its type.
_BY_NAME = {
    "image_size": "(height, width) in pixels, such as (160, 160)",
    "canonical_size": "(height, width) in pixels, such as (256, 256)",
    "shard": "(i, n), such as (1, 8)",
    "crop": "the smallest and the largest fraction of the area, such as (0.35, 1)",
    "class_names": "a list of names",
    "seed": "a whole number from 0",
    "stream": "the stream that `kd.join` returns",
    **dict.fromkeys(
        ("batch_size", "cache_bytes", "epochs", "max_pixels", "sample", "save_every"),
        "a positive whole number",
    ),
}
_BY_TYPE = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    bytes: "bytes",
    os.PathLike: "a path",
    type(None): "None",
}


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Refuses a `value` that is not one of `choices`."""
    if not isinstance(value, Hashable) or value not in list(choices):
        raise OptionError(
            f"{name} is {_shown(value)}; choose one of {', '.join(map(str, choices))}."
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a question with the known name most like `name`, and a blank; empty without one."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"Did you mean {near[0]}? " if near else ""


def did_you_mean_file(path: str | os.PathLike[str]) -> str:
    """Returns a question with an existing path that is most like a missing one; empty without.

    One part of the path may differ: the first that is not there.
    """
    folder, missing, rest = os.fsdecode(path).rstrip(os.sep), "", ""
    while folder and not os.path.exists(folder):
        rest = os.path.join(missing, rest) if missing else ""
        folder, missing = os.path.split(folder)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return ""
    for name in difflib.get_close_matches(missing, names, 3, _LIKE_A_FILE):
        near = os.path.join(folder, name, rest).rstrip(os.sep)
        if os.path.exists(near):
            return f"Did you mean {near}? "
    return ""


def check_positive(name: str, value: float) -> None:
    """Refuses a `value` that is not a positive finite number."""
    if not (_is_number(value) and value > 0 and _fits_a_float(value)):
        raise OptionError(f"{name} is {_shown(value)}; it must be a positive number.")


def check_not_negative(name: str, value: float) -> None:
    """Refuses a `value` that is neither zero nor a positive finite number."""
    if not (_is_number(value) and value >= 0 and _fits_a_float(value)):
        raise OptionError(f"{name} is {_shown(value)}; it must be zero or a positive number.")


def check_count(name: str, value: int) -> None:
    """Refuses a `value` that is not a whole number above zero."""
    if not (_is_whole(value) and value >= 1):
        raise OptionError(f"{name} is {_shown(value)}; it must be a positive whole number.")


def check_seed(seed: int) -> None:
    """Refuses what NumPy's and Keras' generators do not take as a seed."""
    if not (_is_whole(seed) and 0 <= seed < 2**32):
        raise OptionError(f"seed is {_shown(seed)}; it must lie between 0 and 4294967295.")


def check_fraction(name: str, value: float) -> None:
    """Refuses a `value` outside 0 to 1."""
    if not (_is_number(value) and 0 <= value <= 1):
        raise OptionError(f"{name} is {_shown(value)}; it must lie between 0 and 1.")


def check_below_one(name: str, value: float) -> None:
    """Refuses a `value` that is not at least 0 and below 1."""
    if not (_is_number(value) and 0 <= value < 1):
        raise OptionError(f"{name} is {_shown(value)}; it must be at least 0 and below 1.")


def check_types(function: Any, given: Mapping[str, Any]) -> None:
    """Refuses the first argument whose value is not of the type that `function` is annotated with.

    A number is no text and no bool, though a whole number fits a float; lists and tuples fit alike.

    Args:
      function: or a class whose fields are annotated.
      given: values by the names of arguments; other names are passed over.
    """
    for name, hint in _annotations(function).items():
        if name in given and name not in _CHECKED_ELSEWHERE and not _fits(given[name], hint):
            wanted = _BY_NAME.get(name) or _words(hint)
            raise OptionError(f"{name} is {_shown(given[name])}; it must be {wanted}.")


@functools.cache
def _annotations(function: Any) -> dict[str, Any]:
    return typing.get_type_hints(function)


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a value is of an annotated type."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (Any, typing.Union, types.UnionType):
        return kind is Any or any(_fits(value, alternative) for alternative in inner)
    if kind is typing.Literal:
        return isinstance(value, Hashable) and value in inner
    if kind is bool:  # comparisons of NumPy give a bool of its own, and 0 and 1 are common
        return type(value).__name__ in ("bool", "bool_") or (_is_whole(value) and value in (0, 1))
    if kind in (int, float):
        return _is_whole(value) if kind is int else _is_number(value)
    if kind is tuple:
        several = _is_several(value) and len(value) == len(inner)
        return several and all(map(_fits, value, inner))
    if kind is list or (inner and issubclass(kind, Iterable) and not issubclass(kind, Mapping)):
        # One value of each type stands for all: there may be a million keys.
        examples = {type(item): item for item in value}.values() if _is_several(value) else ()
        return _is_several(value) and all(map(_fits, examples, itertools.repeat(inner[0])))
    if kind is Callable:
        return callable(value)
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_several(value: Any) -> bool:
    """Returns whether a value is a list, a tuple, an array or the like."""
    single = isinstance(value, str | bytes | Mapping)
    return not single and isinstance(value, Iterable) and isinstance(value, Sized)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _fits_a_float(value: float) -> bool:
    """Returns whether a number is finite, and no whole number beyond the largest float."""
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _words(hint: Any) -> str:
    """Returns what a value of an annotated type is, in words."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        alternatives = dict.fromkeys(_words(alternative) for alternative in inner)
        if _BY_TYPE[os.PathLike] in alternatives:  # which a text is, too
            alternatives = {w: None for w in alternatives if w not in ("a text", "bytes")}
        return " or ".join(alternatives)
    if kind is typing.Literal:
        return f"one of {', '.join(map(str, inner))}"
    if kind is tuple:
        return f"{len(inner)} numbers"
    if kind in _BY_TYPE:
        return _BY_TYPE[kind]
    if kind is Callable:
        return "a function"
    if inner and issubclass(kind, Mapping):
        return "a dict"
    return "a list" if inner else f"a {kind.__name__}"


def _shown(value: Any) -> str:
    """Returns a value as Python writes it, in one line and cut."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
