"""The flags of `streamkd train`.

parser = arguments.Parser(prog="streamkd train")
add_train(parser)
parser.parse_args(["photos", "--store", "s.h5", "--student", "MobileNetV3Small", "--out", "run"])
"""

from __future__ import annotations

import argparse

from streamkd.cli import arguments, flags, pixel_flags, store_flags

# As in `training/recipe.py`, which imports TensorFlow.
LOSSES = ("auto", "bce", "kd", "kl", "mse", "hard", "dkd", "nkd", "ttm", "wttm", "dist", "mlkd")


def add_train(parser: arguments.Parser) -> None:
    """Adds all flags of `streamkd train` except those of every command."""
    flags.add_directory(parser)
    pixel_flags.add_pixels(
        parser,
        image_size="as in --store",
        color_mode="as in --store, else rgb",
        others="as in --store",
    )
    flags.add_trust(parser)
    store_flags.add_stores(
        parser, "the teacher's logits; without them give --label-weight 1 and --image-size"
    )
    flags.add_store_io(parser)
    parser.add_argument(
        "--classes",
        metavar="images|FILE",
        help="the student's classes, where they are only some of the teacher's: those of IMAGES "
        "(images), or one a line in a text file, in the order of the student's outputs (default: "
        "all of the teacher's, or with --teacher-class-map those of IMAGES)",
    )
    flags.add_teacher_class_map(parser, "the student's class of each of the teacher's classes")
    flags.add_student(parser)
    parser.add_argument("--out", required=True, metavar="RUN", help="the run directory to write")
    flags.add_no_lock(parser)
    parser.add_argument(
        "--validation", metavar="IMAGES", help="images to validate on after every epoch"
    )
    flags.add_number(parser, "--epochs", 10, "passes over the images, in all")
    flags.add_number(parser, "--batch-size", 32, "images a batch")
    flags.add_student_preprocess(parser)
    flags.add_output(parser)
    parser.add_argument(
        "--missing",
        choices=("raise", "drop", "label"),
        default="raise",
        help="refuse images without logits (raise, the default), leave them out (drop), or train "
        "on their labels alone (label)",
    )
    pixel_flags.add_on_bad(parser)
    pixel_flags.add_max_pixels(parser)
    parser.add_argument(
        "--augment",
        choices=("replay", "independent"),
        default="replay",
        help="show the student the views that the teacher answered (replay, the default), or, for "
        "comparison, new views drawn by --crop and the like (independent)",
    )
    flags.add_views(parser)
    _add_stream(parser.add_group("stream"))
    _add_loss(parser.add_group("loss"))
    _add_optimizer(parser.add_group("optimizer"))
    _add_loop(parser.add_group("loop"))


def _add_stream(group: arguments.Group) -> None:
    """Adds the flags of the order and the speed of the stream."""
    group.add_argument(
        "--cache",
        choices=("memory", "disk"),
        help="keep decoded pixels after the first epoch, for this run (memory) or also for later "
        "runs (disk) (default: decode every time)",
    )
    room = "half of the free memory, or nine tenths of the free disk"
    pixel_flags.add_cache_place(group, bytes_default=room)
    text = "show K views of each decoded image in a batch; an epoch then has K times as many steps"
    flags.add_number(group, "--views-per-decode", 1, text, metavar="K")
    group.add_argument("--balance", action="store_true", help="draw every class equally often")


def _add_loss(group: arguments.Group) -> None:
    """Adds the flags of the loss."""
    text = "divisor of the teacher's and the student's logits in the distillation loss"
    text += " (default auto: 4, or that of the paper of --loss)"
    group.add_argument(
        "--temperature", type=arguments.setting, default="auto", metavar="X", help=text
    )
    text = "weight of the label loss: 1 learns from labels alone, 0 from the teacher alone"
    text += "; 0:0.1,0.5:0.1,0.7:1 lets it rise from 0.1 to 1 between these fractions of the run, "
    text += (
        "and --temperature takes such values, too (default auto: 0.1, or as in the paper of --loss)"
    )
    group.add_argument(
        "--label-weight", type=arguments.setting, default="auto", metavar="FRACTION", help=text
    )
    text = "fraction of a label that is spread evenly over all classes"
    flags.add_number(group, "--label-smoothing", 0.0, text, metavar="FRACTION")
    group.add_argument(
        "--loss",
        choices=LOSSES,
        default="auto",
        help="how student and teacher are compared. For the classes of one softmax: kd, their "
        "divergence at the temperature (also called kl), mse, hard, dkd, nkd, ttm, wttm, dist or "
        "mlkd. For independent labels, one sigmoid each: bce. auto, the default, is kd or bce, as "
        "the teacher, the labels and the student's last layer say",
    )
    group.add_argument(
        "--standardize",
        action="store_true",
        help="compare logits with mean 0 and standard deviation 1 in each row",
    )
    group.add_argument(
        "--class-weight",
        metavar="balanced|FILE",
        help="weight of an image by its class: the same total for every class (balanced), or a "
        "JSON or TOML table from class names to weights, 1 for other classes (default: 1 for all)",
    )


def _add_optimizer(group: arguments.Group) -> None:
    """Adds the flags of the optimizer and its schedule."""
    group.add_argument("--optimizer", default="adamw", help="a Keras optimizer (default adamw)")
    flags.add_number(group, "--learning-rate", 1e-3, "highest learning rate")
    group.add_argument(
        "--schedule",
        choices=("cosine", "constant"),
        help="learning rate after the warm-up: falls to zero along a cosine (cosine, the default), "
        "or stays (constant)",
    )
    text = "fraction of all steps in which the learning rate rises"
    flags.add_number(group, "--warm-up", 0.05, text, metavar="FRACTION")
    group.add_argument(
        "--weight-decay",
        type=float,
        metavar="W",
        help="weight decay, except of biases and norms (default: the optimizer's own)",
    )
    group.add_argument(
        "--clip-norm",
        type=float,
        metavar="NORM",
        help="largest norm of the whole gradient (default: no limit)",
    )
    text = "batches in one step, for steps that do not fit into memory at once"
    flags.add_number(group, "--accumulate", 1, text, type=arguments.count, metavar="N")
    group.add_argument(
        "--ema",
        type=float,
        metavar="MOMENTUM",
        help="give the student moving averages of its weights, with this momentum, such as 0.999 "
        "(default: no averages)",
    )


def _add_loop(group: arguments.Group) -> None:
    """Adds the flags of the steps: how they are computed, and when the run is saved or stopped."""
    group.add_argument(
        "--jit",
        choices=("auto", "on", "off"),
        default="auto",
        help="compile the step with XLA; auto, the default, measures which is faster",
    )
    text = "largest number of steps in one call of the compiled loop"
    flags.add_number(group, "--steps-per-call", 32, text, type=arguments.count, metavar="N")
    group.add_argument(
        "--precision",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
        help="Keras' dtype policy for building the student (default: float32; a .keras file keeps "
        "its own)",
    )
    group.add_argument(
        "--distribute",
        choices=("mirrored", "multi-worker"),
        help="train on all devices of this machine (mirrored), or of the machines in TF_CONFIG "
        "(multi-worker)",
    )
    group.add_argument(
        "--on-nonfinite",
        choices=("raise", "skip"),
        default="raise",
        help="stop at a loss or gradient that is not finite and name the images (raise, the "
        "default), or leave the step out, up to ten in a row (skip)",
    )
    group.add_argument(
        "--early-stopping",
        type=arguments.count,
        metavar="EPOCHS",
        help="stop after so many epochs without a smaller val_loss, with the best epoch's weights",
    )
    group.add_argument(
        "--tensorboard", metavar="DIRECTORY", help="write the metrics for TensorBoard"
    )
    group.add_argument(
        "--save-every",
        type=arguments.count,
        metavar="STEPS",
        help="save after so many steps, besides after every epoch and every ten minutes",
    )
    group.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="resume from the newest checkpoint in --out (the default), or start over",
    )
    group.add_argument(
        "--extend",
        action="store_true",
        help="let the run in --out take more --epochs than it was planned for: it goes on along "
        "the schedules of so many epochs from the step that it has reached (a constant learning "
        "rate needs no --extend)",
    )
