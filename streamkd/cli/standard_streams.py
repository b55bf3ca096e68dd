"""Standard output and standard error, which may be closed, full, or a pipe that nobody reads.

    make_usable()                  # before anything opens a file
    code = deliver(print_it, 0)    # the exit code: 0, or 2 if the answer cannot be written

`streamkd scan photos | head` ends quietly. An answer that cannot be written is never exit code 1,
which means that the answer is no.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

EXIT_NOT_WRITTEN = 2


def make_usable() -> None:
    """Puts closed standard streams on /dev/null, and lets names be printed that are not UTF-8.

    The next file that the process opens would get the number of a closed stream, and messages would
    be written into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  stays open to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def deliver(print_answer: Callable[[], None], exit_code: int) -> int:
    """Prints an answer to its end, and returns the exit code.

    A reader that is gone wants no more; any other fault of standard output is told on standard
    error.
    """
    if sys.stdout is None:
        return _not_written("standard output is closed", exit_code)
    try:
        print_answer()
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return EXIT_NOT_WRITTEN if exit_code == 1 else exit_code
    except OSError as error:
        _discard_output()
        return _not_written(error.strerror or str(error), exit_code)
    return exit_code


def _not_written(reason: str, exit_code: int) -> int:
    message = (
        f"streamkd: The answer cannot be written: {reason}.\n"
        "Give the same command again with another standard output, such as `> FILE`."
    )
    print(message, file=sys.stderr)
    return exit_code if exit_code > 1 else EXIT_NOT_WRITTEN


def _discard_output() -> None:
    """Leads standard output to /dev/null: Python writes what is left of it at the end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
