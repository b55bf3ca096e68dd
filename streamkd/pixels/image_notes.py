"""Notes on the images themselves: what a good file holds that is shown otherwise than it looks.

    counted = ImageNotes(exif="ignore", background=None, color_mode="rgb")
    counted.add(key, oddities(data, max_pixels))        # for each file that can be decoded
    counted.notes()

`scan --check` counts all images; `teach` looks at the headers of a few (`turned_in_sample`).
"""

from __future__ import annotations

import collections
import io
from typing import NamedTuple

import numpy as np

from streamkd.errors import readable_key
from streamkd.image_options import MAX_PIXELS, Background
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.notes import MAX_EXAMPLES, Note
from streamkd.pixels import header
from streamkd.pixels.files import is_no_file, is_not_there, read_head
from streamkd.pixels.orientation import UPRIGHT, orientation
from streamkd.pixels.pillow_fallback import (
    FORMATS,
    TIFF_BITS,
    decodable,
    raised_limit,
    turn_of,
    with_alpha,
)
from streamkd.pixels.refusals import naming
from streamkd.pixels.who_decodes import needs_pillow

ADVICE = {
    "turned_by_exif": "These photographs have an EXIF tag that turns them, and it is ignored; "
    "`--exif apply` shows them upright.",
    "hidden_colors": "Transparent pixels of these images hide colours that differ, and the colours "
    "are shown; `--background 255,255,255` lays the images on white.",
    "transparent_gif": "Transparent pixels of these GIF files are shown black, whatever colour the "
    "files have there; `--background 255,255,255` lays the images on white.",
    "few_bits_of_16": "These 16-bit images use at most 14 bits, so they are shown nearly black; "
    "multiply their levels, and save them again.",
}
# An image of 16 bits whose brightest level is lower uses at most 14 bits: a quarter of white.
FEW_LEVELS = 1 << 14
# Number of files whose headers `teach` looks at, and bytes of each.
NUM_SAMPLED, HEAD_BYTES = 256, 1 << 17
# Stands for more colours than one behind the transparent pixels of an image.
_SEVERAL = b"several"


class Oddities(NamedTuple):
    """What is odd about one image.

    Attributes:
      is_turned: a tag says that the image is to be turned.
      hidden: the colour behind all its transparent pixels, three bytes, or `_SEVERAL`; None if no
        pixel is fully transparent.
      has_few_levels: it has 16 bits, and its brightest level is below `FEW_LEVELS`, and not 0.
      is_blackened: TensorFlow decodes it to rgb, and makes its transparent pixels black.
    """

    is_turned: bool
    hidden: bytes | None
    has_few_levels: bool
    is_blackened: bool = False


NOTHING_ODD = Oddities(is_turned=False, hidden=None, has_few_levels=False)


def oddities(data: bytes, max_pixels: int = MAX_PIXELS) -> Oddities:
    """Returns what is odd about the bytes of a file that can be decoded.

    Images that may be transparent or have 16 bits are decoded once more.
    """
    turned = turn_of(data) != UPRIGHT
    if data.startswith((b"\xff\xd8\xff", b"BM")) or _is_plain(data):
        return Oddities(turned, None, has_few_levels=False)
    try:
        return _seen_by_pillow(data, max_pixels, turned)
    except MemoryError:
        raise
    except Exception:  # Pillow may refuse a file that TensorFlow decodes
        return Oddities(turned, None, has_few_levels=False)


def _seen_by_pillow(data: bytes, max_pixels: int, turned: bool) -> Oddities:
    """Returns what is odd about a file that may be transparent or have 16 bits."""
    from PIL import Image

    with (
        raised_limit(max_pixels),
        Image.open(io.BytesIO(data), formats=FORMATS) as image,
    ):
        is_deep = _has_sixteen_bits(data, image)
        hidden = None
        if image.has_transparency_data:
            hidden = _hidden_color(np.asarray(with_alpha(data, image)))
    has_few_levels = is_deep and _has_few_levels(decodable(data, max_pixels))
    is_gif_of_tensorflow = data.startswith(b"GIF8") and not needs_pillow(data, 3, max_pixels)
    is_blackened = hidden is not None and is_gif_of_tensorflow
    return Oddities(turned, hidden, has_few_levels, is_blackened)


def _is_plain(data: bytes) -> bool:
    """Returns whether the header of a PNG or WebP says that it is opaque and has 8 bits or less."""
    if data.startswith(b"\x89PNG"):
        return header.png_bit_depth(data) < 16 and not header.is_transparent_png(data)
    return data.startswith(b"RIFF") and not header.is_transparent_webp(data)


def _has_sixteen_bits(data: bytes, image: object) -> bool:
    if data.startswith(b"\x89PNG"):
        return header.png_bit_depth(data) == 16
    bits = getattr(image, "tag_v2", {}).get(TIFF_BITS)
    if bits is not None:
        return set(bits) == {16}
    return str(getattr(image, "mode", "")).startswith("I;16")


def _has_few_levels(png: bytes) -> bool:
    """Returns whether a PNG of 16 bits, without its transparency, uses at most 14 of them."""
    import tensorflow as tf

    brightest = int(tf.reduce_max(tf.cast(tf.io.decode_png(png, 3, tf.uint16), tf.int32)))
    return 0 < brightest < FEW_LEVELS


def _hidden_color(pixels: np.ndarray) -> bytes | None:
    """Returns `Oddities.hidden` of pixels, uint8 `[height, width, 4]`."""
    hidden = pixels[..., :3][pixels[..., 3] == 0]
    if not len(hidden):
        return None
    return _SEVERAL if (hidden != hidden[0]).any() else hidden[0].tobytes()


class ImageNotes:
    """Counts oddities that are shown otherwise than they look, with the options of the check.

    Args:
      exif, background, color_mode: as in `ImageOptions`; 'apply' and a background take the oddity
        away, and 'rgba' shows the transparency.
    """

    def __init__(self, exif: str, background: Background, color_mode: str) -> None:
        self._counts_turned = exif == "ignore"
        self._counts_hidden = background is None and color_mode != "rgba"
        self._shows_rgb = color_mode == "rgb"
        self._found: dict[str, list[str]] = {code: [] for code in ADVICE}
        self._counts: collections.Counter[str] = collections.Counter()
        # Of images that hide one colour: how many hide it, and the first of them.
        self._hidden: collections.Counter[bytes] = collections.Counter()
        self._first: dict[bytes, list[str]] = collections.defaultdict(list)

    def add(self, key: bytes, found: Oddities) -> None:
        """Counts what was found in the image with this key."""
        name = readable_key(key)
        if found.is_turned and self._counts_turned:
            self._count("turned_by_exif", name)
        if found.has_few_levels:
            self._count("few_bits_of_16", name)
        if found.hidden is None or not self._counts_hidden:
            return
        if found.is_blackened and self._shows_rgb:
            self._count("transparent_gif", name)
        else:
            self._hidden[found.hidden] += 1
            _keep(self._first[found.hidden], name)

    def notes(self) -> list[Note]:
        """Returns the notes, in the order of `ADVICE`; one colour behind all images is not odd."""
        found, counts = dict(self._found), self._counts.copy()
        if len(self._hidden) > 1 or _SEVERAL in self._hidden:
            counts["hidden_colors"] = self._hidden.total()
            examples = [names[0] for names in self._first.values()]
            more = [name for names in self._first.values() for name in names[1:]]
            found["hidden_colors"] = (examples + more)[:MAX_EXAMPLES]
        return [
            Note(code, counts[code], found[code], advice)
            for code, advice in ADVICE.items()
            if counts[code]
        ]

    def _count(self, code: str, name: str) -> None:
        self._counts[code] += 1
        _keep(self._found[code], name)


def _keep(examples: list[str], name: str) -> None:
    if len(examples) < MAX_EXAMPLES:
        examples.append(name)


def turned_in_sample(images: Manifest) -> Note | None:
    """Returns a note of photographs that a tag turns, among a few headers; None if there is none.

    At most `NUM_SAMPLED` files are looked at, evenly from the whole list. What is no file, or is
    not there, is left to the pass.

    Raises:
      UnreadableImageError: the system cannot read a file.
    """
    step = -(-len(images) // NUM_SAMPLED)
    indices = range(0, len(images), step)
    names = []
    for index in indices:
        path = images.path(index)
        with naming(images):
            try:
                head = read_head(path, HEAD_BYTES)
            except OSError as error:
                if not (is_no_file(error) or is_not_there(error)):
                    error.filename = path  # a read that fails has none
                    raise
                continue
        if orientation(head) != UPRIGHT:
            names.append(readable_key(images.keys[index]))
    if not names:
        return None
    looked_at = f"{len(indices):,} images were looked at. " if step > 1 else ""
    advice = looked_at + ADVICE["turned_by_exif"]
    return Note("turned_by_exif", len(names), names[:MAX_EXAMPLES], advice)
