"""`--config FILE.toml`: flags from a file, by the same names and under the same checks.

    images = "photos/train"          # top level: for every command that has such a flag
    image-size = "160x160"
    preprocess = "ResNet50"          # of the teacher: `evaluate` takes it from its own table alone

    [teach]                          # for one command; its values win over the top level
    teacher = "teacher.keras"
    out = "teacher.h5"
    views = 8
    crop = [0.35, 1]                 # a flag with several values
    flip = true                      # a switch

Keys are the names of flags, with - or _, and of positional arguments such as `images`. The command
line wins. Each value is converted and checked by the type and the choices of its argument, as if it
had been typed, and becomes the argument's default; a refusal names the key and its table.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from streamkd import small_files
from streamkd.cli import arguments
from streamkd.errors import OptionError

# Types of arguments that are whole numbers in TOML; other types read a string.
INTEGER_TYPES = (int, arguments.seed, arguments.count)
# Arguments that a file cannot set.
TYPED_ONLY = ("help", "config")


def parse(parser: arguments.Parser, words: Sequence[str], into: argparse.Namespace) -> None:
    """Sets the arguments of the command line and of the file that `--config` names.

    Args:
      parser: with every command.
      words: the command line.
      into: gets the arguments; `json` before the file is checked, since refusals depend on it.

    Raises:
      OptionError: an unknown key, or a value that its argument does not take.
    """
    command = parser.commands.get(words[0]) if words else None
    path = None if command is None else _config_path(words[1:], command)
    if command is None or path is None:
        parser.parse_args(words, into)
        return
    into.command = words[0]
    tables = _read(path)
    into.json = into.json or _asks_for_json(tables, into.command)
    parser.refuse_unknown(words)
    for setting in _settings(path, tables, into.command, parser.commands):
        setting.apply(command)
    # Intermixed, or argparse would give up an optional positional at the first flag.
    command.parse_intermixed_args(words[1:], into)


def _config_path(words: Sequence[str], command: arguments.Parser) -> str | None:
    """Returns the FILE of `--config FILE`; None without one."""
    finder = arguments.Parser(prog=command.prog, add_help=False)
    finder.add_argument("--config", action="append", default=[])
    paths = finder.parse_known_args(words)[0].config
    if len(paths) > 1:
        raise OptionError(
            f"--config is given twice: {paths[0]} and {paths[1]}.\nPut all flags into one file."
        )
    return paths[0] if paths else None


def _read(path: str) -> dict[str, Any]:
    import tomllib  # 15 ms, which other commands need not pay

    try:
        data = small_files.read_input(path)
        fault = small_files.why_no_text(data)
        if fault is not None:
            raise _invalid(path, fault)
        return tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise OptionError(
            f"--config {path} cannot be read: {error.strerror}.\n"
            "Give a TOML file with flags, such as `epochs = 30`."
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _invalid(path, f"it is not UTF-8 (at line {line})") from error
    except RecursionError:
        raise _invalid(path, "it is nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        raise _invalid(path, str(error)) from error


def _invalid(path: str, reason: str) -> OptionError:
    return OptionError(
        f"--config {path} is not valid TOML: {reason}.\n"
        'Write `name = value`, and strings in quotes: `image-size = "160x160"`.'
    )


def _asks_for_json(tables: Mapping[str, Any], command: str) -> bool:
    """Returns whether refusals are to be JSON, before anything else of the file is checked."""
    own = tables.get(command)
    own = own if isinstance(own, dict) else {}
    return own.get("json", tables.get("json")) is True


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Setting:
    """A key of the file as it is written there, its value, and the argument that it sets.

    The location, in words for messages, is the file and its table.
    """

    location: str
    name: str
    value: Any
    argument: argparse.Action

    def apply(self, command: arguments.Parser) -> None:
        """Makes the value the default of its argument, which may then be left out."""
        argument = self.argument
        command.set_defaults(**{argument.dest: self._converted(f"See `{command.prog} --help`.")})
        argument.required = False
        if not argument.option_strings:
            argument.nargs = "*" if argument.nargs in ("+", "*") else "?"

    def _converted(self, advice: str) -> Any:
        """Returns the value as argparse would have converted it."""
        argument, value = self.argument, self.value
        is_switch = argument.nargs == 0 or (argument.nargs == "?" and argument.option_strings)
        if is_switch and isinstance(value, bool):
            if isinstance(argument, argparse.BooleanOptionalAction):
                return value
            return argument.const if value else argument.default
        self._check_type()
        try:
            if not isinstance(value, list):
                converted = self._converted_text(str(value))
                return [converted] if isinstance(argument, arguments.Repeated) else converted
            if isinstance(argument.nargs, int) and len(value) != argument.nargs:
                raise argparse.ArgumentTypeError(f"expected {argument.nargs} arguments")
            if (argument.nargs == "+" or isinstance(argument, arguments.Repeated)) and not value:
                raise argparse.ArgumentTypeError("expected at least one argument")
            return [self._converted_text(str(part)) for part in value]
        except argparse.ArgumentTypeError as error:
            refusal = str(argparse.ArgumentError(argument, str(error)))
            raise OptionError(
                f"{refusal[:1].upper()}{refusal[1:]}.\n"
                f"  in {self.location}: {self.name} = {_as_toml(value)}\n{advice}"
            ) from error

    def _converted_text(self, text: str) -> Any:
        """Returns one value by the argument's own type and choices."""
        value = self.argument.type(text) if callable(self.argument.type) else text
        choices = self.argument.choices
        if choices is not None and value not in choices:
            names = ", ".join(map(repr, choices))
            raise argparse.ArgumentTypeError(f"invalid choice: {value!r} (choose from {names})")
        return value

    def _check_type(self) -> None:
        """Refuses a value of another TOML type than its argument takes."""
        argument, value = self.argument, self.value
        wanted, fits = _toml_type(argument)
        if argument.nargs == 0:
            wanted, accepted = "true or false", False
        elif argument.nargs in ("+", "*") or isinstance(argument.nargs, int):
            length = f" of {argument.nargs}" if isinstance(argument.nargs, int) else ""
            wanted = f"a list{length} in [ ], each {wanted}"
            accepted = isinstance(value, list) and all(map(fits, value))
        elif isinstance(argument, arguments.Repeated):
            wanted = f"{wanted}, or a list of several in [ ]"
            accepted = all(map(fits, value if isinstance(value, list) else [value]))
        else:
            accepted = fits(value)
        if not accepted:
            flag = argument.option_strings[0] if argument.option_strings else self.name
            raise OptionError(
                f"{self.location} has {_kind(value)} as {self.name}: {_as_toml(value)}.\n"
                f"{flag} takes {wanted}."
            )


def _settings(
    path: str, tables: Mapping[str, Any], command: str, commands: Mapping[str, arguments.Parser]
) -> list[_Setting]:
    """Returns the settings of one command; its own table wins over the top level.

    Refuses a key of the table that the command does not know, and a key of the top level that no
    command knows.
    """
    known = {
        name: {key: a for key, a in parser.arguments.items() if key not in TYPED_ONLY}
        for name, parser in commands.items()
    }
    mine = known[command]
    everywhere = {key: a for names in known.values() for key, a in names.items()}
    everywhere |= mine
    # A flag may have the name of a command, as --import has: then its value is no table.
    shared = {
        name: value
        for name, value in tables.items()
        if name not in commands or (name in everywhere and not isinstance(value, dict))
    }
    for name, value in shared.items():
        if isinstance(value, dict):
            raise OptionError(
                f"{path} has the table [{name}], and there is no such command.\n"
                f"{_suggestion(name, commands)}"
            )
    settings = _table_settings(
        path, shared, everywhere, "no command has such a flag", mine, everywhere
    )
    not_shared = commands[command].own_table_only
    settings = {key: setting for key, setting in settings.items() if key not in not_shared}
    own = {} if command in shared else tables.get(command, {})
    if not isinstance(own, dict):
        raise OptionError(
            f"{path} has {_kind(own)} as {command}: {_as_toml(own)}.\n"
            f"{command} is a command: write its flags below a line [{command}]."
        )
    unknown = f"`{commands[command].prog}` has no such flag"
    settings |= _table_settings(f"[{command}] of {path}", own, mine, unknown, mine)
    return [setting for key, setting in settings.items() if key in mine]


def _table_settings(
    location: str,
    table: Mapping[str, Any],
    known: Mapping[str, argparse.Action],
    unknown: str,
    *suggested: Iterable[str],
) -> dict[str, _Setting]:
    """Returns the settings of one table, by their names as flags are spelled.

    Args:
      location: the file and its table, for messages.
      table: keys and values.
      known: arguments that the table may set.
      unknown: the reason to refuse another key, for messages.
      suggested: names to suggest for an unknown key, the likeliest group first.
    """
    settings: dict[str, _Setting] = {}
    for name, value in table.items():
        key = name.replace("_", "-")
        if key in settings:
            raise OptionError(
                f"{location} has both {settings[key].name!r} and {name!r}, which are the same "
                "flag.\nLeave one of them out."
            )
        if key not in known:
            raise OptionError(
                f"{location} has the key {name!r}, and {unknown}.\n{_suggestion(key, *suggested)}"
            )
        settings[key] = _Setting(location=location, name=name, value=value, argument=known[key])
    return settings


def _suggestion(key: str, *suggested: Iterable[str]) -> str:
    """Returns the line that names the nearest key; earlier groups of `suggested` come first."""
    for names in suggested:
        if close := difflib.get_close_matches(key, names, 1):
            return f"Did you mean {close[0]!r}?"
    return "See `streamkd COMMAND --help`: keys are its flags, and its arguments in lower case."


def _toml_type(argument: argparse.Action) -> tuple[str, Callable[[Any], bool]]:
    """Returns the TOML type of one value in words, and a function that checks it."""
    if argument.type in INTEGER_TYPES:
        return "a whole number", lambda value: type(value) is int
    if argument.type is float:
        return "a number", lambda value: type(value) in (int, float)
    return "a string in quotes", lambda value: isinstance(value, str)


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "a table"}
    return names.get(type(value), "a date or a time")


def _as_toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
