"""The flags that say how the bytes of files become pixels, and the arguments that they stand for.

pixel_flags.add_pixels(parser, image_size="the size that the teacher takes", color_mode="rgb")
kd.teach(images, teacher, out, **pixel_flags.pixels(parser.parse_args()))
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import streamkd as kd
from streamkd.cli import arguments
from streamkd.image_options import COLOR_CHANNELS, DECODES, EXIFS, INTERPOLATIONS, MAX_PIXELS

# Flags of `add_pixels` and `add_max_pixels`, which are keyword arguments in Python.
PIXEL_FLAGS = (
    *("image_size", "color_mode", "interpolation", "crop_to_aspect_ratio"),
    *("pad_to_aspect_ratio", "max_pixels", "decode", "exif", "background"),
)
# Flags of a pixel cache, by the names of a file's keys.
CACHE_FLAGS = frozenset(("cache", "cache-directory", "cache-bytes"))


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
    _add_exif_and_background(group, exif=f"{source}ignore", background=f"{source}{shown}")


def _add_exif_and_background(
    to: arguments.Parser | arguments.Group, *, exif: str, background: str
) -> None:
    """Adds --exif and --background, with their defaults in words."""
    to.add_argument(
        "--exif",
        choices=EXIFS,
        help="show a photograph as it lies in its file (ignore), or turned as its EXIF tag says "
        f"(apply) (default: {exif})",
    )
    to.add_argument(
        "--background",
        type=arguments.background,
        metavar="R,G,B",
        help="lay transparent images on a colour, such as 255,255,255 for white (default: "
        f"{background})",
    )


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
    _add_exif_and_background(parser, exif="ignore", background="the colours behind are shown")


def add_on_bad(parser: arguments.Parser) -> None:
    parser.add_argument(
        "--on-bad",
        choices=("raise", "skip"),
        default="raise",
        help="stop at a file that cannot be decoded and name it (raise, the default), or leave it "
        "out and list it (skip)",
    )


def add_cache_place(to: arguments.Parser | arguments.Group, *, bytes_default: str) -> None:
    """Adds the flags that say where a pixel cache on disk lies, and how large it may get."""
    to.add_argument(
        "--cache-directory",
        metavar="DIRECTORY",
        help="directory of --cache disk (default: streamkd/pixels in the user's cache directory)",
    )
    to.add_argument(
        "--cache-bytes",
        type=int,
        metavar="N",
        help=f"largest size of the cache (default: {bytes_default})",
    )


def pixels(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the pixel flags that were given, as keyword arguments."""
    given = {name: getattr(args, name, None) for name in PIXEL_FLAGS}
    return {name: value for name, value in given.items() if value is not None}


def kept_pixels(args: argparse.Namespace, manifest: kd.Manifest, store: Any) -> dict | None:
    """Returns what the pixel cache of a pass holds, and says it; None without a cache."""
    if args.cache is None:
        return None
    from streamkd.teachers.kept_pixels import pixels_kept

    kept = pixels_kept(manifest, store, args.cache_directory)
    if not args.quiet:
        height, width = kept["image_size"]
        print(
            f"decoded pixels of {kept['num_images']:,} of {len(manifest):,} images, at "
            f"{height}x{width}, are kept in {kept['path']} for `train --cache disk`; they may be "
            "deleted at any time",
            file=sys.stderr,
        )
    return kept
