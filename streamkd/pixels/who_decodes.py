"""Says which files Pillow decodes, because TensorFlow cannot, or would give other pixels.

    needs_pillow(data, num_channels=3, max_pixels=MAX_PIXELS)

TensorFlow decodes JPEG, PNG, GIF, BMP and still WebP, each only in part:

| format | TensorFlow's part; Pillow decodes the rest                                    |
|--------|-------------------------------------------------------------------------------|
| JPEG   | rgb; grayscale unless the file is CMYK; never rgba                            |
| PNG    | all, except rgba of a file with less than 8 bits                              |
| GIF    | rgb, if the first frame is full and all frames together fit into `max_pixels` |
| BMP    | rgb of 24 bits without compression                                            |
| WebP   | rgb without transparency, still                                               |

TensorFlow shows a BMP's palette indices as grey levels, decodes all frames of a GIF to take the
first, and makes a 1-bit PNG nearly black in rgba.
"""

from __future__ import annotations

from streamkd.image_options import Background
from streamkd.pixels import header
from streamkd.pixels.orientation import UPRIGHT, orientation

# First bytes of files for Pillow: TIFF, BigTIFF, JPEG 2000 (boxed and bare).
_MAGIC = (
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
)


def needs_pillow(
    data: bytes, num_channels: int, max_pixels: int, *, has_background: bool = False
) -> bool:
    """Returns whether Pillow decodes a file to images of so many channels.

    With a background, Pillow also lays PNG and GIF files on it that may be transparent.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return num_channels == 4 or (num_channels == 1 and header.num_jpeg_channels(data) == 4)
    if data.startswith(b"\x89PNG"):
        if has_background and header.is_transparent_png(data):
            return True
        return num_channels == 4 and header.png_bit_depth(data) < 8
    if data.startswith(b"GIF8"):
        return num_channels != 3 or has_background or _is_gif_for_pillow(data, max_pixels)
    if data.startswith(b"BM"):
        return num_channels != 3 or not header.is_plain_bmp(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        odd = header.is_animated_webp(data) or header.is_transparent_webp(data)
        return num_channels != 3 or odd
    return data.startswith(_MAGIC) or data[4:8] == b"ftyp"


def is_odd_for(
    data: bytes, num_channels: int, exif: str = "ignore", background: Background = None
) -> bool:
    """Returns whether a file of an ordinary format needs Pillow, or is to be turned.

    Arguments as in `ImageOptions`.
    """
    asks_header = num_channels != 3 or background is not None
    if asks_header and needs_pillow(data, num_channels, 1, has_background=background is not None):
        return True
    return exif == "apply" and orientation(data) != UPRIGHT


def _is_gif_for_pillow(data: bytes, max_pixels: int) -> bool:
    frames = header.gif_frames(data)
    if not frames:
        return False  # TensorFlow says what is wrong
    screen = header.gif_screen(data)
    if frames[0] != (0, 0, *screen):
        return True
    width, height = (max([screen[i], *(frame[i + 2] for frame in frames)]) for i in range(2))
    return len(frames) > 1 and len(frames) * width * height > max_pixels
