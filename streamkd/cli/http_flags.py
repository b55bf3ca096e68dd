"""Flags of a teacher behind an address.

http_flags.add_http(parser)
teacher = kd.load_teacher(args.teacher, **http_flags.service(args))
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from streamkd.cli import arguments

# Arguments of `http_teacher`: type, name of the value, and what the flag does.
_FLAGS: dict[str, tuple[Callable[[str], float], str, str]] = {
    "max_queries": (
        arguments.count,
        "N",
        "end after asking about N images, with exit code 2; the same command goes on",
    ),
    "queries_per_second": (float, "N", "send at most N images a second (default: any number)"),
    "concurrency": (arguments.count, "N", "requests that are under way at a time (default 4)"),
    "timeout": (
        float,
        "SECONDS",
        "time without an answer after which a request is sent again (default 60)",
    ),
}


def add_http(parser: arguments.Parser) -> None:
    """Adds the flags."""
    group = parser.add_group("teacher behind an address")
    for name, (kind, metavar, text) in _FLAGS.items():
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=kind, metavar=metavar, help=text)
    group.add_argument(
        "--header",
        action="append",
        metavar="NAME:VALUE",
        help="header of every request, such as a key; repeatable, and never stored. The variable "
        "STREAMKD_HTTP_HEADER holds headers that other users of the machine should not see",
    )


def service(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments that the flags stand for; without those that were not given."""
    given = {name: getattr(args, name) for name in _FLAGS if getattr(args, name) is not None}
    if args.header:
        from streamkd.teachers.http_teacher import parse_headers

        given["headers"] = parse_headers(args.header, "--header")
    return given
