"""What is done with a file before TensorFlow decodes it: mostly nothing.

    data = decodable(data)      # its own bytes, or a PNG with the pixels that Pillow found in it

TensorFlow decodes JPEG, PNG, GIF, BMP and still WebP. Pillow decodes TIFF, AVIF, JPEG 2000 and the
first frame of an animated WebP; a PNG keeps its pixels exactly. Nothing else is given to Pillow: it
clips grey PNGs of 16 bits to white, which TensorFlow scales, and its JPEG has other pixels.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
from collections.abc import Iterator
from typing import Any

from streamkd.image_options import MAX_PIXELS
from streamkd.pixels import header

FORMATS = ("AVIF", "JPEG2000", "TIFF", "WEBP")
_MAGIC = (
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
)
# What a PNG can hold without loss; of all other modes the one that keeps most of it.
_KEPT = ("L", "LA", "RGB", "RGBA", "I;16")
_CONVERTED = {"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "I;16B": "I;16", "I;16L": "I;16"}
_MODES_WITHOUT_RANGE = ("I", "F")
_RAISING_PILLOWS_LIMIT = threading.Lock()


class UndecodableError(ValueError):
    """The bytes of a file are no image that can be decoded; the text is the reason alone."""


def decodable(data: bytes, max_pixels: int = MAX_PIXELS) -> bytes:
    """Returns bytes with the same pixels that TensorFlow decodes.

    Args:
      data: the bytes of one file.
      max_pixels: an image of more is refused by its header.

    Raises:
      UndecodableError: there are none, or too many pixels; or Pillow cannot decode them. Other
        faults are left to TensorFlow, which decodes the whole.
    """
    if not data:
        raise UndecodableError("the file is empty")
    size = header.dimensions(data)
    if size is not None:
        _check_size(*size, max_pixels)
    if data.startswith(_MAGIC) or data[4:8] == b"ftyp" or header.is_animated_webp(data):
        return _as_png(data, max_pixels)
    return data


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UndecodableError(_too_many(f"{width:,} x {height:,}", max_pixels))


def _too_many(pixels: str, max_pixels: int) -> str:
    return f"it has {pixels} pixels, and at most {max_pixels:,} are decoded (--max-pixels)"


def _as_png(data: bytes, max_pixels: int) -> bytes:
    """Returns the first frame as a PNG."""
    from PIL import Image

    png = io.BytesIO()
    try:
        with (
            _raised_limit(max_pixels),
            Image.open(io.BytesIO(data), formats=FORMATS) as image,
        ):
            _check_size(*image.size, max_pixels)
            _exact(image).save(png, "PNG", compress_level=1)
    except UndecodableError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UndecodableError("neither TensorFlow nor Pillow knows its format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow refuses to open it from twice the limit on; its message begins with the size.
        number = re.search(r"\d+", str(error))
        found = f"{int(number[0]):,}" if number else "more"
        raise UndecodableError(_too_many(found, max_pixels)) from error
    except Exception as error:  # damaged files make Pillow raise whatever there is
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise UndecodableError(f"Pillow cannot decode it: {reason}") from error
    return png.getvalue()


@contextlib.contextmanager
def _raised_limit(max_pixels: int) -> Iterator[None]:
    """Lets Pillow open images of more pixels than by default; its limit is one for the process."""
    from PIL import Image

    if max_pixels <= MAX_PIXELS:  # which is checked here, below Pillow's own limit
        yield
        return
    with _RAISING_PILLOWS_LIMIT:
        own = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = own


def _exact(image: Any) -> Any:
    """Returns an image in a mode that a PNG holds."""
    mode = image.mode
    if mode in _MODES_WITHOUT_RANGE:
        raise UndecodableError(
            "its pixels are numbers of 32 bits, and nothing says which is black or white"
        )
    if mode in _KEPT:
        return image
    if mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image.convert(_CONVERTED.get(mode, "RGB"))
