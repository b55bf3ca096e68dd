"""Flags of a teacher behind an address.

http_flags.add_http(parser)
teacher = kd.load_teacher(args.teacher, **http_flags.service(args))
"""

from __future__ import annotations

import argparse
from typing import Any

from streamkd.cli import arguments

_FLAGS = ("max_queries", "queries_per_second", "concurrency", "timeout")


def add_http(parser: arguments.Parser) -> None:
    """Adds the flags."""
    group = parser.add_group("teacher behind an address")
    group.add_argument(
        "--max-queries",
        type=arguments.count,
        metavar="N",
        help="end after asking about N images, with exit code 2; the same command goes on",
    )
    group.add_argument(
        "--queries-per-second",
        type=float,
        metavar="N",
        help="send at most N images a second (default: any number)",
    )
    group.add_argument(
        "--concurrency",
        type=arguments.count,
        metavar="N",
        help="requests that are under way at a time (default 4)",
    )
    group.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="time without an answer after which a request is sent again (default 60)",
    )
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
