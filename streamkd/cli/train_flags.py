"""The flags of `streamkd train`."""

from __future__ import annotations

import argparse
from typing import Any

from streamkd.cli import flags


def add_train(parser: argparse.ArgumentParser) -> None:
    """Adds everything that `streamkd train` takes."""
    flags.add_directory(parser)
    flags.add_pixels(parser)
    flags.add_trust(parser)
    parser.add_argument(
        "--store", metavar="S.h5", help="the teacher's logits; without it --label-weight must be 1"
    )
    parser.add_argument(
        "--student",
        required=True,
        metavar="M",
        help="a .keras file, package.module:function, or a Keras application (MobileNetV3Small:"
        "alpha=0.75)",
    )
    parser.add_argument("--out", required=True, metavar="RUN", help="the run directory")
    parser.add_argument("--validation", metavar="IMAGES", help="tried on after every epoch")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--student-preprocess",
        default="none",
        metavar="P",
        help="as --preprocess; becomes the student's first layers",
    )
    parser.add_argument("--missing", choices=("raise", "drop", "label"), default="raise")
    flags.add_on_bad(parser)
    flags.add_max_pixels(parser)
    parser.add_argument(
        "--augment",
        choices=("replay", "independent"),
        default="replay",
        help="show the views that the teacher answered, or, for comparison, others (--crop, …)",
    )
    flags.add_views(parser)
    _add_stream(parser.add_argument_group("stream"))
    _add_loss(parser.add_argument_group("loss"))
    _add_optimizer(parser.add_argument_group("optimizer"))
    _add_loop(parser.add_argument_group("loop"))


def _add_stream(group: Any) -> None:
    """Adds what decides on order and speed of the stream."""
    group.add_argument(
        "--cache",
        choices=("memory", "disk"),
        help="keep decoded pixels after the first epoch, for this run or for later ones as well",
    )
    group.add_argument(
        "--cache-directory",
        metavar="DIRECTORY",
        help="where --cache disk keeps them (streamkd/pixels in the user's cache directory)",
    )
    group.add_argument(
        "--cache-bytes",
        type=int,
        metavar="N",
        help="the most it may take (half of the free memory, nine tenths of the free disk)",
    )
    group.add_argument(
        "--views-per-decode",
        type=int,
        default=1,
        metavar="K",
        help="show K views of each decoded image in a batch; an epoch has K times as many steps",
    )
    group.add_argument("--balance", action="store_true", help="draw every class equally often")


def _add_loss(group: Any) -> None:
    """Adds what is minimised."""
    group.add_argument("--temperature", type=float, default=4.0)
    group.add_argument(
        "--label-weight", type=float, default=0.1, help="share of the label loss (default 0.1)"
    )
    group.add_argument(
        "--label-smoothing",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of a label that all classes get alike (default 0)",
    )
    group.add_argument(
        "--class-weight",
        metavar="balanced|FILE",
        help="what an image counts by its class: every class the same in all, or a JSON or TOML "
        "table from class names to weights; a class that is not named has 1",
    )


def _add_optimizer(group: Any) -> None:
    """Adds what becomes of a gradient."""
    group.add_argument("--optimizer", default="adamw", help="a Keras name (default adamw)")
    group.add_argument("--learning-rate", type=float, default=1e-3, help="the highest (0.001)")
    group.add_argument(
        "--schedule",
        choices=("cosine", "constant"),
        help="fall to zero along a cosine after the warm-up (the default), or stay",
    )
    group.add_argument(
        "--warm-up",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of the steps in which the learning rate rises (default 0.05)",
    )
    group.add_argument(
        "--weight-decay",
        type=float,
        metavar="W",
        help="not of biases and norms (the optimizer's own default)",
    )
    group.add_argument(
        "--clip-norm", type=float, metavar="NORM", help="the largest norm of the whole gradient"
    )
    group.add_argument(
        "--accumulate",
        type=flags.count,
        default=1,
        metavar="N",
        help="batches in one step, for a batch that does not fit into memory (default 1)",
    )
    group.add_argument(
        "--ema",
        type=float,
        metavar="MOMENTUM",
        help="average the weights over the steps, such as 0.999; the student gets the averages",
    )


def _add_loop(group: Any) -> None:
    """Adds how steps are taken and saved, and where."""
    group.add_argument(
        "--jit",
        choices=("auto", "on", "off"),
        default="auto",
        help="compile forward and gradient with XLA; auto, the default, measures what is faster",
    )
    group.add_argument(
        "--steps-per-call",
        type=flags.count,
        default=32,
        metavar="N",
        help="steps in one call of the compiled loop, at most (default 32)",
    )
    group.add_argument(
        "--precision",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
        help="Keras' dtype policy, by which an application or a function builds the student",
    )
    group.add_argument(
        "--distribute",
        choices=("mirrored", "multi-worker"),
        help="train on all devices of this machine, or of the machines in TF_CONFIG, by "
        "tf.distribute",
    )
    group.add_argument(
        "--on-nonfinite",
        choices=("raise", "skip"),
        default="raise",
        help="end at a loss or gradient that is not finite, naming the images (the default), or "
        "leave the step out, up to ten in a row",
    )
    group.add_argument(
        "--early-stopping",
        type=flags.count,
        metavar="EPOCHS",
        help="end after so many epochs without a smaller val_loss, with the weights of the best",
    )
    group.add_argument(
        "--tensorboard", metavar="DIRECTORY", help="write the metrics for TensorBoard"
    )
    group.add_argument(
        "--save-every",
        type=flags.count,
        metavar="STEPS",
        help="save so often beside the ends of epochs and every ten minutes",
    )
    group.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from the newest checkpoint in --out (the default)",
    )
