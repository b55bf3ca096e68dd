"""SIGINT and SIGTERM: the first stops the run and saves it, a second ends it at once.

    with StopSignals() as signals:
        history = distiller.fit(stream, epochs=30, run="runs/first", stop=signals.arrived)
    if history.stopped:
        raise signals.stopped_error("The run is saved at step 120 in runs/first.")

Commands that save as they work need only `sigterm_raises`, which lets them close their files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

# First word of a message, by signal.
WORDS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}


class TerminatedError(BaseException):
    """SIGTERM arrived."""


class StoppedError(Exception):
    """A signal came, and the run was saved; the exit code is 130 or, after SIGTERM, 143."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopSignals:
    """A context in which the first signal only sets a flag; a second one raises.

    Does nothing outside the main thread, to which signal handlers belong. An ignored signal, such
    as SIGINT of a shell's background job, stays ignored.

    Attributes:
      first: the signal that came first, or None.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in WORDS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._arrive)
        return self

    def __exit__(self, *error: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def arrived(self) -> bool:
        """Returns whether a signal has come."""
        return self.first is not None

    def stopped_error(self, message: str) -> StoppedError:
        """Returns the error that ends the command after the run was saved."""
        number = self.first or signal.SIGINT
        return StoppedError(f"{WORDS[number]}. {message}", 128 + number)

    def _arrive(self, number: int, frame: Any) -> None:
        if self.first is not None:
            _raise(number, frame)
        self.first = signal.Signals(number)
        _print("finishing this step and saving; press Ctrl-C again to stop immediately")


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """A context in which SIGTERM raises `TerminatedError`, so that the command closes its files.

    Does nothing outside the main thread, to which signal handlers belong.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise(number: int, frame: Any) -> NoReturn:
    raise TerminatedError if number == signal.SIGTERM else KeyboardInterrupt


def _print(message: str) -> None:
    """Prints one line past sys.stderr, a print to which the signal may have interrupted."""
    start = "\n" if sys.stderr.isatty() else ""  # below the progress bar
    with contextlib.suppress(OSError):
        os.write(2, f"{start}streamkd: {message}\n".encode())
