"""Turns the bytes of files into pixels inside a TensorFlow graph, a whole batch at a time.

    images, digests = decode_batch(file_bytes, one_size, options)      # file_bytes: string [batch]

One map call decodes a whole batch: for small files that is about 2.5 times faster than one call
an image, since tf.data's own work for each element dominates there.

Pixels are those of `image_dataset_from_directory`: `tf.io.decode_image`, then `tf.image.resize`
without antialiasing, float32 from 0 to 255. EXIF rotation is ignored, as Keras ignores it. A
file that TensorFlow does not decode has become a PNG before (`pixels/pillow_fallback.py`). With
decode='scaled' the pixels differ: `pixels/scaled_decode.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.pixels.scaled_decode import (
    MAX_HALVINGS,
    Original,
    halvings_of_image,
    resample,
    size_in_file,
)

# Larger batches are decoded in a loop: a graph of one operation a file takes seconds to trace.
MAX_UNROLLED_FILES = 256
# Interpolations that change nothing where an image has the size asked for; the others blur it, or
# differ in the last bits.
_KEEP_PIXELS = ("bilinear", "nearest", "area")


def decode_batch(
    file_bytes: tf.Tensor,
    one_size: tf.Tensor,
    options: ImageOptions,
    digests: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the pixels and the content digests of some files.

    Args:
      file_bytes: string `[batch]`, the bytes of each file.
      one_size: bool, whether the headers say that all images have one size. Then the decoder is
        called without a loop and all images are resized in one operation, for the same pixels:
        about 38 µs of CPU a file of CIFAR-10 instead of 48.
      options: how bytes become pixels.
      digests: as in `content_digests`.

    Returns:
      images, float32 `[batch, height, width, channels]`, 0 to 255; and content digests,
      uint64 `[batch]`, FarmHash64 of each file's bytes.

    Raises (when run):
      tf.errors.InvalidArgumentError: a file cannot be decoded. TensorFlow does not name it;
        `refuse_bad_image` does.
    """

    def render(pixels: tf.Tensor, original: Original | None = None) -> tf.Tensor:
        return fit(pixels, options, original)

    images = decode_through((file_bytes,), one_size, options, render, options.shape)
    return images, content_digests(file_bytes, digests)


def decode_through(
    elements: tuple[tf.Tensor, ...],
    one_size: tf.Tensor,
    options: ImageOptions,
    render: Callable[..., tf.Tensor],
    shape: tuple[int, ...],
) -> tf.Tensor:
    """Returns what `render` makes of the pixels of some files: together where they have one size.

    Args:
      elements: string `[batch]`, the bytes of each file, and whatever else `render` takes of each.
      one_size: as in `decode_batch`.
      options: how bytes become pixels.
      render: given uint8 `[some, any height, any width, channels]` and the same images' part of
        the other elements, returns float32 `[some, *shape]`. With decode='scaled' it is given the
        images one by one, with the keyword `original`.
      shape: of what is made of one file.

    Returns:
      float32 `[batch, *shape]`.
    """
    file_bytes, *others = elements
    batch_size = file_bytes.shape[0]

    def render_each() -> tf.Tensor:
        def render_one(parts: tuple[tf.Tensor, ...]) -> tf.Tensor:
            data, *rest = parts

            def render_pixels(pixels: tf.Tensor, **original: Original) -> tf.Tensor:
                return render(pixels, *(part[None] for part in rest), **original)

            return _decode_one(data, options, render_pixels, shape)

        return tf.map_fn(render_one, elements, fn_output_signature=tf.TensorSpec(shape, tf.float32))

    def render_together() -> tf.Tensor:
        files = tf.unstack(file_bytes, batch_size)
        return render(tf.stack([decode_pixels(data, options) for data in files]), *others)

    if batch_size is None or batch_size > MAX_UNROLLED_FILES or options.decode == "scaled":
        images = render_each()
    else:
        images = tf.cond(one_size, render_together, render_each)
    return tf.ensure_shape(images, (batch_size, *shape))


def content_digests(file_bytes: tf.Tensor, known: tf.Tensor | None = None) -> tf.Tensor:
    """Returns FarmHash64 of each file's bytes, uint64 `[batch]`.

    Args:
      file_bytes: string `[batch]`.
      known: uint64 `[batch]`, the digest of each original file for which another image stands in;
        0 for the others. See `pixels/file_batch.py`.
    """
    digests = tf.bitcast(tf.fingerprint(file_bytes, method="farmhash64"), tf.uint64)
    if known is None:
        return digests
    return tf.where(tf.not_equal(known, 0), known, digests)


def decode(data: tf.Tensor, options: ImageOptions) -> tf.Tensor:
    """Returns float32 `[height, width, channels]`, 0 to 255, for the bytes of one file."""
    return _decode_one(data, options, functools.partial(fit, options=options), options.shape)


def _decode_one(
    data: tf.Tensor,
    options: ImageOptions,
    render: Callable[..., tf.Tensor],
    shape: tuple[int, ...],
) -> tf.Tensor:
    """Returns what `render` makes of one file; arguments as in `decode_through`."""
    if options.decode == "exact":
        return render(decode_pixels(data, options)[None])[0]

    size = size_in_file(data)
    halvings = halvings_of_image(size, options)
    pixels, original = decode_parts(data, size, halvings[None], options)(halvings)
    return render(pixels, original=original)[0]


def decode_pixels(data: tf.Tensor, options: ImageOptions, ratio: int = 1) -> tf.Tensor:
    """Returns the pixels of one file, uint8 `[height, width, channels]`.

    Args:
      data: string `[]`, its bytes.
      options: for the channels.
      ratio: 1 for the pixels as they are in the file; of a JPEG also 2, 4 or 8, for one pixel in
        the place of so many in each direction.
    """
    if ratio == 1:
        image = tf.io.decode_image(data, channels=options.num_channels, expand_animations=False)
    else:
        image = tf.image.decode_jpeg(data, channels=options.num_channels, ratio=ratio)
    image.set_shape((None, None, options.num_channels))
    return image


def decode_parts(
    data: tf.Tensor, size: tf.Tensor, halvings: tf.Tensor, options: ImageOptions
) -> Callable[[tf.Tensor], tuple[tf.Tensor, Original]]:
    """Decodes one file at every part of its size that is wanted, once each.

    Args:
      data: string `[]`, its bytes.
      size: what `size_in_file` said.
      halvings: int32 `[any]`, all that will be asked for: 0 to 3.
      options: for the channels.

    Returns:
      A function from one of `halvings` to pixels, uint8 `[1, any height, any width, channels]`, and
      what they are of.
    """
    # No JPEG has an alpha channel: where one is asked for, `decode_image` is to say so.
    last = 0 if options.num_channels == 4 else MAX_HALVINGS
    halvings = tf.minimum(halvings, last)

    def part(number: int) -> tf.Tensor:
        return tf.cond(
            tf.reduce_any(tf.equal(halvings, number)),
            lambda: decode_pixels(data, options, 2**number),
            lambda: tf.zeros([0, 0, options.num_channels], tf.uint8),
        )

    parts = [part(number) for number in range(last + 1)]
    # Of other formats than JPEG the size is known when all is decoded.
    size = tf.where(size > 0, size, tf.shape(parts[0])[:2])

    def decoded(number: tf.Tensor) -> tuple[tf.Tensor, Original]:
        number = tf.minimum(number, last)
        pixels = tf.switch_case(number, [functools.partial(tf.identity, one) for one in parts])
        pixels.set_shape((None, None, options.num_channels))
        return pixels[None], Original(size, tf.cast(tf.bitwise.left_shift(1, number), tf.float32))

    return decoded


def fit(images: tf.Tensor, options: ImageOptions, original: Original | None = None) -> tf.Tensor:
    """Brings images of one size to the size asked for.

    Args:
      images: uint8 `[batch, any height, any width, channels]`.
      options: the size, and how to get there.
      original: where they come from with decode='scaled', which resizes with antialiasing; None
        for images that are resized as Keras does.

    Returns:
      float32 `[batch, height, width, channels]`, 0 to 255.
    """
    if options.pad_to_aspect_ratio:
        images = _resize_with_borders(images, options, original)
    else:
        window = None
        if options.crop_to_aspect_ratio:
            window = _central_window(_size(images, original), options.image_size)
        images = _resize(images, window, options.image_size, options, original)
    images = tf.cast(images, tf.float32)  # 'nearest' keeps uint8
    return tf.ensure_shape(images, (None, *options.shape))


def _size(images: tf.Tensor, original: Original | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns height and width of images, as they are in their file."""
    if original is None:
        return tf.shape(images)[1], tf.shape(images)[2]
    return original.size[0], original.size[1]


def _resize(
    images: tf.Tensor,
    window: tuple[tf.Tensor, ...] | None,
    image_size: Any,
    options: ImageOptions,
    original: Original | None,
) -> tf.Tensor:
    """Returns a window of images at another size.

    Args:
      images, options, original: as in `fit`.
      window: its top, left, bottom and right in the file's pixels, int32; None for all of it.
      image_size: height and width to return.
    """
    if original is None:
        if window is not None:
            top, left, bottom, right = window
            images = images[:, top:bottom, left:right]
        return _resize_whole(images, image_size, options.interpolation)
    corners = tf.stack([0, 0, *tf.unstack(original.size)] if window is None else window)
    return resample(images, tf.cast(corners, tf.float32) / original.ratio, image_size, options)


def _resize_whole(images: tf.Tensor, image_size: Any, method: str) -> tf.Tensor:
    """Returns what `tf.image.resize` does; images that have the size already are only copied.

    Such as those of CIFAR-10, of which 33 µs are then 27.
    """
    if method not in _KEEP_PIXELS:
        return tf.image.resize(images, image_size, method=method)
    return tf.cond(
        tf.reduce_all(tf.shape(images)[1:3] == image_size),
        lambda: tf.cast(images, tf.float32),
        lambda: tf.cast(tf.image.resize(images, image_size, method=method), tf.float32),
    )


# Whole numbers below, where Keras has float32: TensorFlow may turn a division into a multiplication
# by the reciprocal when it compiles a graph, and the same image would come out a pixel narrower.


def _central_window(
    size: tuple[tf.Tensor, tf.Tensor], image_size: tuple[int, int]
) -> tuple[tf.Tensor, ...]:
    """Returns the largest central window of the target's shape, rounded as Keras rounds."""
    height, width = size
    window_height, window_width = _window(height, width, image_size)
    top, left = (height - window_height) // 2, (width - window_width) // 2
    return top, left, top + window_height, left + window_width


def _resize_with_borders(
    images: tf.Tensor, options: ImageOptions, original: Original | None
) -> tf.Tensor:
    """Returns what `tf.image.resize_with_pad` does: resized, then centred between black borders."""
    image_size = options.image_size
    height, width = _size(images, original)
    resized = _window(image_size[0], image_size[1], (height, width))
    top = tf.maximum(image_size[0] * width - height * image_size[1], 0) // (2 * width)
    left = tf.maximum(image_size[1] * height - width * image_size[0], 0) // (2 * height)
    images = _resize(images, None, resized, options, original)
    return tf.image.pad_to_bounding_box(images, top, left, *image_size)


def _window(height: Any, width: Any, shape: tuple[Any, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns height and width of the largest window of the shape's ratio; 1 at the least."""
    window_height = tf.minimum(height, width * shape[0] // shape[1])
    window_width = tf.minimum(width, height * shape[1] // shape[0])
    return tf.maximum(window_height, 1), tf.maximum(window_width, 1)
