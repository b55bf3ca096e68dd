"""The telling line of an error that Keras or the user's own code raised.

keras_reason(error)         # "Could not locate class 'Scaled'. …"
model_reason(error)         # "KeyError: 'width' (line 12 of my_models.py, in call)"
last_lines(error)           # "KeyError: 'width' (line 12 of my_models.py, in small)"
"""

from __future__ import annotations

import os
import re
import sysconfig
import traceback

# Longest reason that a message shows, in characters.
MAX_REASON = 300
# Code that is not the user's.
_LIBRARIES = (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], "<frozen")
# Name of a file that AutoGraph writes of the user's code, with lines of its own.
_GENERATED = "__autograph_generated_file"
# What stands around the cause of an error within a layer, in both families.
_BEFORE_CAUSE = re.compile(r"Exception encountered when calling .*")
_BEHIND_CAUSE = re.compile(r"^\s*(?:Call a|A)rguments received by ", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


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


def model_reason(error: BaseException) -> str:
    """Returns why a model cannot be called: the cause, and the line of the user's code, if any.

    Both families put the cause between the name of the layer and a copy of its arguments; where
    the call was traced, Python's traceback stands before it, and TensorFlow's where it ran.
    """
    # A KeyError shows its words as Python writes them, without their lines.
    words = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = _COLOURS.sub("", str(words))
    *before, cause = _BEFORE_CAUSE.split(text)
    lines = [line.strip() for line in _BEHIND_CAUSE.split(cause)[0].splitlines() if line.strip()]
    if not before and lines[:1] == ["Graph execution error:"]:
        lines = [line for line in lines if not line.startswith("[[")][-1:]
    named = [line for line in lines if "Error: " in line][:1]
    told = (named or [" ".join(lines)])[0][:MAX_REASON]
    if not named:
        told = f"{type(error).__name__}: {told}" if told else type(error).__name__
    return told + _place(error)


def last_lines(error: BaseException) -> str:
    """Returns an error of the user's code: its class, its words, and where it was raised."""
    words = " ".join(str(error).split())[:MAX_REASON]
    told = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{told} (line {error.lineno} of {error.filename})"
    return told + _place(error)


def _place(error: BaseException) -> str:
    """Returns the last line of the user's own code that an error passed, in brackets, if any."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_library(frame.filename)]
    if not own or _GENERATED in own[-1].filename:
        return ""
    return f" (line {own[-1].lineno} of {own[-1].filename}, in {own[-1].name})"


def _is_library(path: str) -> bool:
    """Returns whether a file belongs to Python, to an installed package, or to streamkd."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return path.startswith((*_LIBRARIES, own))
