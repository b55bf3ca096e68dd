"""What is done with a file before TensorFlow decodes it: mostly nothing.

    data = decodable(data)      # its own bytes, or a PNG with the pixels that Pillow found in it

TensorFlow decodes JPEG, PNG, GIF, BMP and still WebP. Pillow decodes TIFF, AVIF, JPEG 2000 and the
first frame of an animated WebP; a PNG keeps its pixels exactly. Nothing else is given to Pillow: it
clips grey PNGs of 16 bits to white, which TensorFlow scales, and its JPEG has other pixels.
"""

from __future__ import annotations

import io
import re
from typing import Any

from streamkd.images import header

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
_WITHOUT_RANGE = ("I", "F")


class UndecodableError(ValueError):
    """The bytes of a file are no image that can be decoded; the text is the reason alone."""


def decodable(data: bytes) -> bytes:
    """Returns bytes with the same pixels that TensorFlow decodes.

    Raises:
      UndecodableError: there are none, or too many pixels; or Pillow cannot decode them. Other
        faults are left to TensorFlow, which decodes the whole.
    """
    if not data:
        raise UndecodableError("the file is empty")
    size = header.dimensions(data)
    if size is not None:
        _check_size(*size)
    if data.startswith(_MAGIC) or data[4:8] == b"ftyp" or header.is_animated_webp(data):
        return _as_png(data)
    return data


def _check_size(width: int, height: int) -> None:
    if width * height > header.MAX_PIXELS:
        raise UndecodableError(_too_many(f"{width:,} x {height:,}"))


def _too_many(pixels: str) -> str:
    return f"it has {pixels} pixels, and at most {header.MAX_PIXELS:,} are decoded"


def _as_png(data: bytes) -> bytes:
    """Returns the first frame as a PNG."""
    from PIL import Image

    png = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            _exact(image).save(png, "PNG", compress_level=1)
    except UndecodableError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UndecodableError("neither TensorFlow nor Pillow knows its format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow refuses to open it from twice the limit on; its message begins with the size.
        number = re.search(r"\d+", str(error))
        raise UndecodableError(_too_many(f"{int(number[0]):,}" if number else "more")) from error
    except Exception as error:  # damaged files make Pillow raise whatever there is
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise UndecodableError(f"Pillow cannot decode it: {reason}") from error
    return png.getvalue()


def _exact(image: Any) -> Any:
    """Returns an image in a mode that a PNG holds."""
    mode = image.mode
    if mode in _WITHOUT_RANGE:
        raise UndecodableError(
            "its pixels are numbers of 32 bits, and nothing says which is black or white"
        )
    if mode in _KEPT:
        return image
    if mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image.convert(_CONVERTED.get(mode, "RGB"))
