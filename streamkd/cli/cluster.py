"""`streamkd cluster`: its flags, and what it does.

cluster.add_cluster(parser)
answer = cluster.cluster(args)
answer.fields["clusters"]
"""

from __future__ import annotations

import argparse

import streamkd as kd
from streamkd.cli import arguments, files, flags
from streamkd.cli.answer import Answer


def add_cluster(parser: arguments.Parser) -> None:
    """Adds all flags of `streamkd cluster` except those of every command."""
    parser.add_argument("store", metavar="S.h5", help="the store of a generalist")
    parser.add_argument(
        "--specialists",
        type=int,
        required=True,
        metavar="N",
        help="how many groups: one for each specialist; each has two classes at least",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the JSON file to write")
    text = "softens the answers; a teacher that is nearly always sure needs a higher one"
    flags.add_number(parser, "--temperature", 1.0, text)
    text = "of the groups; the same store and seed give the same ones"
    flags.add_number(parser, "--seed", 0, text, type=arguments.seed)
    flags.add_store_io(parser)
    parser.epilog = (
        "JSON keys, as in FILE: store, teacher, temperature, seed, num_images, and clusters, one "
        "object each: classes, size, share (of the images for which the teacher chooses one of the "
        "classes); and out."
    )


def cluster(args: argparse.Namespace) -> Answer:
    """Finds groups of classes that a teacher confuses."""
    files.check_out(args.out, kind="file")
    clusters = kd.cluster_classes(
        args.store, args.specialists, temperature=args.temperature, seed=args.seed
    )
    clusters.write(args.out)
    return Answer({**clusters, "out": args.out})
