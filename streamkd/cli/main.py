"""The command `streamkd`: runs one command, prints its answer or its refusal, sets the exit code.

    main(["scan", "photos/train", "--json"])

Exit codes: 0 done; 1 the answer is no; 2 the user must change something; 3 our own fault, the only
case with a traceback; 130 interrupted (SIGINT); 143 terminated (SIGTERM).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from streamkd.cli import config_file, signals
from streamkd.cli.answer import print_answer, printable
from streamkd.cli.parser import build_parser
from streamkd.errors import StreamkdError

EXIT_REFUSED = 2
EXIT_OUR_FAULT = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = argparse.Namespace(json="--json" in words)
    try:
        with signals.sigterm_raises():
            config_file.parse(build_parser(), words, args)
            answer = args.run(args)
            print_answer(answer, args.json)
            return answer.exit_code
    except StreamkdError as error:
        _print_refusal(error.code, str(error), error.key, args.json)
        return EXIT_REFUSED
    except signals.StoppedError as stopped:
        _print_refusal("interrupted", str(stopped), None, args.json)
        return stopped.exit_code
    except KeyboardInterrupt:
        return _interrupted("Interrupted", EXIT_INTERRUPTED, args.json)
    except signals.TerminatedError:
        return _interrupted("Terminated", EXIT_TERMINATED, args.json)
    except Exception as error:
        traceback.print_exc()
        _print_refusal("internal", f"{type(error).__name__}: {error}", None, args.json)
        return EXIT_OUR_FAULT


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints a warning as one line, without the source line that Python would add."""
    print(printable(f"streamkd: warning: {message}"), file=sys.stderr)


def _interrupted(word: str, code: int, as_json: bool) -> int:
    message = f"{word}. Saved work is safe; the same command resumes from there."
    _print_refusal("interrupted", message, None, as_json)
    return code


def _print_refusal(code: str, message: str, key: bytes | None, as_json: bool) -> None:
    if not as_json:
        print(printable(f"streamkd: {message}"), file=sys.stderr)
        return
    from streamkd.keys import key_fields

    fields = {"key": None} if key is None else key_fields(key)
    print(json.dumps({"error": {"code": code, "message": message, **fields}}))


def run() -> None:
    """Entry point of the console script."""
    # A folder's name may not be UTF-8: it is printed escaped.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    setattr(warnings, "showwarning", _print_warning)  # noqa: B010  the hook that warnings documents
    sys.exit(main())
