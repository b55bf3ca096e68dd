"""decode='scaled': large photographs are decoded at a part of their size, then resized smoothly.

    halvings = halvings_of_image(size_in_file(data), options)     # 0 to 3: 1/1, 1/2, 1/4 or 1/8
    pixels = resample(decoded, corners, (224, 224), options)

A JPEG decoder gives an image at 1/2, 1/4 or 1/8 of its size for little more than the price of
reading the file's codes. What is left of the way is done by antialiased resizing, in which every
pixel of the decoded image counts. Keras' loader makes a pixel of four, wherever it comes from: of a
photograph of 12 megapixels at 224×224 more than 98 in 100 play no part.

At which part a file is decoded depends on its size, on the size asked for and, of a view, on its
own crop: never on the other files of a batch or the other views of a file. So teacher and student,
who ask for different views at once, see the same pixels of each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from streamkd.image_options import ImageOptions

# How often the decoder can halve an image.
MAX_HALVINGS = 3
# A side of the decoded image is at least 4/3 of the side asked for. PSNR against antialiased full
# decoding is then 38 dB and more (37 where colours are halved in one direction) for photographs
# with detail in every pixel; without a margin it is 32.
MARGIN = (4, 3)
_RATIOS = [2**halvings for halvings in range(1, MAX_HALVINGS + 1)]
# What `tf.image.resize` calls the kernel, where it has another name.
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}
# A crop of less than this many decoded pixels is taken as this large.
_MIN_SIDE_PX = 1e-3


class Original(NamedTuple):
    """How the pixels that were decoded of one file lie in it.

    Attributes:
      size: int32 `[2]`, height and width of the image in the file.
      ratio: float32 `[]`, 1, 2, 4 or 8, how many of its pixels in each direction a decoded one
        stands for; the last one may stand for less.
    """

    size: tf.Tensor
    ratio: tf.Tensor

    @property
    def extent(self) -> tf.Tensor:
        """Height and width in decoded pixels, float32 `[2]`: not whole where the last is less."""
        return tf.cast(self.size, tf.float32) / self.ratio


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
    """Returns how often each side is halved in decoding a whole image, int32 `[]`, 0 to 3.

    Args:
      size: int32 `[2]`, height and width of the image in the file.
      options: the size asked for. With `pad_to_aspect_ratio` one side has to be large enough, since
        the other is shortened with it.
    """
    needed, margin = tf.constant(options.image_size), tf.constant(MARGIN)
    enough = tf.reduce_any if options.pad_to_aspect_ratio else tf.reduce_all
    large = [enough(size * margin[1] >= needed * margin[0] * ratio) for ratio in _RATIOS]
    return tf.add_n([tf.cast(one, tf.int32) for one in large])


def halvings_of_crops(size: tf.Tensor, boxes: tf.Tensor, options: ImageOptions) -> tf.Tensor:
    """Returns the same for crops of an image, int32 `[crops]`, each by itself.

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
      corners: float32 `[4]`, the window in pixels: top, left, bottom, right. Its corners may lie
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
