"""The flags of `streamkd distill`.

add_distill(parser)
parser.parse_args(["photos", "--teacher", "t.keras", "--student", "MobileNetV3Small", "--out", "r"])

Settings that are not given are None: the job chooses them.
"""

from __future__ import annotations

import argparse

from streamkd.cli import arguments, flags, pixel_flags, teacher_flags
from streamkd.cli.train_flags import LOSSES

CHOSEN = "(default: chosen, and shown with its reason)"


def add_distill(parser: arguments.Parser) -> None:
    """Adds all flags of `streamkd distill` except those of every command."""
    flags.add_directory(parser)
    pixel_flags.add_pixels(
        parser,
        image_size="the size that the student takes, or the teacher",
        color_mode="that of the teacher, else rgb",
    )
    flags.add_trust(parser)
    teacher_flags.add_source(parser)
    teacher_flags.add_teacher(parser)
    flags.add_student(parser)
    flags.add_student_preprocess(parser)
    parser.add_argument(
        "--out",
        required=True,
        metavar="RUN",
        help="the directory of the job, which becomes the run directory of the student",
    )
    flags.add_no_lock(parser)
    flags.add_store_io(parser)
    parser.add_argument(
        "--validation",
        metavar="IMAGES",
        help="images to measure on (default: a part of IMAGES is held out)",
    )
    parser.add_argument(
        "--baseline",
        action="store_true",
        help="train the same student from labels alone, too, for as many epochs and with the same "
        "crops and flips",
    )
    parser.add_argument(
        "--budget",
        metavar="10m|1h|N epochs",
        help="time for the teacher's answers and the distilled student together, or a number of "
        "epochs (default: epochs by the number of images)",
    )
    _add_settings(parser.add_group("settings, chosen unless they are given"))
    parser.epilog = (
        "JSON keys: teacher_accuracy, accuracy, num_errors, baseline_accuracy and "
        "baseline_num_errors (null without --baseline), num_images (that all were measured on), "
        "run, store, report (null), commands (the same steps by hand), outcome (new, resumed or "
        "already_finished), warnings."
    )


def _add_settings(group: arguments.Group) -> None:
    """Adds the settings that are chosen, by the names of `teach` and `train`."""
    for name, metavar, kind, help in (
        ("views", "N", int, "views of every image to answer besides the plain image"),
        ("epochs", "N", int, "passes over the images, in all"),
        ("batch-size", "N", int, "images a batch, in training"),
        ("learning-rate", "RATE", float, "highest learning rate"),
        ("temperature", "T", float, "divisor of the logits in the distillation loss"),
        ("label-weight", "FRACTION", float, "weight of the label loss, 0 to 1"),
        ("codec", "CODEC", arguments.codec, "how logits are stored"),
        ("canonical-size", "HEIGHTxWIDTH", arguments.image_size, "size that views are cut from"),
    ):
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=f"{help} {CHOSEN}")
    group.add_argument(
        "--crop",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=f"cut a box with a fraction LOW to HIGH of the area {CHOSEN}",
    )
    group.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help=f"mirror about half of the views {CHOSEN}",
    )
    group.add_argument(
        "--cache",
        choices=("memory", "disk"),
        help=f"where decoded pixels are kept after the first epoch {CHOSEN}",
    )
    group.add_argument(
        "--loss",
        choices=LOSSES,
        help="how student and teacher are compared, as in `train` (default: auto)",
    )
    group.add_argument("--optimizer", metavar="NAME", help="a Keras optimizer (default adamw)")
    flags.add_view_strengths(group, off=None)
