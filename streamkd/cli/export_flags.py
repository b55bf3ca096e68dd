"""The flags of `streamkd export`.

add_export(parser)
parser.parse_args(["runs/first", "--format", "tflite", "--out", "student.tflite"])
"""

from __future__ import annotations

from streamkd.cli import arguments, flags
from streamkd.exports.formats import FORMATS, PRECISIONS


def add_export(parser: arguments.Parser) -> None:
    """Adds all flags of `streamkd export` except those of every command."""
    parser.add_argument("model", metavar="MODEL", help="a .keras or .h5 file, or a run directory")
    flags.add_output(parser)
    flags.add_trust(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="keras", help="format to write (default keras)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the weights of --format tflite; int8 takes the ranges of the activations from "
        "--images (default float32)",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="the file to write, or the directory of --format savedmodel; never replaced",
    )
    flags.add_images(parser, "images to compare the answers on (default: noise)", labels="none")
    parser.add_argument(
        "--max-images",
        type=arguments.count,
        default=256,
        metavar="N",
        help="largest number of images to compare on (default 256)",
    )
    parser.add_argument(
        "--image-size",
        type=arguments.image_size,
        metavar="HEIGHTxWIDTH",
        help="size of the compared images, for a model that takes any size",
    )
    flags.add_class_names(
        parser,
        "file with the class names, one a line, in the order of the outputs (default: those of "
        "the run)",
    )
