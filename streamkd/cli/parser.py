"""The commands and their flags.

args = build_parser().parse_args(["scan", "photos/train", "--json"])
answer = args.run(args)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamkd
from streamkd.cli import (
    arguments,
    cluster,
    commands,
    distill,
    distill_flags,
    export,
    export_flags,
    flags,
    merge,
    pixel_flags,
    store_flags,
    sweep,
    sweep_flags,
    teacher_flags,
    train,
    train_flags,
)
from streamkd.cli.answer import Answer

CLASS_NAMES = "file with the class names, one a line, in the order of "


def build_parser() -> arguments.Parser:
    """Returns the parser with every command."""
    parser = arguments.Parser(
        prog="streamkd",
        description="Distils image classifiers from directories of images and stored teacher "
        "logits.",
        epilog="Exit codes: 0 done, 1 the answer is no, 2 change something, 3 our own fault.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"streamkd {streamkd.__version__}",
        help="print the version and exit",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        *(_demo, _distill, _scan, _plan, _teach, _verify, _inspect, _import, _merge),
        *(_cluster, _train, _sweep, _evaluate, _export),
    ):
        add(subparsers)
    parser.commands = subparsers.choices
    return parser


def _command(subparsers: Any, run: Callable[..., Answer], help: str) -> arguments.Parser:
    """Adds a command, called like the function that runs it, with the flags of every command."""
    parser = subparsers.add_parser(run.__name__.rstrip("_"), help=help, description=help)
    parser.set_defaults(run=run)
    flags.add_common(parser)
    return parser


def _demo(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.demo, "Runs a whole distillation on real handwritten digits, offline."
    )
    parser.add_argument(
        "--out",
        default="streamkd-demo",
        metavar="DIRECTORY",
        help="directory for the digits, the models and the picture (default streamkd-demo)",
    )
    text = "seed of the first weights and of the order"
    flags.add_number(parser, "--seed", 0, text, type=arguments.seed)
    parser.epilog = (
        "JSON keys: out, seconds, table (one object a model: model, num_errors, accuracy, "
        "agreement, num_parameters, latency_ms), num_train_images, num_test_images, picture, "
        "commands."
    )


def _distill(subparsers: Any) -> None:
    distill_flags.add_distill(
        _command(
            subparsers,
            distill.distill,
            "Does the whole job: asks the teacher, trains the student, and measures both.",
        )
    )


def _scan(subparsers: Any) -> None:
    parser = _command(subparsers, commands.scan, "Lists images, classes and counts.")
    flags.add_directory(parser)
    flags.add_class_names(
        parser,
        "file with the class folders to list, one a line, in the order of their class numbers; for "
        "a table, the names of its classes in the order of their numbers (default: all, sorted)",
    )
    parser.add_argument(
        "--check", action="store_true", help="decode every file; exit code 1 if one cannot be"
    )
    pixel_flags.add_max_pixels(parser)
    pixel_flags.add_checked_pixels(parser)
    parser.add_argument(
        "--out", metavar="MANIFEST", help="write the list to a file that serves as IMAGES"
    )


def _teach(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.teach, "Asks the teacher about every image once and stores the logits."
    )
    flags.add_directory(parser)
    pixel_flags.add_pixels(parser, image_size="the size that the teacher takes", color_mode="rgb")
    flags.add_trust(parser)
    teacher_flags.add_source(parser)
    _add_out_store(parser)
    text = "images that the teacher answers at once; the store remembers it"
    flags.add_number(parser, "--batch-size", 64, text)
    flags.add_codec(parser)
    text = "views of every image to answer besides the plain image"
    flags.add_number(parser, "--views", 0, text, metavar="N")
    flags.add_views(parser)
    pixel_flags.add_on_bad(parser)
    pixel_flags.add_max_pixels(parser)
    parser.add_argument(
        "--shard",
        type=arguments.shard,
        metavar="I/N",
        help="answer only the I-th of N parts, counted from 1; `streamkd merge` joins the stores",
    )
    parser.add_argument(
        "--cache",
        choices=("disk",),
        help="leave the decoded images for `train --cache disk`, at --canonical-size or else at "
        "the teacher's size; a student that is shown others decodes again (default: leave none)",
    )
    pixel_flags.add_cache_place(parser, bytes_default="room for all images, or the pass is refused")
    # In a file for all commands these are flags of `train`.
    parser.own_table_only = pixel_flags.CACHE_FLAGS
    teacher_flags.add_teacher(parser)
    parser.epilog = f"{store_flags.JUDGED_KEYS} And {store_flags.OUTCOME_KEY}."


def _add_out_store(parser: arguments.Parser) -> None:
    parser.add_argument(
        "--out",
        required=True,
        metavar="S.h5",
        help="the store to write; an unfinished one is continued",
    )
    flags.add_no_lock(parser)
    flags.add_store_io(parser)


def _plan(subparsers: Any) -> None:
    parser = _command(
        subparsers,
        commands.plan,
        "Estimates bytes, fidelity and hours for each codec before the teacher pass.",
    )
    flags.add_directory(parser)
    pixel_flags.add_pixels(parser, image_size="the size that the teacher takes", color_mode="rgb")
    flags.add_trust(parser)
    store_flags.add_stores(parser, "measure on its logits, stored as float16 or float32")
    flags.add_store_io(parser)
    parser.add_argument(
        "--teacher", metavar="T", help="measure on its answers to --sample images, and time them"
    )
    text = "views with crop and flip to plan for, besides the plain image"
    flags.add_number(parser, "--views", 0, text, metavar="N")
    flags.add_number(parser, "--sample", 1000, "images to measure on", metavar="N")
    parser.add_argument(
        "--codecs",
        nargs="+",
        type=arguments.codec,
        metavar="CODEC",
        help="codecs to compare (default: all that suit the number of classes)",
    )
    flags.add_number(
        parser,
        "--max-kl",
        0.01,
        "recommend the smallest codec whose KL divergence is at most this at the temperatures 1, "
        "2, 4 and 20",
        metavar="NATS",
    )
    flags.add_number(parser, "--batch-size", 64, "images that the teacher answers at once")
    pixel_flags.add_max_pixels(parser)
    teacher_flags.add_teacher(parser)
    parser.epilog = (
        "JSON keys: num_images, num_views (rows an image), rows_total, num_classes, num_sampled, "
        "teacher, seconds_per_row and hours (null with --store), max_kl, recommended, codecs (one "
        "object each, by size: codec, row_bytes, bytes_per_image, num_bytes, kl by temperature, "
        "agreement; the last two null if the logits are too large for it); activation, 'sigmoid', "
        f"only of a teacher that ends in it; of several stores {store_flags.COMPARISON_KEYS}"
    )


def _import(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.import_, "Writes a store of logits that were made elsewhere."
    )
    parser.add_argument("logits", metavar="LOGITS", help=".npy, .npz, .csv, HDF5 or .parquet file")
    parser.add_argument(
        "--keys",
        metavar="KEYS.jsonl",
        help="file with the key of each row's image, one a line (JSON lines, .txt, .csv or .npy); "
        "LOGITS may hold the keys itself, except a .npy file",
    )
    parser.add_argument(
        "--logits-dataset",
        metavar="NAME",
        help="array, or list column, of the logits in a file of several (default: logits, or the "
        "only one of its shape)",
    )
    parser.add_argument(
        "--keys-dataset",
        metavar="NAME",
        help="array or column of LOGITS with the keys (default: the only one of texts, or one "
        "with a name such as file_names)",
    )
    _add_out_store(parser)
    text = "the directory or manifest that holds the keys"
    flags.add_images(parser, text, labels="inferred", required=True)
    pixel_flags.add_pixels(parser, image_size="unknown", color_mode="rgb")
    flags.add_codec(parser)
    flags.add_number(parser, "--batch-size", 1024, "images written at once")
    flags.add_teacher_output(parser)
    parser.add_argument(
        "--teacher-name",
        metavar="NAME",
        help="name of the teacher, for the store (default: the name of LOGITS)",
    )
    flags.add_class_names(parser, f"{CLASS_NAMES}the columns of LOGITS (default: as the folders)")
    parser.epilog = (
        "JSON keys: those of inspect, num_images_without_logits, images of IMAGES that no key "
        f"names, and {store_flags.OUTCOME_KEY}."
    )


def _merge(subparsers: Any) -> None:
    text = "Makes one store of shards, of a store and its deltas, or of several teachers' stores."
    parser = _command(subparsers, merge.merge, text)
    merge.add_merge(parser)
    _add_out_store(parser)


def _verify(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.verify, "Says whether a store is sound: exit code 0, or 1 if not."
    )
    _add_store(parser)
    text = "compare the content of every file with the store, too"
    flags.add_images(parser, text, labels="inferred if the store has labels, else none")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="check about N rows (default: every row)"
    )


def _inspect(subparsers: Any) -> None:
    text = "Says what a store holds, or how far several teachers agree."
    parser = _command(subparsers, commands.inspect, text)
    store_flags.add_inspected(parser)
    flags.add_store_io(parser)


def _add_store(parser: arguments.Parser) -> None:
    parser.add_argument("store", metavar="S.h5", help="a store, or an index of stores")
    flags.add_store_io(parser)


def _cluster(subparsers: Any) -> None:
    text = "Finds groups of classes that a teacher confuses, one for each specialist."
    cluster.add_cluster(_command(subparsers, cluster.cluster, text))


def _train(subparsers: Any) -> None:
    train_flags.add_train(_command(subparsers, train.train, "Distils a student."))


def _sweep(subparsers: Any) -> None:
    text = "Trains students with several settings from one stream, and chooses the best."
    sweep_flags.add_sweep(_command(subparsers, sweep.sweep, text))


def _evaluate(subparsers: Any) -> None:
    parser = _command(subparsers, commands.evaluate, "Says how good a model is on images.")
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a .keras, .h5, .tflite or .onnx file, a run, a SavedModel, http://…, module:function",
    )
    flags.add_output(parser)
    flags.add_directory(parser)
    pixel_flags.add_pixels(
        parser,
        image_size="the size that the model takes",
        color_mode="the mode that the model takes",
        others="as in --store or as in training",
    )
    flags.add_trust(parser)
    teacher_flags.add_answers(parser)
    # What a file says to all commands of the teacher is not true of the student.
    parser.own_table_only = teacher_flags.ANSWER_FLAGS
    store_flags.add_stores(parser, "the teacher's logits for these images, to compare with")
    flags.add_store_io(parser)
    flags.add_class_names(
        parser,
        f"{CLASS_NAMES}the model's outputs (default: those of the run, of --store or of IMAGES); "
        "of the store, only the columns of these classes are compared with",
    )
    flags.add_teacher_class_map(
        parser, "the model's class of each of the store's classes (default: as in training)"
    )
    flags.add_number(parser, "--batch-size", 64, "images that the model answers at once")
    pixel_flags.add_max_pixels(parser)
    parser.epilog = (
        "num_parameters is null for a format that does not tell it, and latency_ms for an address. "
        "A model that ends in sigmoid has the JSON key activation besides, and of independent "
        "labels num_labels, label_accuracy, macro_f1, mean_average_precision, per_label and, with "
        "--store, teacher_mean_average_precision."
    )


def _export(subparsers: Any) -> None:
    export_flags.add_export(
        _command(
            subparsers,
            export.export,
            "Writes a student for other programs, and compares the two.",
        )
    )
