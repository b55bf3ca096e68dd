"""Puts the warnings of a command into its answer.

@with_warnings
def teach(args: argparse.Namespace) -> Answer: ...      # has the key `warnings`
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from streamkd.cli.answer import Answer
from streamkd.codes import StreamkdWarning, warn
from streamkd.tf_support import native_lines

Command = Callable[[argparse.Namespace], Answer]


def with_warnings(command: Command) -> Command:
    """Returns `command` with the key `warnings` in its answer: code and message of each."""

    @functools.wraps(command)
    def run(args: argparse.Namespace) -> Answer:
        with _collected_warnings() as caught:
            answer = command(args)
            _warn_of_complaints()
        return dataclasses.replace(answer, fields={**answer.fields, "warnings": caught})

    return run


def _warn_of_complaints() -> None:
    """Warns once of all that image decoders wrote during the command."""
    if not native_lines.is_held():
        return
    count, _ = native_lines.take()
    if count:
        warn(
            "suspicious_images",
            f"Image decoders complained {count:,} times, and went on.\n"
            "`streamkd scan IMAGES --check` names the files and what is odd about each.",
            stacklevel=3,
        )


@contextlib.contextmanager
def _collected_warnings() -> Iterator[list[dict[str, str]]]:
    """Yields a list that fills with the warnings; they are shown as before."""
    caught: list[dict[str, str]] = []
    show = warnings.showwarning

    def collect(message: Warning | str, *args: Any, **options: Any) -> None:
        if isinstance(message, StreamkdWarning):
            caught.append({"code": message.code, "message": str(message)})
        show(message, *args, **options)

    setattr(warnings, "showwarning", collect)  # noqa: B010  the hook that warnings documents
    try:
        yield caught
    finally:
        setattr(warnings, "showwarning", show)  # noqa: B010
