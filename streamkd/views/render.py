"""Renders views: from files and stored parameters to the pixels that teacher and student see.

    pixels = render_block(file_bytes, one_size, parameters, partners, views, options)  # a teacher's
    pixels = render_rows(crops, parameters, operation)                                 # a student's

A view is cropped, changed (mirrored, coloured, then the user's own operation), mixed and erased, by
the same code for teacher and student. All boxes are relative, so that the two may differ in
resolution. Nothing here draws a random number: parameters come from the store.
"""

from __future__ import annotations

import dataclasses
import functools

import tensorflow as tf

from streamkd.errors import OptionError
from streamkd.image_options import ImageOptions
from streamkd.pixels.decode import decoder_of
from streamkd.pixels.exact_decode import crops_of_images, fit
from streamkd.tf_support.autograph import converted
from streamkd.views.operation import ViewOperation
from streamkd.views.views import Views

# The value of erased pixels, the middle of 0 to 255.
GREY = 127.5
# Luminance of red, green and blue (ITU-R BT.601), as in Pillow's conversion to grey.
_LUMINANCE = (0.299, 0.587, 0.114)


def render_block(
    file_bytes: tf.Tensor,
    one_size: tf.Tensor,
    parameters: dict[str, tf.Tensor],
    partners: tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]] | None,
    views: Views,
    options: ImageOptions,
    canonical: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns every view of a block's images, as the teacher is shown them.

    Args:
      file_bytes, one_size: the files, as in `decode_batch`.
      parameters: of each view, `[files, num_views, …]`, as they are stored.
      partners: where views are mixed, file_bytes, one_size and parameters of the partners of all
        views but the plain one: string `[files * (num_views - 1)]`, bool, and
        `[files * (num_views - 1), …]`.
      views: the specification; an operation comes with its function.
      options: how files become pixels.
      canonical: the files at the canonical size, uint8 `[files, height, width, channels]`, if they
        are decoded already.

    Returns:
      float32 `[files * num_views, height, width, channels]`, in the order of the store's rows.
    """
    num_views, shape = views.num_views, options.shape
    decoder = decoder_of(options, canonical_options(views, options))
    if "view_crop" in parameters and canonical is not None:
        pixels = crops_of_images(canonical, parameters["view_crop"], options, plain_first=True)
    elif "view_crop" in parameters:
        boxes = parameters["view_crop"]
        pixels = decoder.crops(file_bytes, one_size, boxes, plain_first=True)
    elif canonical is not None:
        pixels = tf.repeat(fit(canonical, options), num_views, axis=0)
    else:
        pixels = tf.repeat(decoder.whole(file_bytes, one_size), num_views, axis=0)
    pixels = tf.reshape(pixels, (-1, *shape))
    rows = {name: tf.reshape(p, (-1, *p.shape[2:])) for name, p in parameters.items()}
    pixels = change(pixels, rows, views.operation)
    if partners is not None:
        other_bytes, others_one_size, other_rows = partners
        if "view_crop" in other_rows:
            boxes = other_rows["view_crop"][:, None]
            others = decoder.crops(other_bytes, others_one_size, boxes)
        else:
            others = decoder.whole(other_bytes, others_one_size)
        others = change(tf.reshape(others, (-1, *shape)), other_rows, views.operation)
        # The plain view is mixed with itself, which changes nothing.
        plain = tf.reshape(pixels, (-1, num_views, *shape))[:, :1]
        others = tf.concat([plain, tf.reshape(others, (-1, num_views - 1, *shape))], axis=1)
        pixels = mix(pixels, tf.reshape(others, (-1, *shape)), mixing_of(rows))
    return erase(pixels, rows)


def render_rows(
    crops: tf.Tensor, parameters: dict[str, tf.Tensor], operation: ViewOperation | None
) -> tf.Tensor:
    """Returns the rows of a batch with all that their views do after the crop.

    Args:
      crops: float32 `[rows, height, width, channels]`, 0 to 255. Where views are mixed, the rows
        stand in pairs of partners.
      parameters: of each row, `[rows, …]`, as they are stored; other names are ignored.
      operation: the user's own operation, with its function; None where the views have none.
    """
    pixels = change(crops, parameters, operation)
    if "view_share" in parameters:  # where both of a pair are shown plain, each has a share of 1
        pixels = mix(pixels, swapped(pixels), mixing_of(parameters))
    return erase(pixels, parameters)


def swapped(values: tf.Tensor) -> tf.Tensor:
    """Returns `[rows, …]` with the two of each pair in each other's row."""
    shape = values.shape
    return tf.reshape(tf.reverse(tf.reshape(values, (shape[0] // 2, 2, -1)), [1]), shape)


def canonical_options(views: Views, options: ImageOptions) -> ImageOptions | None:
    """Returns how images are brought to the canonical size of the views; None without one."""
    if views.canonical_size is None:
        return None
    return dataclasses.replace(options, image_size=views.canonical_size)


def cached_options(views: Views, options: ImageOptions) -> ImageOptions:
    """Returns how cached images are made: at the canonical size, or at the size that is shown.

    Raises:
      OptionError: views that are not cut from one size.
    """
    if views.count and views.canonical_size is None:
        raise OptionError(
            "The pixel cache keeps images of one size, and these views are cut from the files' own "
            "pixels.\nTeach a store of views that are cut from one size: "
            "`streamkd teach … --canonical-size 256x256`; or leave the cache out."
        )
    return canonical_options(views, options) or options


def change(
    pixels: tf.Tensor, parameters: dict[str, tf.Tensor], operation: ViewOperation | None
) -> tf.Tensor:
    """Returns pixels mirrored, coloured and operated on, as they are before mixing.

    Args:
      pixels: float32 `[rows, height, width, channels]`, 0 to 255.
      parameters: of each row, those that the views have of `view_flip`, `view_color`, `view_seed`.
      operation: as in `render_rows`.
    """
    flip_and_color = {n: p for n, p in parameters.items() if n in ("view_flip", "view_color")}
    if flip_and_color:
        pixels = _mirror_and_color(pixels, flip_and_color)
    if "view_seed" in parameters:
        assert operation is not None
        pixels = _operate(pixels, parameters["view_seed"], operation)
    return pixels


# Compiled, so that no temporary batches are made: a flip alone takes two of them otherwise. Each
# step is compiled by itself, so that teacher and student, who go through the same steps with other
# numbers of rows, get the same bits. A step is traced and compiled once a process for one shape of
# its arguments, however many datasets show it.


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _mirror_and_color(pixels: tf.Tensor, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
    if "view_flip" in parameters:
        mirrored = parameters["view_flip"][:, None, None, None] > 0
        pixels = tf.where(mirrored, tf.reverse(pixels, [2]), pixels)
    if "view_color" in parameters:
        pixels = _color(pixels, parameters["view_color"])
    return pixels


@functools.partial(tf.function, jit_compile=True, autograph=False)
def mix(pixels: tf.Tensor, partners: tf.Tensor, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns pixels mixed with those of their partners: pasted into a box, or faded.

    Args:
      pixels: float32 `[rows, height, width, channels]`, after `change`.
      partners: pixels of each row's partner; the row itself where it is not mixed.
      parameters: `view_share` and, with cutmix, `view_paste`.
    """
    share = parameters["view_share"][:, None, None, None]
    if "view_paste" not in parameters:
        return share * pixels + (1 - share) * partners
    boxes = parameters["view_paste"]
    pasted = tf.where(inside(boxes, pixels.shape[1:3]), partners, pixels)
    has_box = (boxes[:, 2] > boxes[:, 0])[:, None, None, None]
    return tf.where(has_box, pasted, share * pixels + (1 - share) * partners)


def mixing_of(parameters: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the parameters that `mix` takes."""
    return {n: p for n, p in parameters.items() if n in ("view_share", "view_paste")}


def erase(pixels: tf.Tensor, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns pixels with the box of `view_erase` grey, where the views have one."""
    if "view_erase" not in parameters:
        return pixels
    return _erase_boxes(pixels, parameters["view_erase"])


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _erase_boxes(pixels: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    return tf.where(inside(boxes, pixels.shape[1:3]), GREY, pixels)


def inside(boxes: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """Returns bool `[rows, height, width, 1]`, the pixels whose centres lie in each row's box.

    Args:
      boxes: float32 `[rows, 4]`, y1, x1, y2, x2, from 0 to 1; an empty box holds no pixel.
      image_size: height and width.
    """
    height, width = image_size
    y = ((tf.range(height, dtype=tf.float32) + 0.5) / height)[None, :, None, None]
    x = ((tf.range(width, dtype=tf.float32) + 0.5) / width)[None, None, :, None]
    y1, x1, y2, x2 = (edge[:, None, None, None] for edge in tf.unstack(boxes, axis=1))
    return (y >= y1) & (y < y2) & (x >= x1) & (x < x2)


def seeds_of(view_seeds: tf.Tensor) -> tf.Tensor:
    """Returns stored seeds, uint64 `[rows]`, as TensorFlow's stateless draws take them.

    The result is int32 `[rows, 2]`, the lower half first.
    """
    return tf.bitcast(view_seeds, tf.int32)


def _operate(pixels: tf.Tensor, view_seeds: tf.Tensor, operation: ViewOperation) -> tf.Tensor:
    """Returns pixels after the user's operation, clipped to 0 to 255; rows of seed 0 are plain."""
    assert operation.function is not None
    changed = converted(operation.function)(pixels, seeds_of(view_seeds))
    changed = tf.clip_by_value(tf.ensure_shape(changed, pixels.shape), 0, 255)
    plain = tf.equal(view_seeds, 0)[:, None, None, None]
    # A student's batch seldom has a plain row, and choosing by row takes 10 µs an image of 32×32.
    return tf.cond(tf.reduce_any(plain), lambda: tf.where(plain, pixels, changed), lambda: changed)


def _color(pixels: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Returns pixels with brightness, contrast and saturation multiplied, clipped to 0 to 255.

    The order is that of torchvision's ColorJitter: contrast fades to the image's mean grey,
    saturation to each pixel's own grey.
    """
    brightness, contrast, saturation = (
        factor[:, None, None, None] for factor in tf.unstack(factors, axis=1)
    )
    pixels = tf.clip_by_value(pixels * brightness, 0, 255)
    mean = tf.reduce_mean(_grey(pixels), axis=(1, 2), keepdims=True)
    pixels = tf.clip_by_value(contrast * pixels + (1 - contrast) * mean, 0, 255)
    return tf.clip_by_value(saturation * pixels + (1 - saturation) * _grey(pixels), 0, 255)


def _grey(pixels: tf.Tensor) -> tf.Tensor:
    """Returns the luminance, `[rows, height, width, 1]`; of grey images the pixels themselves."""
    if pixels.shape[-1] < 3:
        return pixels[..., :1]
    return tf.reduce_sum(pixels[..., :3] * tf.constant(_LUMINANCE), axis=-1, keepdims=True)
