"""Arguments as they are typed: the words that a parser would turn into them.

words_of(parser, args)      # ["photos", "--epochs", "30", …]; parser.parse_args(words) == args
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from streamkd.cli import arguments

# Flags that say how a command answers, and not what it does.
_NOT_REPEATED = ("help", "json", "quiet", "config", "resume")


def words_of(parser: arguments.Parser, args: argparse.Namespace) -> list[str]:
    """Returns positional arguments, and the flags whose values are not their defaults."""
    positional: list[str] = []
    words: list[str] = []
    for name, argument in parser.arguments.items():
        value = getattr(args, argument.dest)
        if not argument.option_strings:
            positional.append(str(value))
        elif name not in _NOT_REPEATED and value != argument.default:
            words += _flag_words(argument, value)
    return [*positional, *words]


def _flag_words(argument: argparse.Action, value: Any) -> list[str]:
    flag = argument.option_strings[0]
    if argument.nargs == 0:
        return [flag if value else f"--no-{flag.lstrip('-')}"]
    if isinstance(argument, arguments.Repeated):
        return [word for part in value for word in (flag, _text(argument, part))]
    if isinstance(argument.nargs, int) or argument.nargs == "+":
        return [flag, *(_text(argument, part) for part in value)]
    return [flag, _text(argument, value)]


def _text(argument: argparse.Action, value: Any) -> str:
    """Returns one value as it is typed."""
    if argument.type is arguments.image_size:
        return "x".join(map(str, value))
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        return ",".join(":".join(_text(argument, part) for part in pair) for pair in value)
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if isinstance(value, float) and math.isfinite(value) and value == float(f"{value:g}"):
        return f"{value:g}"
    return str(value)
