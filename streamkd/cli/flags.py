"""Flags that several commands share, and the objects that they describe.

    flags.add_directory(parser)                 # IMAGES, --labels, --validation-split, …
    args = parser.parse_args()
    images = flags.scan_images(args)

A flag means the same in every command, with one exception: --class-names names the classes of
whatever the command reads, so that each command gives it another help text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import streamkd as kd
from streamkd.cli import arguments, exif_flags, files
from streamkd.errors import OptionError
from streamkd.image_options import COLOR_CHANNELS, DECODES, INTERPOLATIONS, MAX_PIXELS

# Flags of `add_pixels` and `add_max_pixels`, which are keyword arguments in Python.
PIXEL_FLAGS = (
    *("image_size", "color_mode", "interpolation", "crop_to_aspect_ratio"),
    *("pad_to_aspect_ratio", "max_pixels", "decode", "exif", "background"),
)


def add_common(parser: arguments.Parser) -> None:
    """Adds the flags of every command."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on standard output, also on failure",
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
    group = parser.add_group("directory, as in Keras' image_dataset_from_directory")
    add_labels(group)
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


def add_labels(parser: arguments.Parser | arguments.Group) -> None:
    parser.add_argument(
        "--labels",
        default="inferred",
        metavar="inferred|none|FILE",
        help="take each folder as a class (inferred, the default), list images without labels "
        "(none), or read one label an image from a file, in the order of the paths: one a line, or "
        "a JSON list",
    )


def add_class_names(parser: arguments.Parser, help: str) -> None:
    parser.add_argument("--class-names", metavar="FILE", help=help)


def add_pixels(
    parser: arguments.Parser, *, image_size: str, color_mode: str, others: str = ""
) -> None:
    """Adds the flags that decide how files become pixels.

    Args:
      parser: of the command.
      image_size, color_mode: the defaults, in words.
      others: source of the other defaults, in words; '' if they are always the same.
    """
    source = f"{others}, else " if others else ""
    group = parser.add_group("pixels")
    group.add_argument(
        "--image-size",
        type=arguments.image_size,
        metavar="HEIGHTxWIDTH",
        help=f"size of the images that the model sees (default: {image_size})",
    )
    group.add_argument(
        "--color-mode",
        choices=tuple(COLOR_CHANNELS),
        help=f"channels of the images that the model sees (default: {color_mode})",
    )
    group.add_argument(
        "--interpolation",
        choices=INTERPOLATIONS,
        help=f"how images are resized (default: {source}bilinear)",
    )
    group.add_argument(
        "--crop-to-aspect-ratio",
        action="store_const",
        const=True,
        help="cut the largest central window of the right shape instead of distorting the image "
        f"(default: {source}off)",
    )
    group.add_argument(
        "--pad-to-aspect-ratio",
        action="store_const",
        const=True,
        help="add black borders up to the right shape instead of distorting the image "
        f"(default: {source}off)",
    )
    group.add_argument(
        "--decode",
        choices=DECODES,
        help="decode as Keras' loader does (exact), or large photographs at 1/2, 1/4 or 1/8 size, "
        f"resized with antialiasing (scaled) (default: {source}exact)",
    )
    shown = "the colours behind are shown"
    exif_flags.add(group, exif=f"{source}ignore", background=f"{source}{shown}")


def add_number(
    to: arguments.Parser | arguments.Group, name: str, default: float, help: str, **settings: Any
) -> None:
    """Adds a flag that takes numbers like its default, which ends the help text."""
    settings = {"type": type(default), **settings}
    to.add_argument(name, default=default, help=f"{help} (default {default:g})", **settings)


def add_max_pixels(parser: arguments.Parser) -> None:
    parser.add_argument(
        "--max-pixels",
        type=arguments.count,
        default=MAX_PIXELS,
        metavar="N",
        help="treat an image with more pixels, by its header, as one that cannot be decoded "
        f"(default {MAX_PIXELS:,})",
    )


def add_checked_pixels(parser: arguments.Parser) -> None:
    """Adds the flags that say how `scan --check` decodes."""
    parser.add_argument(
        "--color-mode",
        choices=tuple(COLOR_CHANNELS),
        default="rgb",
        help="channels to which --check decodes: those of your `streamkd teach` (default rgb)",
    )
    exif_flags.add(parser, exif="ignore", background="the colours behind are shown")


def add_on_bad(parser: arguments.Parser) -> None:
    parser.add_argument(
        "--on-bad",
        choices=("raise", "skip"),
        default="raise",
        help="stop at a file that cannot be decoded and name it (raise, the default), or leave it "
        "out and list it (skip)",
    )


def add_trust(parser: arguments.Parser) -> None:
    parser.add_argument(
        "--trust", action="store_true", help="load a model file even if loading it runs its code"
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
        choices=("auto", "logits", "probabilities", "log-probabilities"),
        default="auto",
        help="kind of the teacher's answers (default auto: detected from its layers, or from the "
        "first answers)",
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
            default=0.0,
            metavar=metavar,
            help=f"{help} ({default:g} if {metavar} is left out; default: off)",
        )
    group.add_argument(
        "--canonical-size",
        type=arguments.image_size,
        metavar="HEIGHTxWIDTH",
        help="bring every image to this size before views are cut from it; a pixel cache needs it",
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


def pixels(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the pixel flags that were given, as keyword arguments."""
    given = {name: getattr(args, name, None) for name in PIXEL_FLAGS}
    return {name: value for name, value in given.items() if value is not None}


def scan_images(args: argparse.Namespace, *, class_names: list[str] | None = None) -> kd.Manifest:
    """Returns the images of IMAGES, or the side of their split that --subset names."""
    if args.validation_split is not None and not args.subset:
        raise OptionError(
            "--validation-split needs --subset.\nAdd `--subset training` or `--subset validation`."
        )
    return scan_side(args, args.subset, class_names=class_names)


def scan_side(
    args: argparse.Namespace, subset: str | None, *, class_names: list[str] | None = None
) -> kd.Manifest:
    """Returns one side of the split of IMAGES: 'training' or 'validation'; None for all images."""
    return _scan(
        args,
        args.images,
        labels=files.read_labels(args.labels),
        class_names=class_names,
        class_map=args.class_map,
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
