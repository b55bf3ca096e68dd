"""TOML files of flags: any flag with any value, any table, twice or nested, in any encoding.

A command with such a file ends by an answer, and writes nothing. See `fuzz_runner.py`.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import fuzz_helpers

from streamkd.cli.parser import build_parser

# Commands that write nothing, with the words that make them sound.
COMMANDS = {
    "scan": ["images"],
    "inspect": ["s.h5"],
    "verify": ["s.h5", "--images", "images"],
    "plan": ["images", "--store", "s.h5"],
}
VALUES = [
    *("true", "false", "0", "-1", "1_000", "0x10", "1e400", "nan", "-inf", "99999999999999999999"),
    *(
        '""',
        '"x"',
        '"\\u0000"',
        '"\\u00e9\\u200b"',
        "'8x8'",
        '"nan"',
        '"="',
        '"--seed"',
        "1979-05-27",
    ),
    *("07:32:00", "[]", "[[]]", '["a", 1]', "{}", "{a = {b = 1}}", '"""a\nb"""', "[1, 2, 3]"),
    *('"images"', '"/dev/zero"', '"pipe"', '"s.h5"', "'" + "x" * 5000 + "'", '[["a"]]', "1.5"),
]
NAMES = (
    "config",
    "json",
    "quiet",
    "help",
    "version",
    "trust",
    "seed",
    "a.b",
    '""',
    '"\\u0000"',
    "=",
)


class Fuzz:
    """Draws files of flags and gives them to commands."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.case = seed, folder / "case"
        fuzz_helpers.make_workspace(self.case)
        self.parser = build_parser()

    def text(self, command: str, chance: random.Random) -> str:
        """Returns the text of a file of flags."""
        known = [*self.parser.commands[command].arguments, *NAMES]
        tables = ["", f"[{command}]", f"[[{command}]]", "[train]", "[unknown]", f"[{command}.a]"]
        lines = []
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
            lines += chance.choices(tables, (4, 8, 1, 2, 1, 1))
            for _ in range(chance.choice((1, 1, 1, 2, 5))):
                name = chance.choice(known)
                name = name.replace("-", "_") if chance.random() < 0.5 else name
                lines.append(f"{name} = {chance.choice(VALUES)}")
        return "\n".join(lines)

    def run(self, number: int) -> str | None:
        chance = random.Random(f"{self.seed} {number}")
        command = chance.choice(list(COMMANDS))
        data = self.text(command, chance).encode()
        if chance.random() < 0.15:
            data = fuzz_helpers.in_bytes(data, chance)
        (self.case / "flags.toml").write_bytes(data)
        words = [command, *COMMANDS[command], "--config", "flags.toml"]
        words += chance.choice(([], [], ["--seed", "1"], ["--config", "flags.toml"]))
        own = ("s.h5.index",)
        before = fuzz_helpers.states(self.case, own)
        with contextlib.chdir(self.case):
            wrong = fuzz_helpers.run_command(words)
        changed = before != fuzz_helpers.states(self.case, own)
        return (
            f"{words} {data[:300]!r}: {wrong or 'files were changed'}" if wrong or changed else None
        )
