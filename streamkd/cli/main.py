"""The command `streamkd`: exit codes, and how answers and refusals are printed.

Exit codes: 0 done; 1 the answer is no; 2 the user must change something; 3 our own fault, the only
case with a traceback; 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from streamkd.cli import config_file, signals
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
            answer, code = args.run(args)
            _print_answer(answer, args.json)
            return code
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
    except Exception as error:  # our own fault: the one case with a traceback
        traceback.print_exc()
        _print_refusal("internal", f"{type(error).__name__}: {error}", None, args.json)
        return EXIT_OUR_FAULT


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints what Python would print with the line of code that warned, without that line."""
    print(f"streamkd: warning: {message}", file=sys.stderr)


def _interrupted(word: str, code: int, as_json: bool) -> int:
    message = f"{word}. What was saved is safe; the same command goes on from there."
    _print_refusal("interrupted", message, None, as_json)
    return code


def _print_refusal(code: str, message: str, key: bytes | None, as_json: bool) -> None:
    if not as_json:
        print(f"streamkd: {message}", file=sys.stderr)
        return
    from streamkd.manifest.manifest import key_fields

    fields = {"key": None} if key is None else key_fields(key)
    print(json.dumps({"error": {"code": code, "message": message, **fields}}))


def _print_answer(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(_finite(answer), allow_nan=False))
        return
    text = answer.pop("text", None)
    if text is not None:
        print(text)
        return
    width = max(len(name) for name in answer)
    for name, value in answer.items():
        print(f"{name:<{width}}  {_shown(value)}")


def _finite(value: Any) -> Any:
    """Returns the answer with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        lines = ("  " + ", ".join(f"{n}: {v}" for n, v in entry.items()) for entry in value)
        return "\n" + "\n".join(lines)
    if isinstance(value, list):
        return ", ".join(map(str, value[:20])) + (" …" if len(value) > 20 else "")
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return str(value)


def run() -> None:
    """Entry point of the console script."""
    # A folder's name need not be UTF-8; better an escaped name than a crash.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    setattr(warnings, "showwarning", _print_warning)  # noqa: B010  the hook that warnings documents
    sys.exit(main())
