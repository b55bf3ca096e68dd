"""Flags: one name and one meaning in every command that has them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from streamkd.errors import OptionError
from streamkd.image_options import (
    COLOR_CHANNELS,
    DECODES,
    INTERPOLATIONS,
    MAX_PIXELS,
    parse_image_size,
)

LARGEST_SEED = 2**32 - 1  # of NumPy's and Keras' generators


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are streamkd's, so that `--json` can answer them too.

    Attributes:
      commands: the parsers of its commands, by name.
    """

    def __init__(self, **settings: Any) -> None:
        # Half a flag is none: `--js` would print text, since `--json` is looked for before parsing.
        super().__init__(**settings, allow_abbrev=False)
        self.commands: dict[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message[:1].upper()}{message[1:]}.\nSee `{self.prog} --help`.")


def image_size(text: str) -> tuple[int, int]:
    """Reads HEIGHTxWIDTH; argparse shows the message of an ArgumentTypeError."""
    try:
        return parse_image_size(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def seed(text: str) -> int:
    """Reads a seed; argparse shows the message of an ArgumentTypeError."""
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no seed; give a whole number from 0 to {LARGEST_SEED}"
        )
    return int(text)


def count(text: str) -> int:
    """Reads a number of things; argparse shows the message of an ArgumentTypeError."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; give a whole number from 1")
    return int(text)


def codec(text: str) -> str:
    """Reads the name of a codec; argparse shows the message of an ArgumentTypeError."""
    from streamkd.store import codecs

    try:
        codecs.get(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error
    return text


def shard(text: str) -> tuple[int, int]:
    """Reads I/N; argparse shows the message of an ArgumentTypeError."""
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; write it as I/N, for example 1/8 to 8/8")
    return int(number), int(count)


def add_labels(parser: Any) -> None:
    """Adds --labels."""
    parser.add_argument(
        "--labels",
        default="inferred",
        metavar="inferred|none|FILE",
        help="take the folder as the class (the default), list every image without a label, or "
        "read one label an image, in the order of the paths: one a line, or a list in JSON",
    )


def add_codec(parser: argparse.ArgumentParser) -> None:
    """Adds --codec."""
    parser.add_argument(
        "--codec",
        type=codec,
        default="float16",
        metavar="CODEC",
        help="how logits are kept: float16 (default), float32, packed:BITS or packed:BITS+KEPT; "
        "`streamkd plan` compares them",
    )


def add_teacher_output(parser: argparse.ArgumentParser) -> None:
    """Adds --teacher-output."""
    parser.add_argument(
        "--teacher-output",
        choices=("auto", "logits", "probabilities", "log-probabilities"),
        default="auto",
    )


def add_views(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of views, except --views itself."""
    group = parser.add_argument_group("views of every image")
    group.add_argument(
        "--crop",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="smallest and largest share of the area, such as 0.35 1",
    )
    group.add_argument("--flip", action="store_true", help="mirror every second view")
    for name, default, metavar, help in (
        ("color", 0.4, "C", "brightness, contrast and saturation by up to C (0.4)"),
        ("erase", 0.25, "P", "erase a box of a share P of the views (0.25)"),
        ("mixup", 0.8, "A", "fade pairs into each other, shares from Beta(A, A) (0.8)"),
        ("cutmix", 1.0, "A", "paste boxes between pairs, areas from Beta(A, A) (1)"),
    ):
        group.add_argument(
            f"--{name}",
            type=float,
            nargs="?",
            const=default,
            default=0.0,
            metavar=metavar,
            help=help,
        )
    group.add_argument(
        "--canonical-size",
        type=image_size,
        metavar="HEIGHTxWIDTH",
        help="bring every image to this size before views are cut from it",
    )


def views(args: argparse.Namespace, count: int) -> Any:
    """Returns the `Views` that the flags describe."""
    from streamkd.views.views import Views

    return Views(
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


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Adds IMAGES and Keras' directory arguments."""
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help="a directory with one folder a class, a manifest, or a table (CSV or JSON lines) with "
        "the columns file_name, label and weight",
    )
    group = parser.add_argument_group("directory, as in Keras' image_dataset_from_directory")
    add_labels(group)
    group.add_argument(
        "--class-map",
        metavar="FILE",
        help='the class of each folder, in JSON: {"n02085620": "dog", ...}; null leaves it out',
    )
    group.add_argument(
        "--follow-links", action="store_true", help="enter folders that are symbolic links"
    )
    group.add_argument(
        "--validation-split", type=float, metavar="SHARE", help="share that validation gets"
    )
    group.add_argument("--subset", choices=("training", "validation"), help="which side of it")
    group.add_argument(
        "--stratify", action="store_true", help="every class gives validation the same share"
    )
    group.add_argument(
        "--seed", type=seed, default=0, help="of the split and of the order (default 0)"
    )


def add_pixels(parser: argparse.ArgumentParser, default_color: str | None = None) -> None:
    """Adds what turns files into pixels."""
    group = parser.add_argument_group("pixels")
    group.add_argument(
        "--image-size", type=image_size, metavar="HEIGHTxWIDTH", help="what the model is shown"
    )
    group.add_argument("--color-mode", choices=tuple(COLOR_CHANNELS), default=default_color)
    group.add_argument("--interpolation", choices=INTERPOLATIONS)
    group.add_argument("--crop-to-aspect-ratio", action="store_const", const=True)
    group.add_argument("--pad-to-aspect-ratio", action="store_const", const=True)
    group.add_argument(
        "--decode",
        choices=DECODES,
        help="as Keras' loader does (exact), or large photographs at 1/2, 1/4 or 1/8 and resized "
        "with antialiasing (scaled)",
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds what every command has."""
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output, also on failure"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.add_argument(
        "--config",
        metavar="FILE.toml",
        help="take flags from a file: `epochs = 30`, `flip = true`, `crop = [0.35, 1]`, above all "
        "tables or below a line with the command in brackets; what is typed wins; paths count from "
        "the working directory, as they do here",
    )


def add_on_bad(parser: argparse.ArgumentParser) -> None:
    """Adds --on-bad."""
    parser.add_argument(
        "--on-bad",
        choices=("raise", "skip"),
        default="raise",
        help="end at a file that cannot be decoded, naming it (the default), or go on without it "
        "and list it",
    )


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """Adds --max-pixels."""
    parser.add_argument(
        "--max-pixels",
        type=count,
        default=MAX_PIXELS,
        metavar="N",
        help="an image of more, by its header, counts as one that cannot be decoded "
        f"(default {MAX_PIXELS:,})",
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust", action="store_true", help="load a model file that runs code on loading"
    )


def pixels(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the pixel flags that were given, as keyword arguments."""
    names = (
        "image_size",
        "color_mode",
        "interpolation",
        "crop_to_aspect_ratio",
        "pad_to_aspect_ratio",
        "max_pixels",
        "decode",
    )
    given = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def read_class_names(path: str | None) -> list[str] | None:
    """Returns the names in a file, one a line; empty lines are left out."""
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"--class-names {path!r} cannot be read: {error}.\nGive a text file, one class a line."
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise OptionError(f"--class-names {path!r} holds {twice!r} twice; every class once.")
    return names


def read_labels(text: str) -> Any:
    """Returns what `scan` takes as labels: 'inferred', None, or the list in a file."""
    if text in ("inferred", "none"):
        return None if text == "none" else text
    from streamkd.manifest import labels

    if not Path(text).exists():
        raise OptionError(
            f"--labels is {text!r}, and there is no such file.\n"
            "Give inferred, none, or a file with one label an image."
        )
    return labels.read_labels(text)


def scan_images(args: argparse.Namespace, source: str | None = None, **changes: Any) -> Any:
    """Returns the manifest that the directory flags describe."""
    from streamkd.manifest.manifest import scan
    from streamkd.progress import image_progress

    subset = changes.get("subset", args.subset)
    # Another directory than IMAGES, such as --validation, is taken whole.
    subset = None if source else subset
    split = args.validation_split if subset else None
    if args.validation_split is not None and not subset and not source:
        raise OptionError(
            "--validation-split needs --subset.\nAdd `--subset training` or `--subset validation`."
        )
    # What is said of the folders of IMAGES holds for another directory; a manifest has its own.
    class_map = None if source and Path(source).is_file() else args.class_map
    with image_progress(None, 0, "listing", not args.quiet and sys.stderr.isatty()) as bar:
        return scan(
            source or args.images,
            labels="inferred" if source else read_labels(args.labels),
            class_names=changes.get("class_names"),
            class_map=class_map,
            follow_links=args.follow_links,
            validation_split=split,
            subset=subset,
            seed=args.seed,
            stratify=args.stratify,
            progress=bar.update,
        )


def check_out(path: str, *, what: str, flag: str = "--out") -> None:
    """Refuses an output path that cannot be written, before anything heavy is imported.

    Args:
      path: what `flag` was given.
      what: 'run directory' or 'directory', which is made if it is not there; or the word for a
        file, whose directory must be there.
    """
    import os

    from streamkd.errors import OutputError

    target = Path(path)
    is_made = what.endswith("directory")
    folder = target if is_made and target.is_dir() else target.parent
    if target.is_dir() and not is_made:
        raise OutputError(f"{flag} {path} is a directory.\nGive the path of a file to write.")
    if target.exists() and not target.is_dir() and is_made:
        raise OutputError(f"{flag} {path} is a file.\nGive the path of a {what}.")
    while is_made and not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(
            f"There is no directory {folder} to write {target.name} into.\n"
            f"Make it: `mkdir -p {folder}`."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"The directory {folder} cannot be written to.\nGive another `{flag}`, or yourself the "
            f"right: `chmod u+w {folder}`."
        )
