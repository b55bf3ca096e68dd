"""Random command lines, drawn from the parser: each ends with exit code 0, 1 or 2 and one answer.

Nothing is written but what `--out` names, below the case's own folder. See `fuzz_runner.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import fuzz_helpers

from streamkd.cli.main import main
from streamkd.cli.parser import build_parser

# Commands, and how often each is drawn; the demo downloads and trains for minutes.
COMMANDS = {"scan": 4, "inspect": 1, "verify": 3, "plan": 3, "teach": 4, "import": 4, "merge": 3}
COMMANDS |= {"train": 4, "evaluate": 3, "export": 2, "cluster": 2}
NAMES = [
    *("images", "s.h5", "s.delta-1.h5", "student.keras", "run", "train.jsonl", "logits.npy"),
    *("images/table.csv", "labels.json", "map.json", "names.txt", "flags.toml", "keys.jsonl"),
    *("nowhere", "", ".", "..", "/dev/null", "/", "a" * 300, "new", "new.h5", "new.keras"),
    *("pipe", "images/ant/00000.png", "é\u0301\u200b.h5", "new\n.h5", "-", "images/ant", "\udcff"),
]
ODD_WORDS = [
    *("", "0", "-1", "1", "2", "0.5", "1.5", "nan", "inf", "-inf", "1e400", "x", "8x8", "0x0"),
    *("8", "3x", "99999999999999999999", "true", "none", "auto", "0.3 0.9", "{}", "[1]", "'", "=1"),
    *("1/2", "0/0", "3/2", "packed:3+2", "packed:9", "float16", "0,0,0", "300,0,0", "0.5,0.2"),
    *("\u0661", "1_0", " 1", "MobileNetV2", "os:system", "inferred", "training", "raise", "drop"),
]
# Flags whose large values ask for hours, not for an answer.
LONG = ("epochs", "views", "sample", "patience", "image-size", "batch-size", "steps", "max-minutes")
FEW = ["-1", "0", "1", "2", "x", "", "nan", "8x8", "0x0", "8", "1.5"]


class Fuzz:
    """Draws command lines and runs them in a copy of a small workspace."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.sound, self.case = folder / "sound", folder / "case"
        fuzz_helpers.make_workspace(self.sound)
        os.mkfifo(self.sound / "pipe")
        self.parser = build_parser()

    def words(self, chance: random.Random) -> list[str]:
        """Returns the words of a command line."""
        command = chance.choices(list(COMMANDS), list(COMMANDS.values()))[0]
        arguments = self.parser.commands[command].arguments
        words = [command]
        for name, argument in arguments.items():
            if name in ("help", "config", "json", "quiet"):
                continue
            needed = argument.required or not argument.option_strings
            chosen = chance.random() < (0.93 if needed else 1.5 / len(arguments))
            for _ in range(chance.choice((1, 1, 1, 1, 2)) if chosen else 0):
                words += self._values(name, argument, chance)
        if chance.random() < 0.1:
            words.insert(chance.randrange(len(words)), chance.choice(ODD_WORDS + NAMES))
        if chance.random() < 0.1 and len(words) > 2:
            chance.shuffle(words)
        if command == "train":
            words += ["--jit", "off"] if chance.random() < 0.95 else []
        return [*words, "--quiet", "--json"]

    def _values(self, name: str, argument: argparse.Action, chance: random.Random) -> list[str]:
        flags = chance.sample(argument.option_strings, min(1, len(argument.option_strings)))
        if argument.nargs == 0:
            return flags
        count = argument.nargs if isinstance(argument.nargs, int) else 1
        if argument.nargs == "+" or chance.random() < 0.03:
            count = chance.randrange(4)
        return flags + [self._value(name, argument, chance) for _ in range(count)]

    def _value(self, name: str, argument: argparse.Action, chance: random.Random) -> str:
        if argument.choices and chance.random() < 0.8:
            return str(chance.choice(list(argument.choices)))
        if name in LONG:
            return chance.choice(FEW)
        likely = LIKELY.get(name)
        if likely and chance.random() < 0.75:
            return chance.choice(likely)
        return chance.choice(chance.choice((ODD_WORDS, NAMES)))

    def run(self, number: int) -> str | None:
        chance = random.Random(f"{self.seed} {number}")
        words = self.words(chance)
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.sound, self.case, ignore=shutil.ignore_patterns("pipe"))
        os.mkfifo(self.case / "pipe")
        with contextlib.chdir(self.case):
            wrong = self._outcome(words)
        return None if wrong is None else f"{words}: {wrong}"

    def _outcome(self, words: list[str]) -> str | None:
        before = fuzz_helpers.states(self.case, _own(words))
        out, errors = io.StringIO(), io.StringIO()
        code: Any
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            try:
                code = main(words)
            except SystemExit as ended:  # help, version
                return None if ended.code == 0 else f"ends by SystemExit {ended.code}"
        if code not in (0, 1, 2) or "Traceback" in errors.getvalue():
            return f"exit code {code}: {out.getvalue()[:300]} {errors.getvalue()[-600:]}"
        try:
            answer = json.loads(out.getvalue())
        except ValueError:
            return f"exit code {code}, no JSON: {out.getvalue()[:200]!r}"
        message = (answer.get("error") or {}).get("message", "") if isinstance(answer, dict) else ""
        if code == 2 and (not message.strip() or len(message) > 4000):
            return f"a message of {len(message)} characters: {message[:200]!r}"
        after = fuzz_helpers.states(self.case, _own(words))
        changed = sorted(n for n in {*before, *after} if before.get(n) != after.get(n))
        return f"changed {changed}" if changed else None


LIKELY = {
    "images": ["images", "images", "images", "train.jsonl", "images/table.csv"],
    "validation": ["images", "train.jsonl"],
    "store": ["s.h5", "s.h5", "s.delta-1.h5"],
    "stores": ["s.h5", "s.delta-1.h5"],
    "teacher": ["student.keras"],
    "student": ["student.keras", "run/student.keras"],
    "model": ["student.keras", "run"],
    "logits": ["logits.npy", "logits.csv"],
    "keys": ["keys.jsonl"],
    "labels": ["inferred", "none", "labels.json"],
    "class-map": ["map.json"],
    "class-names": ["names.txt"],
    "class-weight": ["weights.json", "balanced"],
    "out": ["new.h5", "new", "new.keras", "run", "s.h5"],
}


def _own(words: list[str]) -> tuple[str, ...]:
    """Returns what a command may write: what `--out` and the cache's flag name, and its deltas."""
    own = ["cache"]
    for flag, value in itertools.pairwise(words):
        if flag in ("--out", "--cache-directory"):
            name = value.split("/")[0]
            base = name.removesuffix(".h5")
            deltas = [f"{base}.delta-{number}.h5" for number in (1, 2, 3)]
            own += [name, f"{name}.index", *deltas, *(f"{path}.lock" for path in (name, *deltas))]
    return tuple(own)
