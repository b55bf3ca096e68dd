"""Stores changed in their userblock or in HDF5's own records, with digests that fit the change.

A digest that does not fit is refused before HDF5 sees a byte; here a stranger has made it fit.
Each command ends by an answer, and none writes to the store. See `fuzz_runner.py`.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from pathlib import Path

import fuzz_helpers

from streamkd.store import userblock

BLOCK = userblock.USERBLOCK_BYTES
COMMANDS = [
    ["inspect", "s.h5"],
    ["verify", "s.h5"],
    ["verify", "s.h5", "--images", "images"],
    ["merge", "s.h5", "--out", "new.h5"],
    ["plan", "images", "--store", "s.h5"],
]
# Marks of HDF5's records: trees, heaps, tables of symbols, headers of objects, and old signatures.
MARKS = (b"TREE", b"HEAP", b"SNOD", b"OHDR", b"OCHK", b"GCOL", b"FRHP", b"BTHD", b"\x89HDF")
NUMBERS = (0, 1, 2, 7, 8, 255, 4096, 65_535, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1)


def _ranges(data: bytes) -> list[tuple[int, int]]:
    block = userblock.parse("", data)
    return list(userblock.metadata_ranges(block.file_size, block.extents))


def _in_records(data: bytearray, chance: random.Random) -> None:
    """Changes numbers in what HDF5 reads: mostly near a record's mark, else where bytes are."""
    marks = [at + BLOCK for mark in MARKS for at in _all(data[BLOCK:], mark)]
    living = [at for start, end in _ranges(data) for at in range(start, end) if data[at]]
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.choice(living)
        if marks and chance.random() < 0.5:
            at = min(chance.choice(marks) + chance.randrange(64), len(data) - 8)
        width = chance.choice((1, 1, 2, 4, 8))
        if chance.random() < 0.3:
            data[at] ^= 1 << chance.randrange(8)
        else:
            value = chance.choice(NUMBERS) & ((1 << 8 * width) - 1)
            data[at : at + width] = value.to_bytes(width, "little")


def _all(data: bytes | bytearray, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def changed_store(data: bytes, chance: random.Random) -> bytes:
    """Returns a store with changed records or statements, and with digests that fit."""
    changed = bytearray(data)
    ranges = _ranges(data)
    if chance.random() < 0.7:
        _in_records(changed, chance)
    head, body = bytes(data[:BLOCK]).rstrip(b"\0").split(b"\n")[:2]
    statements = json.loads(body)
    digest = userblock.digest_of_ranges(lambda at, num: bytes(changed[at : at + num]), ranges)
    statements["metadata_digest"] = digest
    if chance.random() < 0.35:
        statements = fuzz_helpers.mutate_value(statements, chance)
    text = json.dumps(statements, sort_keys=True, separators=(",", ":")).encode()
    words = head.split(b" ")
    packed = b" ".join([*words[:-1], userblock.digest(text).encode()]) + b"\n" + text + b"\n"
    if len(packed) <= BLOCK:
        changed[:BLOCK] = packed.ljust(BLOCK, b"\0")
    return bytes(changed)


class Fuzz:
    """Changes a store and gives it to the commands that read one."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.case, self.outside = seed, folder / "case", folder / "outside"
        sound = folder / "sound"
        fuzz_helpers.make_workspace(sound)
        self.outside.mkdir()
        shutil.copytree(sound, self.case)
        self.data = {name: (sound / name).read_bytes() for name in ("s.h5", "s.delta-1.h5")}

    def run(self, number: int) -> str | None:
        chance = random.Random(f"{self.seed} {number}")
        for name, data in self.data.items():
            (self.case / name).write_bytes(data)
        name = chance.choice(list(self.data))
        (self.case / name).write_bytes(changed_store(self.data[name], chance))
        words = chance.choice(COMMANDS)
        own = ("new.h5", "new.h5.lock", "new.h5.index", "s.h5.index")
        before = fuzz_helpers.states(self.outside), fuzz_helpers.states(self.case, own)
        try:
            with contextlib.chdir(self.case):
                wrong = fuzz_helpers.run_command(words)
        finally:
            for path in self.case.glob("new.*"):
                path.unlink()
        if before != (fuzz_helpers.states(self.outside), fuzz_helpers.states(self.case, own)):
            return f"{name}, {words}: files were changed"
        return wrong and f"{name}, {words}: {wrong}"
