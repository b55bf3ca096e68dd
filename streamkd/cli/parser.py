"""The commands and their flags.

args = build_parser().parse_args(["scan", "photos/train", "--json"])
answer, exit_code = args.run(args)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import streamkd
from streamkd.cli import commands, flags, train, train_flags


def build_parser() -> flags.Parser:
    """Returns the parser with every command."""
    parser = flags.Parser(
        prog="streamkd",
        description="Distils image classifiers from directories of images and stored teacher "
        "logits.",
        epilog="Exit codes: 0 done, 1 the answer is no, 2 change something, 3 our own fault.",
    )
    parser.add_argument("--version", action="version", version=f"streamkd {streamkd.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        *(_demo, _scan, _plan, _teach, _verify, _inspect, _import, _merge),
        *(_train, _evaluate, _export),
    ):
        add(subparsers)
    parser.commands = subparsers.choices
    return parser


def _command(subparsers: Any, run: Callable[..., commands.Answer], help: str) -> Any:
    parser = subparsers.add_parser(run.__name__.rstrip("_"), help=help, description=help)
    parser.set_defaults(run=run)
    flags.add_common(parser)
    return parser


def _demo(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.demo, "A whole distillation on real handwritten digits, offline."
    )
    parser.add_argument("--out", default="streamkd-demo", help="directory to leave it all in")
    parser.add_argument("--seed", type=flags.seed, default=0)
    parser.epilog = (
        "JSON keys: out, seconds, table (one object a model: model, num_errors, accuracy, "
        "agreement, num_parameters, latency_ms), num_train_images, num_test_images, picture, "
        "commands."
    )


def _scan(subparsers: Any) -> None:
    parser = _command(subparsers, commands.scan, "Lists images, classes and counts.")
    flags.add_directory(parser)
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="folders to take, one a line; of a table, its classes in the order of their numbers",
    )
    parser.add_argument("--check", action="store_true", help="open every file; 1 if any is bad")
    flags.add_max_pixels(parser)
    parser.add_argument("--out", metavar="MANIFEST", help="write the list, to be used as IMAGES")


def _teach(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.teach, "Asks the teacher about every image once and keeps the logits."
    )
    flags.add_directory(parser)
    flags.add_pixels(parser)
    flags.add_trust(parser)
    parser.add_argument("--teacher", required=True, metavar="T", help="a saved .keras model")
    parser.add_argument("--out", required=True, metavar="S.h5", help="the store; goes on if begun")
    parser.add_argument(
        "--batch-size", type=int, default=64, help="images a block; kept in the store (default 64)"
    )
    flags.add_codec(parser)
    parser.add_argument(
        "--views", type=int, default=0, metavar="N", help="answer N views beside the plain image"
    )
    flags.add_views(parser)
    flags.add_on_bad(parser)
    flags.add_max_pixels(parser)
    parser.add_argument(
        "--shard",
        type=flags.shard,
        metavar="I/N",
        help="only the I-th of N parts of the pass, from 1; `merge` makes one store of them",
    )
    _add_teacher_answers(parser)


def _add_teacher_answers(parser: argparse.ArgumentParser) -> None:
    """Adds what says how the teacher is asked and what its outputs mean."""
    parser.add_argument(
        "--preprocess",
        default="none",
        metavar="P",
        help="what the teacher expects of pixels: none, scale, MEAN,STD or a Keras application",
    )
    flags.add_teacher_output(parser)
    parser.add_argument(
        "--class-names", metavar="FILE", help="the teacher's classes in the order of its outputs"
    )
    parser.add_argument(
        "--drop-output", type=int, metavar="N", help="an output that is no class, from 0"
    )


def _plan(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.plan, "Bytes, fidelity and hours for each codec, before they are paid."
    )
    flags.add_directory(parser)
    flags.add_pixels(parser)
    flags.add_trust(parser)
    parser.add_argument("--store", metavar="S.h5", help="float16 or float32 logits of some images")
    parser.add_argument("--teacher", metavar="T", help="asked about --sample images, and timed")
    parser.add_argument(
        "--views", type=int, default=0, metavar="N", help="with crop and flip, beside the plain one"
    )
    parser.add_argument("--sample", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument(
        "--codecs", nargs="+", type=flags.codec, metavar="CODEC", help="compare these only"
    )
    parser.add_argument(
        "--max-kl",
        type=float,
        default=0.01,
        metavar="NATS",
        help="recommend the smallest codec that loses no more at T = 1, 2, 4 and 20 (default 0.01)",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images asked about at once")
    flags.add_max_pixels(parser)
    _add_teacher_answers(parser)
    parser.epilog = (
        "JSON keys: num_images, num_views (rows an image), rows_total, num_classes, num_sampled, "
        "teacher, seconds_per_row and hours (null with --store), max_kl, recommended, codecs (one "
        "object each, by size: codec, row_bytes, bytes_per_image, num_bytes, kl by temperature, "
        "agreement; the last two null where the logits are too large for it)."
    )


def _import(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.import_, "Writes a store of logits that were made elsewhere."
    )
    parser.add_argument("logits", metavar="LOGITS", help="a .npy, .npz or .csv file")
    parser.add_argument(
        "--keys", metavar="KEYS.jsonl", help="one key a row; a .csv file may have its own"
    )
    parser.add_argument(
        "--images", required=True, metavar="IMAGES", help="the directory that the keys are of"
    )
    parser.add_argument("--out", required=True, metavar="S.h5", help="the store; goes on if begun")
    flags.add_labels(parser)
    flags.add_pixels(parser)
    flags.add_codec(parser)
    parser.add_argument("--batch-size", type=int, default=1024, help="images a block")
    flags.add_teacher_output(parser)
    parser.add_argument("--teacher-name", metavar="NAME", help="who made them; the file by default")
    parser.add_argument(
        "--class-names", metavar="FILE", help="the classes in the order of the columns"
    )
    parser.epilog = (
        "JSON keys: those of inspect, and num_images_without_logits, images of IMAGES that no key "
        "names."
    )


def _merge(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.merge, "Makes one store of shards, of a store and its deltas."
    )
    parser.add_argument(
        "stores", nargs="+", metavar="S.h5", help="of several that have an image the last counts"
    )
    parser.add_argument("--out", required=True, metavar="S.h5", help="the store; goes on if begun")
    parser.add_argument(
        "--images", metavar="IMAGES", help="keep what is there only; renamed files are found"
    )
    parser.add_argument(
        "--index", action="store_true", help="write a small file that lists the stores, copy no row"
    )
    parser.epilog = (
        "JSON keys: those of inspect, and num_superseded, images that a later store has as well, "
        "and num_dropped, images that are not in IMAGES."
    )


def _verify(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.verify, "Says whether a store is sound: exit 0, or 1 if it is not."
    )
    parser.add_argument("store", metavar="S.h5")
    parser.add_argument("--images", metavar="IMAGES", help="compare every file's content too")
    parser.add_argument("--sample", type=int, metavar="N", help="check about N rows")


def _inspect(subparsers: Any) -> None:
    parser = _command(subparsers, commands.inspect, "Says what a store holds.")
    parser.add_argument("store", metavar="S.h5")


def _train(subparsers: Any) -> None:
    train_flags.add_train(_command(subparsers, train.train, "Distils a student."))


def _evaluate(subparsers: Any) -> None:
    parser = _command(subparsers, commands.evaluate, "Says how good a model is on some images.")
    parser.add_argument("model", metavar="MODEL", help="a .keras file or a run directory")
    flags.add_directory(parser)
    flags.add_pixels(parser)
    flags.add_trust(parser)
    parser.add_argument("--store", metavar="S.h5", help="the teacher's logits for these images")
    parser.add_argument(
        "--class-names", metavar="FILE", help="the model's classes in the order of its outputs"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    flags.add_max_pixels(parser)


def _export(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.export, "Writes a student as an ordinary model, and compares the two."
    )
    parser.add_argument("model", metavar="MODEL", help="a .keras file or a run directory")
    flags.add_trust(parser)
    parser.add_argument("--format", choices=("keras",), default="keras")
    parser.add_argument("--out", required=True, metavar="PATH")
    parser.add_argument("--images", metavar="IMAGES", help="real images to compare on")
    parser.add_argument("--image-size", type=flags.image_size, metavar="HEIGHTxWIDTH")
