"""A first look at a file of strangers in a child process, which a library may end.

try_in_child(lambda: read_all("logits.h5"), "HDF5")

The parsers of HDF5 and Parquet are C and C++, trust what they read, and may end the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable

# Longest look at a file, in seconds.
MAX_SECONDS = 600


def try_in_child(look: Callable[[], object], library: str) -> None:
    """Calls `look` in a child process; what it raises there is for the parent to raise again.

    Raises:
      ValueError: the child was ended by a signal; `library` is the name that the message has.
    """
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(MAX_SECONDS)
            # Lines that the library writes before it ends say nothing of use.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with contextlib.suppress(Exception):
                look()
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise ValueError(f"it is damaged: the {library} library ends with {name}")
