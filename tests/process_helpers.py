"""Python in a process of its own, which never outlives its test.

out, errors = finished("-c", PROGRAM, path)                   # run to its end
with running("-m", "streamkd", "train", ...) as child: ...    # and killed, should it still run
with paused(PROGRAM, ...) as child: ...                       # at a chosen moment
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from timeouts import TIMEOUT_SECS

ROOT = Path(__file__).resolve().parent.parent


def process(
    *words: Any,
    variables: dict[str, str] | None = None,
    interpreter: Sequence[Any] = (sys.executable,),
    **options: Any,
) -> Any:
    """Starts Python, which finds the package and the helpers of the tests; returns the `Popen`.

    Args:
      words: of Python's command line.
      variables: of the environment, besides those of the tests.
      interpreter: the command that starts Python; another program may come before it.
      options: of `subprocess.Popen`.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        # With a UTF-8 locale, Python's standard output refuses what is not UTF-8.
        "PYTHONIOENCODING": "utf-8:strict",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [word if isinstance(word, bytes) else str(word) for word in (*interpreter, *words)],
        env={**environment, **(variables or {})},
        **{**pipes, "text": True, "errors": "backslashreplace", **options},
    )


@contextlib.contextmanager
def running(*words: Any, **options: Any) -> Iterator[subprocess.Popen]:
    """Starts Python with some words; kills it at the end, should it still run."""
    with process(*words, **options) as child:
        try:
            yield child
        finally:
            child.kill()


@contextlib.contextmanager
def paused(program: str, *words: Any, **options: Any) -> Iterator[subprocess.Popen]:
    """Starts a program that stops at a moment of its own choice, and yields it there.

    Args:
      program: Python code. Its first argument is the number of a descriptor, to which it writes a
        byte at that moment; it then waits until its standard input is closed.
      words: its other arguments.
      options: of `subprocess.Popen`.
    """
    reader, writer = os.pipe()
    pipes = {"pass_fds": [writer], "stdin": subprocess.PIPE}
    with running("-c", program, writer, *words, **pipes, **options) as child:
        os.close(writer)
        with open(reader, "rb") as pipe:
            if not pipe.read(1):  # the process is gone without a pause
                pytest.fail(child.communicate()[1])
        yield child


def finished(*words: Any, code: int = 0, **options: Any) -> tuple[str, str]:
    """Runs Python with some words to its end; returns standard output and standard error.

    Args:
      words: after the name of the interpreter.
      code: the exit code that it must have.
      options: of `subprocess.Popen`.
    """
    with running(*words, **options) as child:
        out, errors = child.communicate(timeout=TIMEOUT_SECS)
    assert child.returncode == code, errors
    return out, errors
