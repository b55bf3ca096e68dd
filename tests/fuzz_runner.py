"""Runs many cases of a fuzz in a process of its own, which may die, hang or grow.

    wrong = in_children("images", seed=0, numbers=range(20_000))      # one dict a wrong case

A kind of fuzz is a module with a class `Fuzz`: `Fuzz(seed, folder).run(number)` returns what is
wrong with the case of that number, or None. A number and a seed give the same case each time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Seconds after which a case counts as one that hangs, and bytes that no case takes.
LONGEST_SECS, MOST_BYTES = 120, 4 << 30
KINDS = ("images", "image_parts", "models", "files", "stores", "configs", "command_lines")


class HangsError(BaseException):
    """A case takes longer than any sound one."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Within it, what hangs is a `HangsError`, and what grows is a MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, hard))

    def expire(*_: Any) -> None:
        raise HangsError

    before = signal.signal(signal.SIGALRM, expire)
    left = signal.alarm(LONGEST_SECS)  # of a block around this one
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)
        signal.alarm(left)


def run_cases(kind: str, seed: int, numbers: range, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields what was wrong, case by case, in this process; `wrong` is None for a good case."""
    fuzz = importlib.import_module(f"fuzz_{kind}").Fuzz(seed, folder)
    for number in numbers:
        try:
            with limited():
                wrong = fuzz.run(number)
        except HangsError:
            wrong = "hangs"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            wrong = f"raises {error!r:.400}"
        yield {"kind": kind, "seed": seed, "number": number, "wrong": wrong}


def in_children(kind: str, seed: int, numbers: range) -> Iterator[dict[str, Any]]:
    """Yields the wrong cases, run in children; a child that dies or stands still is replaced."""
    first = numbers.start
    while first < numbers.stop:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
            words = [kind, seed, first, numbers.stop, name]
            with tempfile.TemporaryFile() as out, _child(words, out) as child:
                reason = _watch(child, Path(name) / "number")
                out.seek(0)
                yield from (json.loads(line) for line in out if line.startswith(b"{"))
            last = int((Path(name) / "number").read_text() or first)
            if not reason:
                return
            yield {"kind": kind, "seed": seed, "number": last, "wrong": reason}
            first = last + 1


@contextlib.contextmanager
def _child(words: list[Any], out: Any) -> Iterator[subprocess.Popen]:
    child = subprocess.Popen(
        [sys.executable, __file__, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def _watch(child: subprocess.Popen, number_file: Path) -> str:
    """Waits for a child; returns how it failed, or nothing."""
    number_file.touch()
    seen, since = "", time.monotonic()
    while child.poll() is None:
        time.sleep(0.2)
        number = number_file.read_text()
        if number != seen:
            seen, since = number, time.monotonic()
        elif time.monotonic() - since > 5 * LONGEST_SECS:
            return "hangs, and does not hear signals"
    return "" if child.returncode == 0 else f"ends its process with {child.returncode}"


def _main() -> int:
    kind, seed, first, stop, name = sys.argv[1:]
    folder = Path(name)
    descriptor = os.open(folder / "number", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, first.encode())
    answers = os.fdopen(os.dup(1), "w")
    for case in run_cases(kind, int(seed), range(int(first), int(stop)), folder):
        if case["wrong"] is not None:
            print(json.dumps(case), file=answers, flush=True)
        os.pwrite(descriptor, str(case["number"] + 1).encode(), 0)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
