"""The flags that say which model is the teacher, how it is asked, and what its outputs mean.

teacher_flags.add_teacher(parser)            # --teacher
teacher_flags.add_teacher_answers(parser)    # --preprocess, --teacher-output, …
"""

from __future__ import annotations

from streamkd.cli import arguments, flags, http_flags


def add_teacher(parser: arguments.Parser) -> None:
    """Adds --teacher, which must be given."""
    parser.add_argument(
        "--teacher",
        required=True,
        metavar="T",
        help="a .keras, .h5, .tflite or .onnx file, a SavedModel, a run, or http://…; or "
        "module:function[:name=value,...], called with these arguments, which returns a Keras "
        "model, or a function from images (float32, 0 to 255) to logits [images, classes]",
    )


def add_teacher_answers(parser: arguments.Parser) -> None:
    """Adds the flags that say how the teacher is asked and what its outputs mean."""
    parser.add_argument(
        "--preprocess",
        default="none",
        metavar="P",
        help="what the teacher expects of pixels: none (default, 0 to 255), scale, MEAN,STD or the "
        "name of a Keras application",
    )
    flags.add_output(parser)
    flags.add_teacher_output(parser)
    flags.add_class_names(
        parser,
        "file with the class names, one a line, in the order of the teacher's outputs (default: as "
        "the folders)",
    )
    parser.add_argument(
        "--drop-output",
        type=int,
        action=arguments.Repeated,
        metavar="N",
        help="output to leave out because it is no class, counted from 0; may be repeated",
    )
    parser.add_argument(
        "--teacher-name",
        metavar="NAME",
        help="name of the teacher, for the store (default: of its file, or its address)",
    )
    http_flags.add_http(parser)
