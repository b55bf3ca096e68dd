"""Renders views: pixels of files and stored parameters in, what teacher and student see out.

    pixels = cut(decoded, boxes, options)                   # crops, at the size that is asked for
    pixels = change(pixels, parameters, operation)          # mirrored, coloured, the user's own
    pixels = erase(mix(pixels, partners, mixing_of(parameters)), parameters)

One code path for teacher and student. All boxes are relative, so that the two may differ in
resolution. Nothing here draws a random number: parameters come from the store, see `views.py`.
"""

from __future__ import annotations

import dataclasses
import functools

import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.pixels.decode import decode_parts, decode_through, fit
from streamkd.pixels.scaled_decode import (
    Original,
    halvings_of_crops,
    halvings_of_image,
    resample,
    size_in_file,
)
from streamkd.tf_support.autograph import converted
from streamkd.views.operation import ViewOperation
from streamkd.views.views import Views

# What an erased box is filled with: the middle of 0 to 255.
GREY = 127.5
# Luminance of red, green and blue (ITU-R BT.601), as in Pillow's conversion to grey.
_LUMINANCE = (0.299, 0.587, 0.114)


def decode_views(
    file_bytes: tf.Tensor,
    one_size: tf.Tensor,
    boxes: tf.Tensor | None,
    canonical: ImageOptions | None,
    options: ImageOptions,
    *,
    plain_first: bool = False,
) -> tf.Tensor:
    """Returns crops of some files, each decoded once.

    Args:
      file_bytes: string `[files]`, the bytes of each file.
      one_size: bool, whether the headers say that all images have one size.
      boxes: float32 `[files, views, 4]`, the crops of each file: y1, x1, y2, x2, from 0 to 1; or
        None for the whole image, once.
      canonical: brings every image to one size first, rounded to whole numbers, as the pixel cache
        keeps it; None to cut from the file's own pixels.
      options: how files are decoded, and the size to return.
      plain_first: the first view of each file is the plain image, whatever its box.

    Returns:
      float32 `[files, views, height, width, channels]`, 0 to 255.
    """
    num_views = 1 if boxes is None else boxes.shape[1]
    if options.decode == "scaled" and boxes is not None and canonical is None:
        return _decode_scaled_crops(file_bytes, boxes, options, plain_first)

    def render(
        images: tf.Tensor, some: tf.Tensor | None = None, original: Original | None = None
    ) -> tf.Tensor:
        if some is None:
            return fit(images, options, original)[:, None]
        if not plain_first:
            return cut(images, some, options)
        return tf.concat([fit(images, options)[:, None], cut(images, some[:, 1:], options)], 1)

    if canonical is not None:
        return render(decode_canonical(file_bytes, one_size, canonical), boxes)
    elements = (file_bytes,) if boxes is None else (file_bytes, boxes)
    return decode_through(elements, one_size, options, render, (num_views, *options.shape))


def _decode_scaled_crops(
    file_bytes: tf.Tensor, boxes: tf.Tensor, options: ImageOptions, plain_first: bool
) -> tf.Tensor:
    """Returns crops of files that are decoded at a part of their size, each as its box asks for.

    Antialiased as the whole image is: `cut` would leave 25 dB of PSNR where this leaves 42.

    Args and result: as in `decode_views`.
    """
    shape = (boxes.shape[1], *options.shape)
    one_view = tf.TensorSpec(options.shape, tf.float32)

    def render_one(element: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        data, some = element
        size = size_in_file(data)
        halvings = halvings_of_crops(size, some, options)
        if plain_first:
            plain = halvings_of_image(size, options)
            halvings = tf.concat([plain[None], halvings[1:]], axis=0)
        decoded = decode_parts(data, size, halvings, options)

        def render_crop(view: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            box, number = view
            pixels, original = decoded(number)
            corners = box * tf.tile(original.extent, [2])
            return resample(pixels, corners, options.image_size, options)[0]

        if not plain_first:
            return tf.map_fn(render_crop, (some, halvings), fn_output_signature=one_view)
        crops = tf.map_fn(render_crop, (some[1:], halvings[1:]), fn_output_signature=one_view)
        pixels, original = decoded(plain)
        return tf.concat([fit(pixels, options, original), crops], axis=0)

    views = tf.map_fn(
        render_one, (file_bytes, boxes), fn_output_signature=tf.TensorSpec(shape, tf.float32)
    )
    return tf.ensure_shape(views, (file_bytes.shape[0], *shape))


def decode_canonical(
    file_bytes: tf.Tensor, one_size: tf.Tensor, canonical: ImageOptions
) -> tf.Tensor:
    """Returns files brought to the canonical size, as a pixel cache keeps them.

    Args:
      file_bytes, one_size: as in `decode_views`.
      canonical: the size, and how to get there.

    Returns:
      uint8 `[files, height, width, channels]`.
    """

    def fit_rounded(images: tf.Tensor, original: Original | None = None) -> tf.Tensor:
        return tf.round(tf.clip_by_value(fit(images, canonical, original), 0, 255))

    pixels = decode_through((file_bytes,), one_size, canonical, fit_rounded, canonical.shape)
    return tf.cast(pixels, tf.uint8)


def render_block(
    file_bytes: tf.Tensor,
    one_size: tf.Tensor,
    parameters: dict[str, tf.Tensor],
    partners: tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]] | None,
    views: Views,
    options: ImageOptions,
) -> tf.Tensor:
    """Returns every view of some images, as the teacher is shown them.

    Args:
      file_bytes, one_size: of the files, as in `decode_views`.
      parameters: `[files, num_views, …]`, as they are stored.
      partners: where views are mixed, file_bytes, one_size and parameters of the partners of views
        1 and on: string `[files * (num_views - 1)]`, bool, and `[files * (num_views - 1), …]`.
      views: their specification; an operation comes with its function.
      options: how files become pixels.

    Returns:
      float32 `[files * num_views, height, width, channels]`, in the order of the store's rows.
    """
    num_views, shape = views.num_views, options.shape
    canonical = canonical_options(views, options)
    pixels = decode_views(
        file_bytes, one_size, parameters.get("view_crop"), canonical, options, plain_first=True
    )
    if "view_crop" not in parameters:
        pixels = tf.repeat(pixels, num_views, axis=1)
    pixels = tf.reshape(pixels, (-1, *shape))
    rows = {name: tf.reshape(p, (-1, *p.shape[2:])) for name, p in parameters.items()}
    pixels = change(pixels, rows, views.operation)
    if partners is not None:
        others, others_one_size, other_rows = partners
        boxes = other_rows.get("view_crop")
        boxes = None if boxes is None else boxes[:, None]
        others = decode_views(others, others_one_size, boxes, canonical, options)
        others = change(tf.reshape(others, (-1, *shape)), other_rows, views.operation)
        # The plain view is mixed with itself, which changes nothing.
        plain = tf.reshape(pixels, (-1, num_views, *shape))[:, :1]
        others = tf.concat([plain, tf.reshape(others, (-1, num_views - 1, *shape))], axis=1)
        pixels = mix(pixels, tf.reshape(others, (-1, *shape)), mixing_of(rows))
    return erase(pixels, rows)


def canonical_options(views: Views, options: ImageOptions) -> ImageOptions | None:
    """Returns how images are brought to the canonical size of the views, if they have one."""
    if views.canonical_size is None:
        return None
    return dataclasses.replace(options, image_size=views.canonical_size)


def cut(images: tf.Tensor, boxes: tf.Tensor, options: ImageOptions) -> tf.Tensor:
    """Returns crops of images of one size, as `tf.image.crop_and_resize` cuts them.

    With decode='scaled' this is for images of the canonical size alone, which are near the size
    asked for: there antialiasing would take twice the time. Crops of files are resampled.

    Args:
      images: uint8 or float32 `[images, height, width, channels]`. Where the graph knows height and
        width, as it does of the canonical size, compiled code does it in a third of the time.
      boxes: float32 `[images, views, 4]`.
      options: the size, and 'bilinear' or 'nearest'.

    Returns:
      float32 `[images, views, height, width, channels]`.
    """
    num_images, num_views = tf.shape(images)[0], boxes.shape[1]
    method = "nearest" if options.interpolation == "nearest" else "bilinear"
    flat = tf.reshape(boxes, (-1, 4))
    of_image = tf.repeat(tf.range(num_images), num_views)
    if images.shape[1] is None or images.shape[2] is None:
        crops = tf.image.crop_and_resize(images, flat, of_image, options.image_size, method=method)
    else:
        crops = _cut_compiled(images, flat, of_image, *options.image_size, method)
    return tf.reshape(crops, (-1, num_views, *options.shape))


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _cut_compiled(
    images: tf.Tensor, boxes: tf.Tensor, of_image: tf.Tensor, height: int, width: int, method: str
) -> tf.Tensor:
    """Returns what `crop_and_resize` does, for boxes inside the images.

    One fused loop over all pixels of all crops: 0.2 ms at 224 pixels, where the operation takes
    0.6, the same matrices multiplied 1.9, and the operations here one by one 1.1.
    """
    num_rows, num_columns, num_channels = images.shape[1:]
    y = _places(boxes[:, 0], boxes[:, 2], height, num_rows)
    x = _places(boxes[:, 1], boxes[:, 3], width, num_columns)
    pixels = tf.reshape(images, (-1, num_channels))
    first = of_image[:, None, None] * (num_rows * num_columns)

    def at(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        rows, columns = (tf.cast(part, tf.int32) for part in (rows, columns))
        places = first + rows[:, :, None] * num_columns + columns[:, None, :]
        return tf.cast(tf.gather(pixels, places), tf.float32)

    if method == "nearest":
        return at(tf.floor(y + 0.5), tf.floor(x + 0.5))
    top, left = tf.floor(y), tf.floor(x)
    down, right = (y - top)[:, :, None, None], (x - left)[:, None, :, None]
    bottom, other = tf.math.ceil(y), tf.math.ceil(x)
    above = at(top, left) + (at(top, other) - at(top, left)) * right
    below = at(bottom, left) + (at(bottom, other) - at(bottom, left)) * right
    return above + (below - above) * down


def _places(start: tf.Tensor, end: tf.Tensor, count: int, size: int) -> tf.Tensor:
    """Returns where `count` samples of each box lie, in pixels: float32 `[boxes, count]`."""
    last = float(size - 1)
    if count == 1:
        places = 0.5 * (start + end)[:, None] * last
    else:
        step = (end - start) * (last / (count - 1))
        places = start[:, None] * last + tf.range(count, dtype=tf.float32) * step[:, None]
    return tf.clip_by_value(places, 0, last)  # rounding may lead out of the image


def change(
    pixels: tf.Tensor, parameters: dict[str, tf.Tensor], operation: ViewOperation | None
) -> tf.Tensor:
    """Returns pixels mirrored, coloured and operated on: what is done to an image before mixing.

    Args:
      pixels: float32 `[rows, height, width, channels]`, 0 to 255.
      parameters: of each row, as far as its views have them: `view_flip`, `view_color`,
        `view_seed`.
      operation: of the user's own, with its function; None where its views have none.
    """
    own = {n: p for n, p in parameters.items() if n in ("view_flip", "view_color")}
    if own:
        pixels = _mirror_and_color(pixels, own)
    if "view_seed" in parameters:
        assert operation is not None
        pixels = _operate(pixels, parameters["view_seed"], operation)
    return pixels


# Compiled, so that no temporary batches are made: a flip alone takes two of them otherwise. Each
# step is compiled by itself, so that teacher and student, who go through the same steps with other
# numbers of rows, get the same bits.


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
      partners: the same of each row's partner; the row's own where it is not mixed.
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
    """Returns those parameters that `mix` takes."""
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
      boxes: float32 `[rows, 4]`, y1, x1, y2, x2, from 0 to 1; an empty one holds no pixel.
      image_size: height and width.
    """
    height, width = image_size
    y = ((tf.range(height, dtype=tf.float32) + 0.5) / height)[None, :, None, None]
    x = ((tf.range(width, dtype=tf.float32) + 0.5) / width)[None, None, :, None]
    y1, x1, y2, x2 = (edge[:, None, None, None] for edge in tf.unstack(boxes, axis=1))
    return (y >= y1) & (y < y2) & (x >= x1) & (x < x2)


def seeds_of(view_seeds: tf.Tensor) -> tf.Tensor:
    """Returns stored seeds, uint64 `[rows]`, as TensorFlow's stateless draws take them.

    Returns:
      int32 `[rows, 2]`, the lower half first.
    """
    return tf.bitcast(view_seeds, tf.int32)


def _operate(pixels: tf.Tensor, view_seeds: tf.Tensor, operation: ViewOperation) -> tf.Tensor:
    """Returns pixels after the user's operation, cut at 0 and 255; rows of seed 0 are plain."""
    assert operation.function is not None
    changed = converted(operation.function)(pixels, seeds_of(view_seeds))
    changed = tf.clip_by_value(tf.ensure_shape(changed, pixels.shape), 0, 255)
    plain = tf.equal(view_seeds, 0)[:, None, None, None]
    # A student is mostly shown no plain row, and to choose row by row takes 10 µs an image of 32².
    return tf.cond(tf.reduce_any(plain), lambda: tf.where(plain, pixels, changed), lambda: changed)


def _color(pixels: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Returns pixels with brightness, contrast and saturation multiplied, cut at 0 and 255.

    In that order, as torchvision's ColorJitter does them one after the other: contrast fades to
    the image's mean grey, saturation to each pixel's own grey.
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
