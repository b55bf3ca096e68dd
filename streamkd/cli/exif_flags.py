"""The flags --exif and --background: of every command that decodes, and of `scan --check`.

add(parser, exif="ignore", background="the colours behind are shown")
"""

from __future__ import annotations

from streamkd.cli import arguments
from streamkd.image_options import EXIFS


def add(to: arguments.Parser | arguments.Group, *, exif: str, background: str) -> None:
    """Adds both flags; `exif` and `background` are their defaults in words."""
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
