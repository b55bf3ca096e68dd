"""Ends the building of a model that takes more time or memory than a file of its size may.

limit = LoadingLimit(config_bytes, num_bytes)
with limit.watching():
    keras.models.load_model(path, compile=False)

A number in a configuration makes Keras repeat a step in Python as often as it says, and an output
that is not there makes it wait for ever. No list of such layers is complete, so it is watched.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator

# Seconds of computing for any file, and for each megabyte of configuration and gigabyte of weights
# besides; NASNetMobile, with 0.6 MB, takes 11.
SECS, SECS_PER_CONFIG_MB, SECS_PER_GB = 60.0, 120.0, 60.0
# Bytes by which the process may grow for any file, and for each byte of the file besides.
GROWTH_BYTES, GROWTH_PER_BYTE = 2 << 30, 8
# Seconds between two looks, and until it is raised again should a finalizer have swallowed it.
_INTERVAL_SECS, _AGAIN_SECS = 0.2, 2.0


class LoadingTakesTooMuch(BaseException):
    """Building the model takes more than its file may; no `Exception`, which Keras would catch."""


class LoadingLimit:
    """Looks from another thread at what the thread that makes it takes.

    Attributes:
      reason: why the building was ended; None if it was not.
    """

    def __init__(self, config_bytes: int, num_bytes: int) -> None:
        """Args: the bytes of the configuration, and those of the whole file."""
        self.reason: str | None = None
        self._secs = SECS + SECS_PER_CONFIG_MB * config_bytes / 1e6 + SECS_PER_GB * num_bytes / 1e9
        self._growth_bytes = GROWTH_BYTES + GROWTH_PER_BYTE * num_bytes
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._begin_secs, self._begin_bytes = time.clock_gettime(self._clock), _memory_bytes()
        # Locks of `_thread` alone: those of `threading` are Python, and an exception that comes
        # while Python takes one leaves it taken for ever.
        self._stop, self._ended = _thread.allocate_lock(), _thread.allocate_lock()
        self._is_armed, self._has_ended = False, False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Raises LoadingTakesTooMuch in this thread when it takes too much.

        Time in which the thread waits, for a disk or for other processes, does not count.
        """
        self._stop.acquire()
        self._ended.acquire()
        watcher = threading.Thread(target=self._look_on, name="loading-limit", daemon=True)
        watcher.start()
        try:
            try:
                self._is_armed = True
                yield
            finally:
                self._end()
        finally:
            self._end()  # once more, should the exception have come before the first call
            watcher.join()

    def _end(self) -> None:
        """Waits until the watcher has ended, and takes back what it raised last.

        The exception may come at any step here, and then all of them are taken again.
        """
        came: LoadingTakesTooMuch | None = None
        while True:
            try:
                self._is_armed = False
                while not self._has_ended:
                    if self._stop.locked():
                        self._stop.release()
                    self._ended.acquire(timeout=_INTERVAL_SECS)
                _raise_in(self._thread, None)
                break
            except LoadingTakesTooMuch as error:
                came = error
        if came is not None:
            raise came

    def _look_on(self) -> None:
        while not self._stop.acquire(
            timeout=_INTERVAL_SECS if self.reason is None else _AGAIN_SECS
        ):
            self.reason = self.reason or self._what_is_too_much()
            if self.reason is not None and self._is_armed:
                _raise_in(self._thread, LoadingTakesTooMuch)
        self._has_ended = True
        self._ended.release()

    def _what_is_too_much(self) -> str | None:
        if time.clock_gettime(self._clock) - self._begin_secs > self._secs:
            return f"building it takes over {self._secs:.0f} s of computing"
        if _memory_bytes() - self._begin_bytes > self._growth_bytes:
            return f"building it takes over {self._growth_bytes / 1e9:.1f} GB of memory"
        return None


def _memory_bytes() -> int:
    """Returns the memory that the process has; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Lets a thread raise an exception at its next step of Python; None takes that back."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(kind) if kind else None
    )
