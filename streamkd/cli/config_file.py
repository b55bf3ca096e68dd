"""`--config FILE.toml`: flags from a file, by the same names and under the same checks.

    images = "photos/train"          # above all tables: for every command that has such a flag
    image-size = "160x160"

    [teach]                          # for one command; it counts before what stands above
    teacher = "teacher.keras"
    out = "teacher.h5"
    views = 8
    crop = [0.35, 1]                 # a flag with several values
    flip = true                      # a switch

Keys are the names of flags, with - or _, and of positional arguments such as `images`. What is
typed wins. Every value goes through argparse as if it had been typed, so that the same mistakes are
refused in the same words, with their place in the file.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from streamkd.cli import flags
from streamkd.errors import OptionError

# The types of flags that are whole numbers; other types of their own read a string.
WHOLE_NUMBERS = (int, flags.seed, flags.count)


def parse(parser: flags.Parser, words: Sequence[str], into: argparse.Namespace) -> None:
    """Sets the arguments that are typed, and those of the file that `--config` names.

    Args:
      parser: with every command.
      words: the command line.
      into: gets the arguments; `json` as soon as the file is read, since refusals depend on it.

    Raises:
      OptionError: a flag that cannot be, here or in the file.
    """
    command = parser.commands.get(words[0]) if words else None
    path = None if command is None else _path_in(words[1:], command)
    if command is None or path is None:
        parser.parse_args(words, into)
        return
    into.command = words[0]
    found = _Found(path, into.command, parser.commands)
    into.json = into.json or found.says_json()
    repeatable = {}
    for setting in found.settings():
        value = setting.value()
        _make_optional(setting.action)
        if isinstance(setting.action, argparse._AppendAction):
            repeatable[setting.action.dest] = value
        else:
            setting.action.default = value
    # Intermixed, because a positional that may be left out counts as left out at the first flag.
    command.parse_intermixed_args(words[1:], into)
    for name, value in repeatable.items():
        if not getattr(into, name):  # argparse would add what is typed to a default
            setattr(into, name, value)


def _path_in(words: Sequence[str], command: flags.Parser) -> str | None:
    """Returns the FILE of `--config FILE`."""
    finder = flags.Parser(prog=command.prog, add_help=False)
    finder.add_argument("--config", action="append", default=[])
    paths = finder.parse_known_args(words)[0].config
    if len(paths) > 1:
        raise OptionError(
            f"--config is given twice: {paths[0]} and {paths[1]}.\nPut it all into one file."
        )
    return paths[0] if paths else None


def _make_optional(action: argparse.Action) -> None:
    """Lets an argument be left out on the command line."""
    action.required = False
    if not action.option_strings:
        action.nargs = "*" if action.nargs in ("+", "*") else "?"


def _read(path: str) -> dict[str, Any]:
    import tomllib  # 15 ms, which only this needs

    try:
        return tomllib.loads(Path(path).read_bytes().decode())
    except OSError as error:
        raise OptionError(
            f"--config {path} cannot be read: {error.strerror}.\n"
            "Give a TOML file with flags, such as `epochs = 30`."
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _invalid(path, f"it is not UTF-8 (at line {line})") from error
    except tomllib.TOMLDecodeError as error:
        raise _invalid(path, str(error)) from error


def _invalid(path: str, reason: str) -> OptionError:
    return OptionError(
        f"--config {path} is not valid TOML: {reason}.\n"
        'Write `name = value`, and strings in quotes: `image-size = "160x160"`.'
    )


@dataclasses.dataclass
class _Setting:
    """One value of the file, and the argument of the command that it is for.

    Attributes:
      place: the file, and its table.
      name: the key as it is written there.
    """

    place: str
    name: str
    given: Any
    action: argparse.Action
    prog: str

    def value(self) -> Any:
        """Returns what the argument becomes, by argparse's own checks."""
        try:
            words = _words(self.action, self.given)
        except _WrongTypeError as wanted:
            flag = self.action.option_strings[0] if self.action.option_strings else self.name
            raise OptionError(
                f"{self.place} has {_kind(self.given)} as {self.name}: {_shown(self.given)}.\n"
                f"{flag} takes {wanted}."
            ) from None
        if not words:  # a switch that is off
            return self.action.default
        parser = _OneArgument(prog=self.prog, add_help=False)
        parser.place = f"{self.place}: {self.name} = {_shown(self.given)}"
        parser._add_action(copy.copy(self.action))
        return getattr(parser.parse_args(words), self.action.dest)


class _OneArgument(flags.Parser):
    """A parser for one value of the file, whose refusals say where that stands."""

    place = ""

    def error(self, message: str) -> NoReturn:
        raise OptionError(
            f"{message[:1].upper()}{message[1:]}.\n  in {self.place}\nSee `{self.prog} --help`."
        )


class _Found:
    """What a file says for one command.

    Args:
      path: the file.
      command: the name of the command.
      commands: the parsers of all commands.
    """

    def __init__(self, path: str, command: str, commands: Mapping[str, flags.Parser]) -> None:
        self.path = path
        self.command = command
        self.parser = commands[command]
        self.tables = _read(path)
        self.keys = {name: _arguments(parser) for name, parser in commands.items()}

    def says_json(self) -> bool:
        """Returns whether refusals are to be JSON, before anything else of the file is checked."""
        own = self.tables.get(self.command)
        own = own if isinstance(own, dict) else {}
        return own.get("json", self.tables.get("json")) is True

    def settings(self) -> list[_Setting]:
        """Returns what the command is given; its own table counts before what stands above all.

        Raises:
          OptionError: a key that the command does not know; for one above all tables, that no
            command knows.
        """
        known = self.keys[self.command]
        found = {**self._shared(), **self._own()}
        return [
            _Setting(place, name, value, known[key], self.parser.prog)
            for key, (place, name, value) in found.items()
            if key in known
        ]

    def _shared(self) -> dict[str, tuple[str, str, Any]]:
        """Returns what stands above all tables, by the key as a flag is spelled."""
        shared = {name: value for name, value in self.tables.items() if name not in self.keys}
        for name, value in shared.items():
            if isinstance(value, dict):
                raise OptionError(
                    f"{self.path} has the table [{name}], and there is no such command.\n"
                    f"{_nearest(name, self.keys, self.keys)}"
                )
        everyones = {key for known in self.keys.values() for key in known}
        found = _by_key(self.path, shared)
        for key, (_, name, _) in found.items():
            if key not in everyones:
                raise OptionError(
                    f"{self.path} has the key {name!r}, and no command has such a flag.\n"
                    f"{_nearest(key, self.keys[self.command], everyones)}"
                )
        return found

    def _own(self) -> dict[str, tuple[str, str, Any]]:
        """Returns what stands in the command's own table, by the key as a flag is spelled."""
        own = self.tables.get(self.command, {})
        place = f"[{self.command}] of {self.path}"
        if not isinstance(own, dict):
            raise OptionError(
                f"{self.path} has {_kind(own)} as {self.command}: {_shown(own)}.\n"
                f"{self.command} is a command: write its flags below a line [{self.command}]."
            )
        found = _by_key(place, own)
        known = self.keys[self.command]
        for key, (_, name, _) in found.items():
            if key not in known:
                raise OptionError(
                    f"{place} has the key {name!r}, and `{self.parser.prog}` has no such flag.\n"
                    f"{_nearest(key, known, known)}"
                )
        return found


def _arguments(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Returns what a file may set: every flag without its dashes, every positional by its name."""
    names = {(a.option_strings or [a.dest])[0].lstrip("-"): a for a in parser._actions}
    return {name: a for name, a in names.items() if a.dest not in ("help", "config")}


def _by_key(place: str, table: Mapping[str, Any]) -> dict[str, tuple[str, str, Any]]:
    """Returns place, name and value of each entry, by its name as a flag is spelled."""
    found: dict[str, tuple[str, str, Any]] = {}
    for name, value in table.items():
        key = name.replace("_", "-")
        if key in found:
            raise OptionError(
                f"{place} has both {found[key][1]!r} and {name!r}, which are the same flag.\n"
                "Leave one of them out."
            )
        found[key] = (place, name, value)
    return found


def _nearest(key: str, first: Iterable[str], all_keys: Iterable[str]) -> str:
    """Returns the line that says which key was probably meant; those in `first` are preferred."""
    close = [
        *difflib.get_close_matches(key, first, 1),
        *difflib.get_close_matches(key, all_keys, 1),
    ]
    if close:
        return f"Did you mean {close[0]!r}?"
    return "See `streamkd COMMAND --help`: keys are its flags, and its arguments in lower case."


class _WrongTypeError(Exception):
    """A value is not of the type that a flag takes; the text says which that is."""


def _words(action: argparse.Action, value: Any) -> list[str]:
    """Returns `value` as one would type it; nothing for a switch that is off.

    Raises:
      _WrongTypeError: it is not of the type that the argument takes.
    """
    flag = action.option_strings[0] if action.option_strings else "--"
    switch = action.nargs == 0 or (action.nargs == "?" and action.option_strings)
    if switch and isinstance(value, bool):
        off = [text for text in action.option_strings if text.startswith("--no-")]
        return [flag] if value else off
    if action.nargs == 0:
        raise _WrongTypeError("true or false")
    wanted, fits = _type_of(action)
    if action.nargs in ("+", "*") or isinstance(action.nargs, int):
        if not isinstance(value, list) or not all(map(fits, value)):
            count = f" of {action.nargs}" if isinstance(action.nargs, int) else ""
            raise _WrongTypeError(f"a list{count} in [ ], each {wanted}")
        return [flag, *map(str, value)]
    repeatable = isinstance(action, argparse._AppendAction)
    values = value if repeatable and isinstance(value, list) else [value]
    if not all(map(fits, values)):
        raise _WrongTypeError(f"{wanted}, or a list of them in [ ]" if repeatable else wanted)
    # As one word, or after `--`, a text may begin with a dash.
    return [f"{flag}={one}" for one in values] if action.option_strings else [flag, *values]


def _type_of(action: argparse.Action) -> tuple[str, Callable[[Any], bool]]:
    """Returns what one value of an argument is in TOML, and a function that says whether it is."""
    if action.type in WHOLE_NUMBERS:
        return "a whole number", lambda value: type(value) is int
    if action.type is float:
        return "a number", lambda value: type(value) in (int, float)
    return "a string in quotes", lambda value: isinstance(value, str)


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "a table"}
    return names.get(type(value), "a date or a time")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
