"""Damaged manifests, tables, lists, indexes, stores, runs and caches, as `fuzz_runner.py` asks."""

from __future__ import annotations

from pathlib import Path

from fuzz_helpers import fuzz


class Fuzz:
    """Damages a file of a small workspace and runs a command that reads it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder

    def run(self, number: int) -> str | None:
        (done,) = fuzz(self.seed, range(number, number + 1), self.folder)
        wrong = done["wrong"]
        return wrong and f"{done['target']}, {done['how']}, {done['words']}: {wrong}"
