"""The parser of the command line, and the types of its values.

parser = Parser(prog="streamkd scan")
parser.add_argument("--seed", type=seed, default=0)
parser.arguments["seed"]                # the argparse.Action, by the flag without its dashes
parser.parse_args(["--seed", "-1"])     # OptionError: Argument --seed: '-1' is no seed; …
parser.parse_args(["--seed", "1", "--seed", "2"])     # OptionError: --seed is given twice: 1 and 2.
parser.parse_args(["--sead", "1"])      # OptionError: … has no flag --sead. Did you mean --seed?
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from streamkd.checks import did_you_mean
from streamkd.cli.standard_streams import deliver
from streamkd.errors import OptionError
from streamkd.image_options import parse_background, parse_image_size

MAX_SEED = 2**32 - 1  # of NumPy's and Keras' generators


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are streamkd's own, so that `--json` can print them too.

    Attributes:
      arguments: every flag, by its name without dashes, and every positional, by its name.
      commands: the parsers of the commands, by name.
      own_table_only: names of flags that mean something else in other commands, so that `--config`
        sets them in the command's own table alone.
    """

    def __init__(self, **settings: Any) -> None:
        self.arguments: dict[str, argparse.Action] = {}
        self.commands: dict[str, Parser] = {}
        self.own_table_only: frozenset[str] = frozenset()
        self._with_one_value: dict[str, argparse.Action] = {}
        # No abbreviations: main() looks for `--json` before parsing, and would miss `--js`.
        super().__init__(**settings, allow_abbrev=False)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Adds an argument, as argparse does, and records it."""
        return self.record(super().add_argument(*names, **settings), settings.get("action"))

    def add_group(self, title: str) -> Group:
        """Adds a group of arguments that are recorded as well."""
        return Group(self, self.add_argument_group(title))

    def print_help(self, file: Any = None) -> None:
        """Prints the help; argparse's own way says nothing where it cannot be written."""
        code = deliver(lambda: print(self.format_help(), end="", file=file), 0)
        if code:
            self.exit(code)

    def record(self, argument: argparse.Action, action: Any = None) -> argparse.Action:
        """Keeps an argument by its name, and returns it; `action` is as in `add_argument`."""
        name = (argument.option_strings or [argument.dest])[0]
        self.arguments[name.lstrip("-")] = argument
        if action in (None, argparse.BooleanOptionalAction):
            self._with_one_value |= dict.fromkeys(argument.option_strings, argument)
        return argument

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does, and refuses a flag of one value that is given twice.

        The parser of all commands also refuses a command or a flag that does not exist, before
        argparse misses the flag that was meant.
        """
        if args is not None:  # the words of a command
            self._refuse_repeated(list(args))
            self.refuse_unknown(list(args))
        return super().parse_known_args(args, namespace)

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """Refuses a word that is no command, or no flag of its command, and suggests another."""
        if not self.commands or not words or words[0].startswith("-"):
            return
        name, *rest = words
        if name not in self.commands:
            suggestion = did_you_mean(name, self.commands)
            raise OptionError(
                f"There is no command {name!r}.\n{suggestion}See `{self.prog} --help`."
            )
        command = self.commands[name]
        for word in itertools.takewhile(lambda word: word != "--", rest):
            flag = word.partition("=")[0]
            # argparse takes a word with a blank in it for a value.
            if flag.startswith("--") and " " not in word and not command.has_flag(flag):
                raise OptionError(
                    f"`{command.prog}` has no flag {flag}.\n{self._instead_of(flag, command)}"
                    f"See `{command.prog} --help`."
                )

    def _instead_of(self, flag: str, command: Parser) -> str:
        """Returns a sentence that names a similar flag, or the commands that have this one."""
        others = [name for name, other in self.commands.items() if other.has_flag(flag)]
        if others:
            return f"Other commands have it: {', '.join(others)}. "
        return did_you_mean(flag, [f"--{name}" for name in command.arguments])

    def has_flag(self, flag: str) -> bool:
        """Returns whether a word, with its dashes, is one of the parser's flags."""
        return flag in self._option_string_actions

    def _refuse_repeated(self, words: Sequence[str]) -> None:
        """Refuses a repeated flag; argparse would take its last value without a word."""
        given: dict[str, str] = {}
        for number, word in enumerate(words):
            if word == "--":
                return
            flag = word.partition("=")[0]
            argument = self._with_one_value.get(flag)
            if argument is None:
                continue
            value = _value_at(words, number, argument)
            before = given.get(argument.dest)
            is_switch = argument.nargs == 0  # one word twice is as good as once
            if before is not None and not (is_switch and before == value):
                raise OptionError(
                    f"{argument.option_strings[0]} is given twice: {before} and {value}.\n"
                    "Give it once."
                )
            given[argument.dest] = value

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message[:1].upper()}{message[1:]}.\nSee `{self.prog} --help`.")


class Group:
    """A group of arguments, under a title of their own in `--help`."""

    def __init__(self, parser: Parser, group: Any) -> None:
        self._parser = parser
        self._group = group

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Adds an argument to the group, and records it in the parser."""
        return self._parser.record(
            self._group.add_argument(*names, **settings), settings.get("action")
        )


def _value_at(words: Sequence[str], number: int, argument: argparse.Action) -> str:
    """Returns the value of the flag at `words[number]` as it was typed; of a switch, its word."""
    _, equals, value = words[number].partition("=")
    if equals or argument.nargs == 0:
        return value if equals else words[number]
    size = argument.nargs if isinstance(argument.nargs, int) else 1
    if argument.nargs in ("+", "*"):
        size = len(words)
    following = itertools.islice(words, number + 1, number + 1 + size)
    values = list(itertools.takewhile(lambda word: not word.startswith("--"), following))
    return " ".join(values) or "nothing"


class Typed(list):
    """The values that were typed for a flag that may be repeated."""


class Repeated(argparse.Action):
    """A flag that may be given several times; its value is the list of all that were given.

    With `nargs="+"` each time may give several values.

    Values from a file of flags are a default, which the first typed value replaces.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        value: Any,
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest, None)
        typed = given if isinstance(given, Typed) else ()
        more = value if self.nargs in ("+", "*") else [value]
        setattr(namespace, self.dest, Typed([*typed, *more]))


# argparse prints the message of an ArgumentTypeError after the name of the flag.


def _as_argument(parse: Callable[[str], Any], text: str) -> Any:
    """Returns what `parse` returns; its refusal becomes argparse's."""
    try:
        return parse(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def image_size(text: str) -> tuple[int, int]:
    """Returns (height, width) for 'HEIGHTxWIDTH'."""
    return _as_argument(parse_image_size, text)


def background(text: str) -> tuple[int, int, int]:
    """Returns (red, green, blue) for 'R,G,B'."""
    return _as_argument(parse_background, text)


def seed(text: str) -> int:
    """Returns a seed, 0 to `MAX_SEED`."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no seed; give a whole number from 0 to {MAX_SEED}"
        )
    return int(text)


def count(text: str) -> int:
    """Returns a positive whole number."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; give a whole number from 1")
    return int(text)


def setting(text: str) -> str | float | list[tuple[float, ...]]:
    """Returns the number of a run, or its values over the run: '0.1', or '0:0.1,0.5:0.1,0.7:1'."""
    if text == "auto":
        return text
    try:
        if ":" not in text:
            return float(text)
        return [tuple(float(part) for part in pair.split(":", 1)) for pair in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}; give a number, or values at fractions of the run such as 0:0.1,0.5:0.1,1:1"
        ) from None


def codec(text: str) -> str:
    """Returns the name of a codec, once it is known to be one."""
    from streamkd.store import codecs

    _as_argument(codecs.get, text)
    return text


def shard(text: str) -> tuple[int, int]:
    """Returns (i, n) for 'I/N'."""
    number, slash, num_shards = text.partition("/")
    if not slash or not number.isdecimal() or not num_shards.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; write it as I/N, for example 1/8 to 8/8")
    return int(number), int(num_shards)
