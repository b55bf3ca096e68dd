"""Imports TensorFlow without its greetings.

TensorFlow writes lines about missing GPUs to standard error before its own log level applies. On a
machine without a GPU that is most of what a user sees of a short command. Errors still show: they
are Python exceptions.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for devices with standard error turned away meanwhile.

    Setting TF_CPP_MIN_LOG_LEVEL leaves everything as TensorFlow has it.
    """
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    # Only errors from now on; children and libraries that are imported later see it as well.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with _standard_error_turned_away():
        import tensorflow as tf

        tf.config.list_physical_devices()
        import tf_keras  # noqa: F401  greets as well


@contextlib.contextmanager
def _standard_error_turned_away() -> Iterator[None]:
    """Points file descriptor 2 at nothing: the greetings do not pass through sys.stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
