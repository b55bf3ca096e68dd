"""Imports TensorFlow without its messages.

    import_tensorflow()
    import tensorflow as tf

TensorFlow writes lines about missing GPUs to standard error before its own log level applies, more
than a short command itself writes. Errors still show, since they are Python exceptions.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def import_tensorflow() -> None:
    """Imports TensorFlow and lists the devices while standard error is discarded.

    A user who sets TF_CPP_MIN_LOG_LEVEL gets TensorFlow's own behaviour.
    """
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    # Only errors from now on, also in child processes and in libraries that are imported later.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with _standard_error_discarded():
        import tensorflow as tf

        tf.config.list_physical_devices()
        import tf_keras  # noqa: F401  writes messages as well


@contextlib.contextmanager
def _standard_error_discarded() -> Iterator[None]:
    """Points file descriptor 2 at /dev/null: TensorFlow's messages bypass sys.stderr."""
    sys.stderr.flush()
    standard_error = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
