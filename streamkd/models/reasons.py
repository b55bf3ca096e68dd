"""The telling line of an error that Keras or the user's own code raised.

keras_reason(error)         # "Could not locate class 'Scaled'. …"
last_lines(error)           # "KeyError: 'width' (line 12 of my_models.py, in small)"
"""

from __future__ import annotations

import os
import sysconfig
import traceback

# Longest reason that a message shows, in characters.
MAX_REASON = 300
# Code that is not the user's.
_LIBRARIES = (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], "<frozen")


def keras_reason(error: BaseException) -> str:
    """Returns the telling line of Keras' error, as the middle of a sentence.

    Keras 3 puts the cause behind a copy of all settings, and tf_keras behind its own traceback.
    """
    text = str(error).rpartition("Exception encountered:")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = next((line for line in lines if "Error: " in line), None) or _first_sentence(lines)
    return (told or type(error).__name__)[:MAX_REASON].rstrip(".")


def _first_sentence(lines: list[str]) -> str:
    """Returns the lines up to the first that ends a sentence; Keras wraps its longer ones."""
    ends = (number for number, line in enumerate(lines, 1) if line.endswith((".", ":", "!")))
    return " ".join(lines[: next(ends, len(lines))])


def last_lines(error: BaseException) -> str:
    """Returns an error of the user's code: its class, its words, and where it was raised."""
    words = " ".join(str(error).split())[:MAX_REASON]
    told = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{told} (line {error.lineno} of {error.filename})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_library(frame.filename)]
    if not own:
        return told
    place = own[-1]
    return f"{told} (line {place.lineno} of {place.filename}, in {place.name})"


def _is_library(path: str) -> bool:
    """Returns whether a file belongs to Python, to an installed package, or to streamkd."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return path.startswith((*_LIBRARIES, own))
