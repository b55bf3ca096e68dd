"""Imports TensorFlow without its messages.

    import_tensorflow()
    import tensorflow as tf

TensorFlow writes lines about missing GPUs to standard error before its own log level applies, more
than a short command itself writes. Errors still show, since they are Python exceptions.
"""

from __future__ import annotations

import os
import sys

from streamkd.tf_support import native_lines
from streamkd.tf_support.keras_configuration import check_configuration

# Levels of TensorFlow's log: warnings, and what ends the process.
_WARNINGS, _FATAL = "1", "3"


def import_tensorflow() -> None:
    """Imports TensorFlow and lists the devices; lines below the log level do not show.

    A user who sets TF_CPP_MIN_LOG_LEVEL gets TensorFlow's own behaviour.

    Raises:
      OptionError: a configuration with which tf_keras cannot be imported.
    """
    if "tf_keras" not in sys.modules:
        check_configuration()
    if "tensorflow" in sys.modules:
        return
    own_level = os.environ.get(native_lines.LEVEL_VARIABLE)
    held = native_lines.is_held()
    if own_level is not None and not held:
        return
    # TensorFlow keeps the level that it finds now. A command hears its warnings, and sorts them.
    level = _WARNINGS if held else _FATAL
    with native_lines.listening():
        os.environ[native_lines.LEVEL_VARIABLE] = min(own_level or level, level)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
            import tf_keras  # noqa: F401  writes messages as well
        finally:
            # For child processes, and for libraries that are imported later.
            os.environ[native_lines.LEVEL_VARIABLE] = own_level or _FATAL
