"""Flags that several commands share, and the objects that they describe.

    flags.add_directory(parser)                 # IMAGES, --labels, --validation-split, …
    flags.add_images(parser, "…", labels="none")    # --images, and the same flags
    args = parser.parse_args()
    images = flags.scan_images(args)

A flag means the same in every command, with one exception: --class-names names the classes of
whatever the command reads, so that each command gives it another help text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

import streamkd as kd
from streamkd.cli import arguments, files
from streamkd.errors import OptionError
from streamkd.file_access import Io


def add_common(parser: arguments.Parser) -> None:
    """Adds the flags of every command."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on standard output, also on failure",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action=arguments.Repeated,
        metavar="MODULE",
        help="import a module of your own first, such as one that registers the layers of a model; "
        "may be given several times",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress on standard error")
    parser.add_argument(
        "--config",
        metavar="FILE.toml",
        help="read flags from a TOML file, at the top level or in a [command] table: "
        "`epochs = 30`, `flip = true`, `crop = [0.35, 1]`; the command line wins; paths start at "
        "the working directory",
    )


def add_directory(parser: arguments.Parser) -> None:
    """Adds IMAGES and Keras' directory arguments."""
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help="a directory with one folder a class, a manifest, or a table (CSV or JSON lines) with "
        "the columns file_name, label and weight",
    )
    _add_listing(parser, "inferred", "inferred, the default")


def add_images(parser: arguments.Parser, help: str, *, labels: str, required: bool = False) -> None:
    """Adds --images and Keras' directory arguments; `labels` is their default, in words."""
    parser.add_argument("--images", required=required, metavar="IMAGES", help=help)
    _add_listing(parser, None, f"inferred; the default is {labels}")


def _add_listing(parser: arguments.Parser, labels: str | None, inferred: str) -> None:
    """Adds the flags that say how a directory is listed; every command that lists one has all."""
    group = parser.add_group("directory, as in Keras' image_dataset_from_directory")
    group.add_argument(
        "--labels",
        default=labels,
        metavar="inferred|none|FILE",
        help=f"take each folder as a class ({inferred}), list images without labels (none), or "
        "read one label an image from a file, in the order of the paths: one a line, or a JSON "
        "list",
    )
    group.add_argument(
        "--class-map",
        metavar="FILE",
        help='JSON file with the class of each folder: {"n02085620": "dog", ...}; null leaves '
        "a folder out",
    )
    group.add_argument(
        "--follow-links", action="store_true", help="enter folders that are symbolic links"
    )
    group.add_argument(
        "--root",
        metavar="DIR",
        help="where the images of a manifest or a table are now, if their directory was moved",
    )
    group.add_argument(
        "--validation-split",
        type=float,
        metavar="FRACTION",
        help="set this fraction of the images aside for validation",
    )
    group.add_argument(
        "--subset", choices=("training", "validation"), help="the side of the split to use"
    )
    group.add_argument(
        "--stratify", action="store_true", help="split every class by the same fraction"
    )
    text = "seed of the split, of the order and of all random numbers"
    add_number(group, "--seed", 0, text, type=arguments.seed)


def add_store_io(parser: arguments.Parser) -> None:
    """Adds the flag of every command that reads a store."""
    parser.add_argument(
        "--store-io",
        choices=get_args(Io),
        help="how rows are read from the store: from the mapped file (mmap, the default), or by "
        "calls (pread), for network file systems on which mapping is unsafe",
    )


def add_no_lock(parser: arguments.Parser) -> None:
    """Adds the flag of every command that writes a store or a run."""
    parser.add_argument(
        "--no-lock",
        action="store_true",
        help="do not lock the output, on a file system without locks; see to it that no other "
        "process writes the same",
    )


def add_class_names(parser: arguments.Parser, help: str) -> None:
    parser.add_argument("--class-names", metavar="FILE", help=help)


def add_teacher_class_map(parser: arguments.Parser, help: str) -> None:
    parser.add_argument(
        "--teacher-class-map",
        metavar="FILE.json",
        help=f'{help}: {{"tabby": "cat", "beagle": "dog", ...}}; several of the teacher\'s classes '
        "that are one class have their probabilities added; null, or no entry, leaves a class out",
    )


def add_number(
    to: arguments.Parser | arguments.Group, name: str, default: float, help: str, **settings: Any
) -> None:
    """Adds a flag that takes numbers like its default, which ends the help text."""
    settings = {"type": type(default), **settings}
    to.add_argument(name, default=default, help=f"{help} (default {default:g})", **settings)


def add_trust(parser: arguments.Parser) -> None:
    parser.add_argument(
        "--trust", action="store_true", help="load a model file even if loading it runs its code"
    )


def add_output(parser: arguments.Parser | arguments.Group) -> None:
    """Adds the flag of every command that opens a model."""
    parser.add_argument(
        "--output",
        metavar="NAME|NUMBER",
        help="the output to take of a model with several, by its name or its number from 0",
    )


def add_codec(parser: arguments.Parser) -> None:
    parser.add_argument(
        "--codec",
        type=arguments.codec,
        default="float16",
        metavar="CODEC",
        help="how logits are stored: float16 (default), float32, packed:BITS or packed:BITS+KEPT; "
        "`streamkd plan` compares them",
    )


def add_teacher_output(parser: arguments.Parser) -> None:
    parser.add_argument(
        "--teacher-output",
        choices=(
            *("auto", "logits", "probabilities", "log-probabilities"),
            *("sigmoid", "sigmoid-logits", "class"),
        ),
        default="auto",
        help="kind of the teacher's answers (default auto: detected from its layers, or from the "
        "first answers); sigmoid: a probability for each of several independent labels, or of the "
        "second of two classes; sigmoid-logits: the same before sigmoid; class: only the first "
        "choice is taken, of scores or of the number of a class",
    )


def add_views(parser: arguments.Parser) -> None:
    """Adds the flags of views, except --views itself."""
    group = parser.add_group("views of every image")
    group.add_argument(
        "--crop",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="cut a box with a fraction LOW to HIGH of the area, such as 0.35 1 (default: no crop)",
    )
    group.add_argument("--flip", action="store_true", help="mirror about half of the views")
    add_view_strengths(group, off=0.0)
    group.add_argument(
        "--canonical-size",
        type=arguments.image_size,
        metavar="HEIGHTxWIDTH",
        help="bring every image to this size before views are cut from it; a pixel cache needs it",
    )


def add_view_strengths(group: arguments.Group, *, off: float | None) -> None:
    """Adds the flags of views that take a strength; `off` is the value of one that is not given."""
    for name, default, metavar, help in (
        ("color", 0.4, "C", "change brightness, contrast and saturation by up to C"),
        ("erase", 0.25, "P", "erase a box in a fraction P of the views"),
        ("mixup", 0.8, "A", "fade pairs of images into each other, weights from Beta(A, A)"),
        ("cutmix", 1.0, "A", "paste boxes between pairs of images, areas from Beta(A, A)"),
    ):
        group.add_argument(
            f"--{name}",
            type=float,
            nargs="?",
            const=default,
            default=off,
            metavar=metavar,
            help=f"{help} ({default:g} if {metavar} is left out; default: off)",
        )


def add_student(parser: arguments.Parser) -> None:
    """Adds the flag of the model that is trained."""
    parser.add_argument(
        "--student",
        required=True,
        metavar="M",
        help="a .keras file or a run; module:function[:name=value,...], called with num_classes, "
        "image_shape (height, width, channels) and these arguments; or a Keras application "
        "(MobileNetV3Small:alpha=0.75)",
    )


def add_student_preprocess(parser: arguments.Parser) -> None:
    """Adds the flag of what that model expects of pixels."""
    parser.add_argument(
        "--student-preprocess",
        default="none",
        metavar="P",
        help="what the student expects of pixels: none (default, 0 to 255), scale, MEAN,STD or the "
        "name of a Keras application; becomes the student's first layers",
    )


def views(args: argparse.Namespace, count: int) -> kd.Views:
    """Returns the `Views` that the flags describe."""
    return kd.Views(
        count,
        crop=None if args.crop is None else tuple(args.crop),
        flip=args.flip,
        color=args.color,
        erase=args.erase,
        mixup=args.mixup,
        cutmix=args.cutmix,
        canonical_size=args.canonical_size,
        seed=args.seed,
    )


def scan_images(
    args: argparse.Namespace,
    *,
    class_names: list[str] | None = None,
    default_labels: str = "inferred",
) -> kd.Manifest:
    """Returns the images of IMAGES, or the side of their split that --subset names.

    Without --labels they have the default labels, or with --class-map the map's.
    """
    if args.validation_split is not None and not args.subset:
        raise OptionError(
            "--validation-split needs --subset.\nAdd `--subset training` or `--subset validation`."
        )
    labels = args.labels or ("inferred" if args.class_map else default_labels)
    return scan_side(args, args.subset, labels=labels, class_names=class_names)


def refuse_subset(args: argparse.Namespace, purpose: str) -> None:
    """Refuses --subset for a command that holds a part of the images out by itself.

    Args:
      args: of the command.
      purpose: of the images that are held out, after the word 'to'.
    """
    if args.subset:
        raise OptionError(
            f"{args.command} uses both sides of --validation-split: one to learn from, the other "
            f"to {purpose}.\nLeave --subset out."
        )


def scan_side(
    args: argparse.Namespace,
    subset: str | None,
    *,
    labels: str | None = None,
    class_names: list[str] | None = None,
) -> kd.Manifest:
    """Returns one side of the split of IMAGES: 'training' or 'validation'; None for all images.

    The labels are those of --labels by default.
    """
    return _scan(
        args,
        args.images,
        labels=files.read_labels(labels or args.labels),
        class_names=class_names,
        class_map=args.class_map,
        root=args.root,
        validation_split=args.validation_split if subset else None,
        subset=subset,
    )


def scan_other(args: argparse.Namespace, source: str) -> kd.Manifest:
    """Returns all images of another source than IMAGES, such as --validation.

    --class-map gives its folders their classes, as it does for IMAGES; a file names its classes.
    """
    class_map = None if Path(source).is_file() else args.class_map
    return _scan(args, source, class_map=class_map)


def _scan(args: argparse.Namespace, source: str, **options: Any) -> kd.Manifest:
    """Returns the images of `source`, counted on a terminal while they are listed."""
    from streamkd.progress import image_progress

    with image_progress(None, 0, "listing", not args.quiet and sys.stderr.isatty()) as bar:
        return kd.scan(
            source,
            follow_links=args.follow_links,
            seed=args.seed,
            stratify=args.stratify,
            progress=bar.update,
            **options,
        )
