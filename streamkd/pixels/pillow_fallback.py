"""Decodes with Pillow what TensorFlow does not decode rightly; a PNG keeps the pixels.

    data = decodable(data, num_channels=3)    # the file's own bytes, or a PNG of Pillow's pixels

`who_decodes.py` says which files these are. Pillow gets no others: it clips grey PNGs of 16 bits to
white, which TensorFlow scales, and it decodes JPEG to other pixels.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamkd.image_options import MAX_PIXELS, Background
from streamkd.pixels import header
from streamkd.pixels.box_header import TooManyPartsError
from streamkd.pixels.orientation import MARK, UPRIGHT, marked, orientation
from streamkd.pixels.who_decodes import needs_pillow

# Formats that Pillow may open.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
# Pillow's modes that a PNG holds without loss.
_EXACT_MODES = ("L", "LA", "RGB", "RGBA")
# The nearest of these for another mode; RGB for a mode that is not listed.
_CONVERTED = {"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}
# Formats of which TensorFlow decodes a part.
_PARTLY_TENSORFLOW = ("BMP", "GIF", "JPEG", "MPO", "PNG", "WEBP")
# Number of EXIF's tag.
_ORIENTATION = 0x0112
# Numbers of TIFF's tags.
TIFF_BITS, _PHOTOMETRIC = 258, 262
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
# Value of the photometric tag: the lowest number is white.
_WHITE_IS_ZERO = 0
# Modes of 32-bit numbers, of which no file says which number is white.
_MODES_WITHOUT_RANGE = ("I", "F")
# Held while Pillow's limit of pixels, which is one for the process, is raised.
_RAISED_LIMIT_LOCK = threading.Lock()


class UndecodableError(ValueError):
    """The bytes of a file cannot be decoded; the text is the reason alone."""


def decodable(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    num_channels: int = 3,
    exif: str = "ignore",
    background: Background = None,
) -> bytes:
    """Returns bytes that TensorFlow decodes to the pixels of a file: its own, or those of a PNG.

    Args:
      data: the file's bytes.
      max_pixels, num_channels, exif, background: as in `ImageOptions`. With 'apply', the bytes of
        an image that is to be turned are marked; `decode_pixels` turns it.

    Raises:
      UndecodableError: the file is empty, has more than `max_pixels` by its header, or cannot be
        decoded by Pillow. TensorFlow, which decodes the whole file, reports the other faults.
    """
    if not data:
        raise UndecodableError("the file is empty")
    if data.startswith(MARK):
        raise UndecodableError("neither TensorFlow nor Pillow knows its format")
    try:
        size = header.dimensions(data)
    except TooManyPartsError as error:
        raise UndecodableError(str(error)) from error
    if size is not None:
        _check_size(*size, max_pixels)
    shown = data
    if needs_pillow(data, num_channels, max_pixels, has_background=background is not None):
        shown = _as_png(data, max_pixels, num_channels, background)
    return marked(shown, turn_of(data)) if exif == "apply" else shown


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _too_many_pixels(f"{width:,} x {height:,}", max_pixels)


def _too_many_pixels(pixels: str, max_pixels: int) -> UndecodableError:
    return UndecodableError(
        f"it has {pixels} pixels, and at most {max_pixels:,} are decoded (--max-pixels)"
    )


def turn_of(data: bytes) -> int:
    """Returns the `orientation` of a file; that of an AVIF is what Pillow makes of its boxes."""
    from PIL import Image

    if data[4:8] != b"ftyp":
        return orientation(data)
    try:
        with Image.open(io.BytesIO(data), formats=("AVIF",)) as image:
            number = image.getexif().get(_ORIENTATION)
    except Exception:  # of any class, as for every damaged file
        return UPRIGHT
    return int(number) if isinstance(number, int) and 1 <= number <= 8 else UPRIGHT


def _as_png(data: bytes, max_pixels: int, num_channels: int, background: Background) -> bytes:
    """Returns the first frame of an image as a PNG."""
    from PIL import Image

    png = io.BytesIO()
    try:
        with (
            raised_limit(max_pixels),
            Image.open(io.BytesIO(data), formats=FORMATS) as image,
        ):
            _check_size(*image.size, max_pixels)
            _check_tiles(image, max_pixels)
            if background is not None and image.has_transparency_data:
                shown = on_background(data, image, background)
                shown = shown.convert("L") if num_channels == 1 else shown
            else:
                shown = _for_tensorflow(image, num_channels)
            shown.save(png, "PNG", compress_level=1)
    except (UndecodableError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise UndecodableError("neither TensorFlow nor Pillow knows its format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow opens no image of twice its limit; the first number of its message is the size.
        number = re.search(r"\d+", str(error))
        pixels = f"{int(number[0]):,}" if number else "more"
        raise _too_many_pixels(pixels, max_pixels) from error
    except Exception as error:  # a damaged file makes Pillow raise errors of any class
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise UndecodableError(f"Pillow cannot decode it: {reason}") from error
    return png.getvalue()


@contextlib.contextmanager
def raised_limit(max_pixels: int) -> Iterator[None]:
    """Lets Pillow open images of `max_pixels`, if its own limit for the process is lower."""
    from PIL import Image

    if max_pixels <= MAX_PIXELS:  # `_check_size` refuses below Pillow's own limit
        yield
        return
    with _RAISED_LIMIT_LOCK:
        own = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = own


def _check_tiles(image: Any, max_pixels: int) -> None:
    """Refuses a TIFF whose tiles are larger than the limit: memory is taken for a whole tile."""
    tags = getattr(image, "tag_v2", {})
    sides = (tags.get(_TILE_WIDTH, 1), tags.get(_TILE_HEIGHT, 1))
    if all(isinstance(side, int) for side in sides):
        _check_size(*sides, max_pixels)


def with_alpha(data: bytes, image: Any) -> Any:
    """Returns an image in the mode RGBA; `data` is its file.

    TensorFlow decodes a PNG of 16 bits: Pillow cuts its levels to 8 bits, and does not find the
    transparent colour among them.
    """
    import tensorflow as tf
    from PIL import Image

    if image.format == "PNG" and header.png_bit_depth(data) == 16:
        return Image.fromarray(tf.io.decode_png(data, channels=4).numpy())
    return image.convert("RGBA")


def on_background(data: bytes, image: Any, background: tuple[int, int, int]) -> Any:
    """Returns an image in the mode RGB, laid on a colour by its transparency."""
    from PIL import Image

    ground = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(ground, with_alpha(data, image)).convert("RGB")


def _for_tensorflow(image: Any, num_channels: int) -> Any:
    """Returns an image in a mode that a PNG holds without loss and that TensorFlow shows rightly.

    TensorFlow repeats grey for rgb and leaves out alpha. For grayscale and rgba, the formats that
    TensorFlow decodes in part are converted by Pillow.
    """
    if image.format in _PARTLY_TENSORFLOW and num_channels != 3:
        return image.convert("L" if num_channels == 1 else "RGBA")
    return _in_exact_mode(image)


def _in_exact_mode(image: Any) -> Any:
    """Returns an image in a mode that a PNG holds without loss."""
    mode = image.mode
    if mode in _MODES_WITHOUT_RANGE:
        raise UndecodableError(
            "its pixels are numbers of 32 bits, and the file does not say which number is white"
        )
    if mode.startswith("I;16"):
        return _in_sixteen_bits(image)
    if mode in _EXACT_MODES:
        return image
    if mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image.convert(_CONVERTED.get(mode, "RGB"))


def _in_sixteen_bits(image: Any) -> Any:
    """Returns grey levels from 0, black, to 65,535, white, in the byte order of this machine.

    Pillow leaves a TIFF's levels as they are, also where white is 0, or 4,095 in 12 bits.
    """
    from PIL import Image

    levels: np.ndarray = np.asarray(image).astype(np.uint16)
    tags = getattr(image, "tag_v2", {})
    if tags.get(TIFF_BITS) == (12,):
        levels = levels << 4 | levels >> 8
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 65535 - levels
    return Image.fromarray(levels)
