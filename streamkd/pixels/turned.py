"""Turns decoded images upright, in the graph: those whose bytes `orientation.marked` has marked.

    data, number = opened(data)              # the file's own bytes, and how its image is turned
    image = upright(image, number)

The same pixels as those of Pillow's `ImageOps.exif_transpose`, in another place.
"""

from __future__ import annotations

import tensorflow as tf

from streamkd.pixels.orientation import MARK, UPRIGHT

# Largest length for `tf.strings.substr`: all that follows.
_ALL = 2**31 - 1
# Numbers of the turns that exchange rows and columns, and then mirror the columns, or the rows.
_EXCHANGED, _COLUMNS, _ROWS = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)


def opened(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the bytes behind the mark, string `[]`, and the orientation, int32 `[]`, 1 to 8."""

    def behind_mark() -> tuple[tf.Tensor, tf.Tensor]:
        digit = tf.strings.substr(data, len(MARK), 1)
        return tf.strings.substr(data, len(MARK) + 1, _ALL), tf.strings.to_number(digit, tf.int32)

    is_marked = tf.equal(tf.strings.substr(data, 0, len(MARK)), MARK)
    return tf.cond(is_marked, behind_mark, lambda: (tf.identity(data), tf.constant(UPRIGHT)))


def upright(image: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Returns an image `[rows, columns, channels]` as it is to be seen.

    Args:
      image: as the file has it.
      number: the orientation, int32 `[]`, 1 to 8.
    """
    shape = (None, None, image.shape[2])

    def turned() -> tf.Tensor:
        exchanged = tf.cond(
            _is_one_of(number, _EXCHANGED),
            lambda: tf.transpose(image, (1, 0, 2)),
            lambda: tf.identity(image),
        )
        axes = [_is_one_of(number, _ROWS), _is_one_of(number, _COLUMNS), tf.constant(False)]
        return tf.raw_ops.Reverse(tensor=exchanged, dims=tf.stack(axes))

    image = tf.cond(tf.equal(number, UPRIGHT), lambda: tf.identity(image), turned)
    return tf.ensure_shape(image, shape)


def upright_size(size: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Returns height and width, int32 `[2]`, of the upright image; `size` is that in the file."""
    return tf.where(_is_one_of(number, _EXCHANGED), size[::-1], size)


def is_mirrored(number: tf.Tensor) -> tf.Tensor:
    """Returns whether rows and columns of the upright image run against the file's, bool `[2]`."""
    return tf.stack([_is_one_of(number, _ROWS), _is_one_of(number, _COLUMNS)])


def _is_one_of(number: tf.Tensor, numbers: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(tf.equal(number, tf.constant(numbers)))
