"""Flags that say how a model is asked and what its outputs mean.

teacher_flags.add_teacher(parser)
teacher = teacher_flags.load(args, args.teacher)
"""

from __future__ import annotations

import argparse

import streamkd as kd
from streamkd.cli import arguments, flags, http_flags
from streamkd.tf_support.quiet_import import import_tensorflow

# Flags of `add_answers`.
ANSWER_FLAGS = frozenset(
    (
        *("preprocess", "teacher-output", "drop-output", "max-queries", "queries-per-second"),
        *("concurrency", "timeout", "header"),
    )
)


def add_source(parser: arguments.Parser) -> None:
    """Adds --teacher, which must be given."""
    parser.add_argument(
        "--teacher",
        required=True,
        metavar="T",
        help="a .keras, .h5, .tflite or .onnx file, a SavedModel, a run, or http://…; or "
        "module:function[:name=value,...]: a function from images (float32, 0 to 255) to logits or "
        "probabilities [images, classes], or one that is called with these arguments and returns "
        "such a function or a Keras model",
    )


def add_teacher(parser: arguments.Parser) -> None:
    """Adds the flags of a command with a teacher."""
    flags.add_output(parser)
    add_answers(parser)
    flags.add_class_names(
        parser,
        "file with the class names, one a line, in the order of the teacher's outputs (default: as "
        "the folders)",
    )
    parser.add_argument(
        "--teacher-name",
        metavar="NAME",
        help="name of the teacher, for the store (default: of its file, or its address)",
    )


def add_answers(parser: arguments.Parser) -> None:
    """Adds the flags of every command that asks a model of any format."""
    parser.add_argument(
        "--preprocess",
        default="none",
        metavar="P",
        help="what the model expects of pixels: none (default, 0 to 255), scale, MEAN,STD or the "
        "name of a Keras application",
    )
    flags.add_teacher_output(parser)
    parser.add_argument(
        "--drop-output",
        type=int,
        action=arguments.Repeated,
        metavar="N",
        help="output to leave out because it is no class, counted from 0; may be repeated",
    )
    http_flags.add_http(parser)


def are_given(args: argparse.Namespace) -> bool:
    """Returns whether one of the flags says more of a model than its file does."""
    chosen = (args.preprocess, args.teacher_output) != ("none", "auto")
    return chosen or args.drop_output is not None or bool(http_flags.service(args))


def load(args: argparse.Namespace, source: str, name: str | None = None) -> kd.Teacher:
    """Returns the teacher that the flags describe."""
    import_tensorflow()
    return kd.load_teacher(
        source,
        preprocess=args.preprocess,
        output=args.teacher_output,
        drop_output=args.drop_output,
        model_output=args.output,
        trust=args.trust,
        name=name,
        **http_flags.service(args),
    )
