"""decode='scaled': large photographs are decoded at a part of their size, then resized smoothly.

    decoder = ScaledDecoder(options)
    images = decoder.whole(file_bytes, one_size)          # float32 [files, height, width, channels]
    crops = decoder.crops(file_bytes, one_size, boxes)    # float32 [files, views, height, …]

A JPEG decoder gives an image at 1/2, 1/4 or 1/8 of its size for little more than the price of
reading the file's codes. Antialiased resizing does the rest, and every decoded pixel counts in it.
Keras' loader makes each pixel of four others: more than 98 in 100 pixels of a photograph of 12
megapixels play no part in an image of 224×224.

The part at which a file is decoded depends on its size, on the size asked for and, for a view, on
the view's own crop: never on the other files of a batch or the other views of a file. So teacher
and student, who ask for different views at once, see the same pixels of each.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.pixels.exact_decode import decode_as_stored, finished, placement_of, rounded
from streamkd.pixels.turned import is_mirrored, opened, upright, upright_size

# Number of times that the decoder can halve an image.
MAX_HALVINGS = 3
# Smallest side of the decoded image, 4/3 of the side asked for. PSNR against antialiased full
# decoding is then 38 dB and more (37 where colours are halved in one direction) for photographs
# with detail in every pixel; without a margin it is 32.
MARGIN = (4, 3)
_RATIOS = [2**halvings for halvings in range(1, MAX_HALVINGS + 1)]
# Names of kernels that `tf.image.resize` calls otherwise.
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}
# Smallest side of a crop, in decoded pixels; a smaller crop is taken as this large.
_MIN_SIDE_PX = 1e-3


@dataclasses.dataclass(frozen=True)
class ScaledDecoder:
    """Decodes a JPEG at the part of its size that the size asked for needs, then resamples.

    Attributes:
      options: how bytes become pixels.
      whole_numbers: round the pixels of whole images, as the pixel cache keeps them.
    """

    options: ImageOptions
    whole_numbers: bool = False

    def whole(self, file_bytes: tf.Tensor, one_size: tf.Tensor) -> tf.Tensor:
        """Returns every image whole, as `ExactDecoder.whole` does; `one_size` changes nothing."""
        pixels_of_one = tf.TensorSpec(self.options.shape, tf.float32)
        images = tf.map_fn(self.image, file_bytes, fn_output_signature=pixels_of_one)
        return tf.ensure_shape(images, (file_bytes.shape[0], *self.options.shape))

    def crops(
        self,
        file_bytes: tf.Tensor,
        one_size: tf.Tensor,
        boxes: tf.Tensor,
        *,
        plain_first: bool = False,
    ) -> tf.Tensor:
        """Returns crops of files, as `ExactDecoder.crops` does; `one_size` changes nothing.

        Each is decoded at the part of its size that its box asks for, and antialiased as the whole
        image is: `cut` would leave 25 dB of PSNR where this leaves 42.
        """
        shape = (boxes.shape[1], *self.options.shape)
        crops_of_one = self._plain_and_crops if plain_first else self._crops
        views = tf.map_fn(
            crops_of_one,
            (file_bytes, boxes),
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )
        return tf.ensure_shape(views, (file_bytes.shape[0], *shape))

    def image(self, data: tf.Tensor) -> tf.Tensor:
        """Returns one file's image, float32 `[height, width, channels]`; `data` is its bytes."""
        file = opened_file(data, self.options)
        halvings = halvings_of_image(file.size, self.options)
        part = DecodedParts(file, halvings[None], self.options).part(halvings)
        images = fit_part(part, self.options)
        return (rounded(images) if self.whole_numbers else images)[0]

    def _crops(self, element: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Returns the crops of one file, `[views, height, width, channels]`."""
        data, boxes = element
        file = opened_file(data, self.options)
        halvings = halvings_of_crops(file.size, boxes, self.options)
        return self._resampled(DecodedParts(file, halvings, self.options), boxes, halvings)

    def _plain_and_crops(self, element: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Returns the crops of one file, the first replaced by the plain image."""
        data, boxes = element
        file = opened_file(data, self.options)
        halvings = halvings_of_crops(file.size, boxes, self.options)
        plain = halvings_of_image(file.size, self.options)
        halvings = tf.concat([plain[None], halvings[1:]], axis=0)
        parts = DecodedParts(file, halvings, self.options)
        crops = self._resampled(parts, boxes[1:], halvings[1:])
        return tf.concat([fit_part(parts.part(plain), self.options), crops], axis=0)

    def _resampled(self, parts: DecodedParts, boxes: tf.Tensor, halvings: tf.Tensor) -> tf.Tensor:
        """Returns crops of one file, each cut from its own part."""

        def resampled_crop(view: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            box, number = view
            part = parts.part(number)
            corners = part.in_pixels(box * tf.tile(part.extent, [2]))
            return resample(part.pixels, corners, self.options.image_size, self.options)[0]

        one_view = tf.TensorSpec(self.options.shape, tf.float32)
        return tf.map_fn(resampled_crop, (boxes, halvings), fn_output_signature=one_view)


class File(NamedTuple):
    """One file before it is decoded.

    Attributes:
      data: string `[]`, its bytes.
      size: int32 `[2]`, height and width of the upright image as `size_in_file` finds them.
      orientation: int32 `[]`, 1 to 8, how the image is to be turned; None if no image is turned.
    """

    data: tf.Tensor
    size: tf.Tensor
    orientation: tf.Tensor | None


def opened_file(data: tf.Tensor, options: ImageOptions) -> File:
    """Returns the file of bytes, string `[]`, that may be marked to be turned."""
    if options.exif == "ignore":
        return File(data, size_in_file(data), None)
    data, number = opened(data)
    return File(data, upright_size(size_in_file(data), number), number)


class Part(NamedTuple):
    """The pixels that were decoded of one file, and how they lie in it.

    Attributes:
      pixels: uint8 `[1, any height, any width, channels]`, upright.
      size: int32 `[2]`, height and width of the upright image.
      ratio: float32 `[]`, 1, 2, 4 or 8, how many of the file's pixels in each direction a decoded
        pixel stands for; the last one may stand for fewer.
      is_mirrored: bool `[2]`, whether rows and columns run against those of the file, so that the
        last one of the file comes first; None if no image is turned.
    """

    pixels: tf.Tensor
    size: tf.Tensor
    ratio: tf.Tensor
    is_mirrored: tf.Tensor | None

    @property
    def extent(self) -> tf.Tensor:
        """Height and width in decoded pixels, float32 `[2]`: not whole where the last is cut."""
        return tf.cast(self.size, tf.float32) / self.ratio

    def in_pixels(self, corners: tf.Tensor) -> tf.Tensor:
        """Returns corners within `extent`, float32 `[4]`, counted from the first of `pixels`."""
        if self.is_mirrored is None:
            return corners
        missing = tf.cast(tf.shape(self.pixels)[1:3], tf.float32) - self.extent
        return corners + tf.tile(tf.where(self.is_mirrored, missing, 0.0), [2])


class DecodedParts:
    """One file, decoded once at every part of its size that is asked for.

    Args:
      file: the result of `opened_file`.
      halvings: int32 `[any]`, all that will be asked for: 0 to 3.
      options: for the channels.
    """

    def __init__(self, file: File, halvings: tf.Tensor, options: ImageOptions) -> None:
        # No JPEG has an alpha channel: where one is asked for, `decode_image` is to say so.
        self._last = 0 if options.num_channels == 4 else MAX_HALVINGS
        self._file, self._options = file, options
        wanted = tf.minimum(halvings, self._last)
        self._parts = [self._decode(number, wanted) for number in range(self._last + 1)]
        # Formats other than JPEG show their size only once they are decoded.
        self._size = tf.where(file.size > 0, file.size, tf.shape(self._parts[0])[:2])

    def _decode(self, number: int, wanted: tf.Tensor) -> tf.Tensor:
        """Returns the pixels after so many halvings; none for a number that nobody asks for."""
        data, _, orientation = self._file

        def decoded() -> tf.Tensor:
            pixels = decode_as_stored(data, self._options, 2**number)
            return pixels if orientation is None else upright(pixels, orientation)

        return tf.cond(
            tf.reduce_any(tf.equal(wanted, number)),
            decoded,
            lambda: tf.zeros([0, 0, self._options.num_channels], tf.uint8),
        )

    def part(self, halvings: tf.Tensor) -> Part:
        """Returns the part for one of the halvings asked for, int32 `[]`."""
        number = tf.minimum(halvings, self._last)
        pixels = tf.switch_case(
            number, [functools.partial(tf.identity, one) for one in self._parts]
        )
        pixels.set_shape((None, None, self._options.num_channels))
        ratio = tf.cast(tf.bitwise.left_shift(1, number), tf.float32)
        orientation = self._file.orientation
        mirrored = None if orientation is None else is_mirrored(orientation)
        return Part(pixels[None], self._size, ratio, mirrored)


def fit_part(part: Part, options: ImageOptions) -> tf.Tensor:
    """Brings a part of an image to the size asked for, float32 `[1, height, width, channels]`."""
    placement = placement_of((part.size[0], part.size[1]), options)
    window = placement.window
    corners = tf.stack([0, 0, *tf.unstack(part.size)] if window is None else window)
    corners = part.in_pixels(tf.cast(corners, tf.float32) / part.ratio)
    images = resample(part.pixels, corners, placement.size, options)
    return finished(images, placement, options)


def size_in_file(data: tf.Tensor) -> tf.Tensor:
    """Returns int32 `[2]`, height and width of a JPEG; zeros for files of all other formats.

    TensorFlow reads the header alone: 10 µs, also of a progressive JPEG.
    """
    return tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.extract_jpeg_shape(data)[:2],
        lambda: tf.zeros([2], tf.int32),
    )


def halvings_of_image(size: tf.Tensor, options: ImageOptions) -> tf.Tensor:
    """Returns how often decoding halves each side of a whole image, int32 `[]`, 0 to 3.

    With `pad_to_aspect_ratio` one large enough side will do, since the other is shortened with it.

    Args:
      size: int32 `[2]`, height and width of the image in the file.
      options: the size asked for.
    """
    needed, margin = tf.constant(options.image_size), tf.constant(MARGIN)
    enough = tf.reduce_any if options.pad_to_aspect_ratio else tf.reduce_all
    large = [enough(size * margin[1] >= needed * margin[0] * ratio) for ratio in _RATIOS]
    return tf.add_n([tf.cast(one, tf.int32) for one in large])


def halvings_of_crops(size: tf.Tensor, boxes: tf.Tensor, options: ImageOptions) -> tf.Tensor:
    """Returns how often decoding halves each side for crops of an image, int32 `[crops]`, 0 to 3.

    Args:
      size, options: as in `halvings_of_image`.
      boxes: float32 `[crops, 4]`, y1, x1, y2, x2, from 0 to 1.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]) * tf.cast(size * MARGIN[1], tf.float32)
    needed = tf.constant([float(side * MARGIN[0]) for side in options.image_size])
    large = [tf.reduce_all(sides >= needed * ratio, axis=1) for ratio in _RATIOS]
    return tf.add_n([tf.cast(one, tf.int32) for one in large])


def resample(
    images: tf.Tensor, corners: tf.Tensor, image_size: Any, options: ImageOptions
) -> tf.Tensor:
    """Returns a window of images, resized with antialiasing.

    Args:
      images: uint8 `[images, any height, any width, channels]`.
      corners: float32 `[4]`, the window in pixels: top, left, bottom, right. A corner may lie
        within a pixel; nothing beyond that pixel counts.
      image_size: height and width to return, two numbers or int32 `[2]`.
      options: the kernel. Where the window is made larger, it interpolates.

    Returns:
      float32 `[images, height, width, channels]`.
    """
    start, end = corners[:2], corners[2:]
    last = tf.shape(images)[1:3] - 1
    first = tf.clip_by_value(tf.cast(tf.floor(start), tf.int32), 0, last)
    stop = tf.clip_by_value(tf.cast(tf.math.ceil(end), tf.int32), first + 1, last + 1)
    size = tf.convert_to_tensor(image_size, tf.int32)
    scale = tf.cast(size, tf.float32) / tf.maximum(end - start, _MIN_SIDE_PX)
    return tf.raw_ops.ScaleAndTranslate(
        images=images[:, first[0] : stop[0], first[1] : stop[1]],
        size=size,
        scale=scale,
        translation=(tf.cast(first, tf.float32) - start) * scale,
        kernel_type=_KERNELS.get(options.interpolation, options.interpolation),
        antialias=True,
    )
