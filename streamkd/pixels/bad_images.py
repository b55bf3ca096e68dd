"""Which file cannot be decoded, and why: TensorFlow's errors do not name the file.

why_bad(path)                                          # a reason in words, or None
refuse_bad_image(error, manifest, indices, options)    # names the bad file of a batch
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.image_options import MAX_PIXELS, Background, ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.decode import decode
from streamkd.pixels.file_batch import Files, leave_out
from streamkd.pixels.files import is_no_file, read_file, why_unreadable
from streamkd.pixels.pillow_fallback import UndecodableError, decodable
from streamkd.pixels.refusals import naming, undecodable
from streamkd.tf_support.python_calls import raise_refusal_of

# Errors of TensorFlow that say nothing about the file, such as for want of memory.
_MACHINES_FAULTS = (
    *(tf.errors.ResourceExhaustedError, tf.errors.CancelledError, tf.errors.AbortedError),
    *(tf.errors.UnavailableError, tf.errors.DeadlineExceededError),
)


def find_bad_image(
    manifest: Manifest, indices: Iterable[int], options: ImageOptions
) -> tuple[int, str] | None:
    """Returns (index, reason) of the first image that cannot be decoded, or None.

    Raises:
      UnreadableImageError: a file is not there, or cannot be read.
    """
    for index in indices:
        with naming(manifest):
            try:
                reason = why_bad_bytes(read_file(manifest.path(index)), options)
            except OSError as error:
                if not is_no_file(error):
                    raise
                reason = why_unreadable(error)
        if reason is not None:
            return index, reason
    return None


def why_bad(
    path: bytes, options: ImageOptions | None = None, *, max_pixels: int = MAX_PIXELS
) -> str | None:
    """Returns why a file cannot be decoded, or None for a good file.

    Without `options` the file keeps its size, in rgb; `options` bring their own `max_pixels`.
    """
    try:
        return why_bad_bytes(read_file(path), options, max_pixels=max_pixels)
    except OSError as error:
        return why_unreadable(error)


def why_bad_bytes(
    data: bytes,
    options: ImageOptions | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    num_channels: int = 3,
    background: Background = None,
) -> str | None:
    """Returns why the bytes of a file cannot be decoded, or None; arguments as in `why_bad`.

    Without `options` the file is decoded to `num_channels`, and not turned.
    """
    reading: dict[str, Any] = {
        "max_pixels": max_pixels,
        "num_channels": num_channels,
        "background": background,
    }
    if options is not None:
        reading = options.for_files()
    try:
        return why_undecodable(decodable(data, **reading), options, reading["num_channels"])
    except UndecodableError as error:
        return str(error)


def why_undecodable(
    data: bytes, options: ImageOptions | None = None, num_channels: int = 3
) -> str | None:
    """Returns why TensorFlow cannot decode bytes from `decodable`, or None."""
    try:
        if options is None:
            tf.io.decode_image(tf.constant(data), channels=num_channels, expand_animations=False)
        else:
            decode(tf.constant(data), options)
    except _MACHINES_FAULTS:
        raise
    except tf.errors.OpError as error:
        return _first_line(error)
    return None


def leave_out_undecodable(files: Files, options: ImageOptions) -> tuple[Files, dict[int, str]]:
    """Returns files with black pixels where TensorFlow cannot decode them, and why, by index."""
    reasons = {}
    for index in np.flatnonzero(~files.bad).tolist():
        reason = why_undecodable(files.file_bytes[index], options)
        if reason is not None:
            reasons[index] = reason
    return leave_out(files, list(reasons)), reasons


def _first_line(error: tf.errors.OpError) -> str:
    """Returns the sentence of a TensorFlow error, without the name of the operation."""
    text = (error.message or str(error)).splitlines()[0]
    text = text.partition("}} ")[2] or text
    return text.partition(" [Op:")[0].strip().rstrip(".")


def refuse_bad_image(
    error: tf.errors.OpError, manifest: Manifest, indices: Iterable[int], options: ImageOptions
) -> None:
    """Raises the refusal that names the bad file of a batch; returns if all are good.

    `indices` are those of the batch's images in the manifest. TensorFlow's `error` is the cause.

    Raises:
      UnreadableImageError: a file is not there, or cannot be read.
      BadImageError: a file cannot be decoded.
      StreamkdError: any other refusal of the function that read the batch.
    """
    raise_refusal_of(error)
    bad = find_bad_image(manifest, indices, options)
    if bad is not None:
        index, reason = bad
        raise undecodable(manifest, manifest.path(index), reason) from error
