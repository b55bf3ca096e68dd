"""Keras' own configuration file, keras.json, read as both families of Keras read it.

    check_configuration()           # before one of them is imported
    backend_of_configuration()      # 'tensorflow', or what the file names

What Keras does not take there ends its import with an assertion that names no file.
"""

from __future__ import annotations

import json
import os
from typing import Any

from streamkd.errors import OptionError

BACKEND = "tensorflow"
_ALLOWED = {
    "floatx": ("float16", "float32", "float64"),
    "image_data_format": ("channels_last", "channels_first"),
}
# Others than these end the import of Keras 3, and with it that of TensorFlow.
_BACKENDS = ("tensorflow", "jax", "torch", "numpy", "openvino")
_REMEDY = "Correct the file, or move it away: Keras writes a new one."
_LIMITS = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")


def check_configuration() -> None:
    """Refuses a configuration with which Keras cannot be imported.

    Raises:
      OptionError: says the file, or the variable, and what Keras takes.
    """
    found, path = _read(), configuration_path()
    if not isinstance(found, dict):
        raise OptionError(
            f"Keras' configuration, {path}, is a {type(found).__name__}, not an object.\n{_REMEDY}"
        )
    for name, allowed in _ALLOWED.items():
        value = found.get(name, allowed[0])
        if value not in allowed:
            raise OptionError(
                f"Keras' configuration, {path}, sets {name} to {value!r:.80}; Keras takes "
                f"{', '.join(allowed)}.\n{_REMEDY}"
            )
    epsilon = found.get("epsilon", 1e-7)
    if not isinstance(epsilon, float):
        raise OptionError(
            f"Keras' configuration, {path}, sets epsilon to {epsilon!r:.80}; Keras takes a number "
            f"with a decimal point, such as 1e-07.\n{_REMEDY}"
        )
    _check_backend(found.get("backend", BACKEND), path)
    for name in _LIMITS:
        _check_whole_number(name, os.environ.get(name))


def backend_of_configuration() -> str:
    """Returns the backend that the file names, as users of PyTorch and JAX have it."""
    found = _read()
    return str(found.get("backend", BACKEND)) if isinstance(found, dict) else BACKEND


def configuration_path() -> str:
    """Returns the path of the file, where Keras looks for it."""
    home = os.environ.get("KERAS_HOME")
    if home is None:
        base = os.path.expanduser("~")
        home = os.path.join(base if os.access(base, os.W_OK) else "/tmp", ".keras")
    return os.path.expanduser(os.path.join(home, "keras.json"))


def _read() -> Any:
    """Returns what the file holds; an empty object without a file, or where it is no JSON."""
    path = configuration_path()
    if not os.path.exists(path):
        return {}
    try:
        with open(path) as file:
            return json.load(file)
    except ValueError:
        return {}  # so does Keras
    except (OSError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is nested too deep"
        raise OptionError(
            f"Keras' configuration, {path}, cannot be read: {reason}.\n{_REMEDY}"
        ) from error


def _check_backend(configured: Any, path: str) -> None:
    """Refuses a backend that Keras 3 does not know; the variable counts before the file."""
    variable = os.environ.get("KERAS_BACKEND")
    if variable and variable not in _BACKENDS:
        raise OptionError(
            f"KERAS_BACKEND is {variable!r:.80}, and Keras takes {', '.join(_BACKENDS)}.\n"
            "Set KERAS_BACKEND=tensorflow and run again."
        )
    if not variable and configured not in _BACKENDS:
        raise OptionError(
            f"Keras' configuration, {path}, sets backend to {configured!r:.80}; Keras takes "
            f"{', '.join(_BACKENDS)}.\n{_REMEDY}"
        )


def _check_whole_number(name: str, text: str | None) -> None:
    if text is None:
        return
    try:
        int(text)
    except ValueError:
        raise OptionError(
            f"{name} is {text!r}, and Keras takes a whole number.\nSet it to one, or unset it."
        ) from None
