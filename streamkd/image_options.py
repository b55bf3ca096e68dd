"""How bytes become pixels, as options: checked once, saved in the store, the run and the export.

    options = ImageOptions(image_size=(160, 160), interpolation="bilinear")
    ImageOptions.from_dict(options.to_dict()) == options

Fields are named as in `image_dataset_from_directory`, with Keras' meaning, and as the flags.
"""

from __future__ import annotations

import dataclasses
from numbers import Integral
from typing import Any

from streamkd.checks import check_choice, check_count, check_types
from streamkd.errors import OptionError
from streamkd.public import public

# Channels of each colour mode.
COLOR_CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}
INTERPOLATIONS = (
    "bilinear",
    "nearest",
    "bicubic",
    "area",
    "lanczos3",
    "lanczos5",
    "gaussian",
    "mitchellcubic",
)
# Interpolations for which `tf.image.resize` has no antialiasing.
WITHOUT_ANTIALIASING = ("nearest", "area")
# Ways to decode. Another way needs another name: a store keeps it, and the student repeats it.
DECODES = ("exact", "scaled")
# What is done with the tag of a photograph that says how it is turned.
EXIFS = ("ignore", "apply")
# A colour behind transparent pixels: red, green and blue, 0 to 255. None shows the hidden colours.
Background = tuple[int, int, int] | None
# Ways to treat a file that cannot be decoded.
ON_BAD = ("raise", "skip")
# Default of the largest image that is decoded, in pixels: a quarter of a gigabyte at 3 bytes a
# pixel. Above that Pillow warns of a decompression bomb.
MAX_PIXELS = 1024**3 // 4 // 3
# Name of the decoder in a store's header. Another decoder gives other pixels: TensorFlow's default
# and Pillow differ by up to 5 levels in a JPEG.
DECODER = "tf.io.decode_image"


@public
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How the bytes of a file become pixels.

    Attributes:
      image_size: height and width in pixels.
      color_mode: 'grayscale' (1 channel), 'rgb' (3) or 'rgba' (4).
      interpolation: how pixels are resampled, as in `tf.image.resize`.
      crop_to_aspect_ratio: keep the largest central window of the target's shape.
      pad_to_aspect_ratio: add black borders to reach the target's shape.
      max_pixels: largest number of pixels of an image; a file with more is refused by its header
        and counts as bad. The limit changes no pixel, and is neither saved nor compared.
      decode: 'exact' decodes every file at its full size and resizes as Keras does, without
        antialiasing. 'scaled' decodes large JPEG files at 1/2, 1/4 or 1/8 and resizes with
        antialiasing; see `pixels/scaled_decode.py`.
      exif: 'ignore' shows a photograph as its pixels lie in the file, as Keras does; 'apply' turns
        it as its EXIF tag says, so that all else sees the upright image.
      background: the colour on which transparent images are laid, (red, green, blue), 0 to 255; by
        default the transparency is left out, and the colours behind it are shown.

    Raises:
      OptionError: a value that is none of these, or two options that exclude each other.
    """

    image_size: tuple[int, int]
    color_mode: str = "rgb"
    interpolation: str = "bilinear"
    crop_to_aspect_ratio: bool = False
    pad_to_aspect_ratio: bool = False
    max_pixels: int = dataclasses.field(default=MAX_PIXELS, compare=False)
    decode: str = "exact"
    exif: str = "ignore"
    background: Background = None

    def __post_init__(self) -> None:
        size = self.image_size
        pair = isinstance(size, tuple | list) and len(size) == 2
        if not pair or not all(isinstance(n, Integral) and n > 0 for n in size):
            raise OptionError(
                f"image_size is {size!r}; it must be (height, width) in pixels, such as (160, 160)."
            )
        object.__setattr__(self, "image_size", (int(size[0]), int(size[1])))
        check_types(ImageOptions, vars(self))
        check_choice("color_mode", self.color_mode, COLOR_CHANNELS)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        check_count("max_pixels", self.max_pixels)
        if self.crop_to_aspect_ratio and self.pad_to_aspect_ratio:
            raise OptionError(
                "crop_to_aspect_ratio and pad_to_aspect_ratio exclude each other; give one of them."
            )
        check_choice("decode", self.decode, DECODES)
        check_choice("exif", self.exif, EXIFS)
        object.__setattr__(self, "background", as_background(self.background))
        if self.background is not None and self.color_mode == "rgba":
            raise OptionError(
                "color_mode is 'rgba', which keeps the transparency, and background lays "
                "transparent images on a colour.\nGive one of them."
            )
        if self.decode == "scaled" and self.interpolation in WITHOUT_ANTIALIASING:
            raise OptionError(
                f"decode is 'scaled', which resizes with antialiasing, and interpolation is "
                f"{self.interpolation!r}, which has none.\n"
                "Give another interpolation, such as 'bilinear', or decode='exact'; on the command "
                "line --interpolation bilinear or --decode exact."
            )

    @property
    def num_channels(self) -> int:
        """Channels of one image."""
        return COLOR_CHANNELS[self.color_mode]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return (*self.image_size, self.num_channels)

    def to_dict(self) -> dict[str, Any]:
        """Returns the image specification as a store keeps it.

        Exact decoding, an ignored EXIF tag and no background are left out, as in stores that are
        older than the choices.
        """
        values = {**dataclasses.asdict(self), "image_size": list(self.image_size)}
        del values["max_pixels"]
        for name, default in (("decode", "exact"), ("exif", "ignore"), ("background", None)):
            if values[name] == default:
                del values[name]
        if self.background is not None:
            values["background"] = list(self.background)
        return values

    def for_files(self) -> dict[str, Any]:
        """Returns the options that `read_files` and `decodable` take, as keyword arguments."""
        names = ("max_pixels", "num_channels", "exif", "background")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageOptions:
        """Returns the options of a specification; an unknown field is refused by name."""
        known = {field.name for field in dataclasses.fields(cls) if field.compare}
        unknown = sorted(set(values) - known)
        if unknown:
            raise OptionError(
                f"The image specification has an unknown field, {unknown[0]!r}, of a newer "
                "streamkd.\nUpgrade with `pip install --upgrade streamkd`."
            )
        return cls(**{**values, "image_size": tuple(values["image_size"])})


def as_background(value: Any) -> Background:
    """Returns a background of Python or JSON, a sequence of three numbers or None, as a tuple."""
    if value is None:
        return None
    three = isinstance(value, tuple | list) and len(value) == 3
    if not three or not all(type(n) is int and 0 <= n <= 255 for n in value):
        raise OptionError(
            f"background is {value!r}; it must be (red, green, blue), three whole numbers from 0 "
            "to 255, such as (255, 255, 255) for white."
        )
    return (value[0], value[1], value[2])


def parse_background(text: str) -> tuple[int, int, int]:
    """Returns (red, green, blue) for 'R,G,B', as on the command line."""
    parts = [part.strip() for part in text.split(",")]
    are_numbers = all(part.isascii() and part.isdecimal() for part in parts)
    if len(parts) != 3 or not are_numbers or any(len(p) > 3 or int(p) > 255 for p in parts):
        raise OptionError(
            f"--background is {text!r}; write it as R,G,B, three whole numbers from 0 to 255: "
            "255,255,255 is white."
        )
    return int(parts[0]), int(parts[1]), int(parts[2])


def parse_image_size(text: str) -> tuple[int, int]:
    """Returns (height, width) for 'HEIGHTxWIDTH', as on the command line."""
    height, cross, width = text.lower().partition("x")
    if not cross or not height.isdecimal() or not width.isdecimal():
        raise OptionError(
            f"--image-size is {text!r}; write it as HEIGHTxWIDTH, for example 160x160."
        )
    return int(height), int(width)
