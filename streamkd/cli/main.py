"""The command `streamkd`: runs one command, prints its answer or its refusal, sets the exit code.

    main(["scan", "photos/train", "--json"])

Exit codes: 0 done; 1 the answer is no; 2 the user must change something; 3 our own fault, the only
case with a traceback; 130 interrupted (SIGINT); 143 terminated (SIGTERM).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from streamkd.cli import config_file, signals, standard_streams
from streamkd.cli.answer import print_answer, printable
from streamkd.cli.parser import build_parser
from streamkd.cli.standard_streams import deliver
from streamkd.errors import StreamkdError
from streamkd.file_access import check_system, file_settings
from streamkd.tf_support import native_lines

EXIT_REFUSED = 2
EXIT_OUR_FAULT = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = argparse.Namespace(json="--json" in words)
    try:
        check_system()
        with signals.sigterm_raises():
            config_file.parse(build_parser(), words, args)
            settings = file_settings(
                store_io=getattr(args, "store_io", None), locks=not getattr(args, "no_lock", False)
            )
            # What a module of the user's own prints is no part of the answer.
            with settings, contextlib.redirect_stdout(sys.stderr):
                _import(args.imports or [])
                answer = args.run(args)
            return deliver(lambda: print_answer(answer, args.json), answer.exit_code)
    except StreamkdError as error:
        return _refuse(error.code, str(error), error.key, args.json)
    except signals.StoppedError as stopped:
        return _refuse("interrupted", str(stopped), None, args.json, stopped.exit_code)
    except KeyboardInterrupt:
        return _interrupted("Interrupted", EXIT_INTERRUPTED, args.json)
    except signals.TerminatedError:
        return _interrupted("Terminated", EXIT_TERMINATED, args.json)
    except Exception as error:
        if (message := _why_system_refuses(error)) is not None:
            return _refuse("refused", message, None, args.json)
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        return _refuse("internal", message, None, args.json, EXIT_OUR_FAULT)


def _import(modules: Sequence[str]) -> None:
    """Imports the modules of --import, which may register layers."""
    if not modules:
        return
    from streamkd.models.user_code import import_module
    from streamkd.tf_support.quiet_import import import_tensorflow

    import_tensorflow()
    for name in modules:
        import_module(name, f"--import {name}")


def _why_system_refuses(error: Exception) -> str | None:
    """Returns the message for an error of the system that no command foresaw; None for others."""
    if isinstance(error, ValueError) and "null byte" in str(error):
        return "A path holds a NUL character, which no file system takes.\nGive another path."
    if isinstance(error, OSError) and error.errno is not None:
        file = "" if error.filename is None else f"\n  file: {os.fsdecode(error.filename)}"
        return (
            f"The system refuses: {error.strerror}.{file}\n"
            "Look at the path, the disk and the rights, and give the same command again."
        )
    return None


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints a warning as one line, without the source line that Python would add."""
    print(printable(f"streamkd: warning: {message}"), file=sys.stderr)


def _interrupted(word: str, code: int, as_json: bool) -> int:
    message = f"{word}. Saved work is safe; the same command resumes from there."
    return _refuse("interrupted", message, None, as_json, code)


def _refuse(
    code: str, message: str, key: bytes | None, as_json: bool, exit_code: int = EXIT_REFUSED
) -> int:
    """Prints a refusal, and returns the exit code."""
    if not as_json:
        print(printable(f"streamkd: {message}"), file=sys.stderr)
        return exit_code
    from streamkd.keys import key_fields

    fields = {"key": None} if key is None else key_fields(key)
    text = json.dumps({"error": {"code": code, "message": message, **fields}})
    return deliver(lambda: print(text), exit_code)


def run() -> None:
    """Entry point of the console script."""
    standard_streams.make_usable()
    setattr(warnings, "showwarning", _print_warning)  # noqa: B010  the hook that warnings documents
    native_lines.hold()
    try:
        code = main()
    except SystemExit as ended:  # argparse printed a help text or a mistake
        code = int(ended.code or 0)
    sys.exit(code if sys.stdout is None else deliver(lambda: None, code))
