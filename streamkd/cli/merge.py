"""`streamkd merge`: its flags, and what it does.

merge.add_merge(parser)
answer = merge.merge(args)
answer.fields["num_images"]
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import streamkd as kd
from streamkd.cli import arguments, files, flags, store_flags
from streamkd.cli.answer import Answer
from streamkd.errors import OptionError

# The default of `streamkd teach`.
CODEC = "float16"


def add_merge(parser: arguments.Parser) -> None:
    """Adds all flags of `streamkd merge` except `--out` and those of every command."""
    parser.add_argument(
        "stores",
        nargs="+",
        metavar="S.h5",
        help="stores; for an image in several, the last counts; with --combine, S.h5=WEIGHT",
    )
    text = "keep only the images of this directory; renamed files are recognized by content"
    flags.add_images(parser, text, labels="none")
    parser.add_argument(
        "--index",
        action="store_true",
        help="write a small file that lists the stores, and copy no rows",
    )
    parser.add_argument(
        "--combine",
        nargs="?",
        const="auto",
        metavar="RULE",
        help=f"write the combined answers of several teachers; {store_flags.COMBINE}",
    )
    store_flags.add_dustbin(parser)
    parser.add_argument(
        "--codec",
        type=arguments.codec,
        metavar="CODEC",
        help=f"with --combine, how the combined answers are stored (default {CODEC})",
    )
    parser.epilog = (
        "JSON keys: those of inspect, and num_superseded, images that a later store has as well, "
        "num_dropped, images that are not in IMAGES, and outcome: new, resumed or already_finished."
    )


def merge(args: argparse.Namespace) -> Answer:
    """Makes one store of several."""
    files.check_out(args.out, kind="store")
    if args.index and args.images is not None:
        raise OptionError("--index lists whole stores.\nLeave out --images, or --index.")
    if args.combine is not None:
        return _merge_combined(args)
    for name in ("codec", "dustbin", "oversampling"):
        if getattr(args, name) is not None:
            raise OptionError(
                f"--{name} is for the combined answers of several teachers.\n"
                f"Add `--combine`, or leave --{name} out."
            )
    for text in args.stores:
        path = store_flags.path_and_weight(text)[0]
        if path != text and os.path.lexists(path):
            raise OptionError(
                f"{text} gives a weight, which is for the combined answers of several teachers.\n"
                "Add `--combine`, or leave the weight out."
            )
    before = store_flags.rows_at(args.out)
    report = kd.merge(
        args.stores, args.out, images=_images(args), index=args.index, progress=not args.quiet
    )
    dropped = {"num_superseded": report.num_superseded, "num_dropped": report.num_dropped}
    outcome = store_flags.outcome(before, report.store)
    return Answer({**store_flags.described(report.store), **dropped, "outcome": outcome})


def _merge_combined(args: argparse.Namespace) -> Answer:
    """Writes the combined answers of several teachers."""
    rule, stores = args.combine, args.stores
    if args.index:
        raise OptionError("--index copies no rows, and --combine writes new ones.\nLeave one out.")
    if rule not in store_flags.RULES:  # the flag stood before the stores
        if not os.path.lexists(store_flags.path_and_weight(rule)[0]):
            raise OptionError(
                f"--combine is {rule!r}; choose one of {', '.join(store_flags.RULES)}.\n"
                "If it is a store, look at its path: there is no such file."
            )
        rule, stores = "auto", [rule, *stores]
    combination = store_flags.combined(stores, rule, args.dustbin, args.oversampling)
    before = store_flags.rows_at(args.out)
    store = combination.write(
        args.out, images=_images(args), codec=args.codec or CODEC, progress=not args.quiet
    )
    num_dropped = max(0, combination.num_images - store.num_images)
    described = store_flags.described(store)
    outcome = store_flags.outcome(before, store)
    return Answer(
        {**described, "num_superseded": 0, "num_dropped": num_dropped, "outcome": outcome}
    )


def _images(args: argparse.Namespace) -> Any:
    """Returns the images of --images, by default without labels; None without that flag."""
    return None if args.images is None else flags.scan_images(args, default_labels="none")
