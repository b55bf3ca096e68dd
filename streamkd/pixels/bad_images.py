"""Finds out which file cannot be decoded, and why: TensorFlow does not name it.

why_bad(path)                                   # a reason in words, or None
refuse_bad_image(error, manifest, indices, options)     # names the file of a batch that failed
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from streamkd.errors import BadImageError, readable_key
from streamkd.image_options import MAX_PIXELS, ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.decode import decode
from streamkd.pixels.file_batch import Files, leave_out
from streamkd.pixels.files import read_file, why_unreadable
from streamkd.pixels.pillow_fallback import UndecodableError, decodable


def find_bad_image(
    manifest: Manifest, indices: Iterable[int], options: ImageOptions
) -> tuple[int, str] | None:
    """Returns the first image that cannot be read, as (index, reason); None where all can."""
    for index in indices:
        reason = why_bad(manifest.path(index), options)
        if reason is not None:
            return index, reason
    return None


def why_bad(
    path: bytes, options: ImageOptions | None = None, *, max_pixels: int = MAX_PIXELS
) -> str | None:
    """Returns why one file cannot be decoded, or None where it can.

    Args:
      path: of the file.
      options: how it is decoded; None for as it is.
      max_pixels: an image of more is not; where there are options, theirs counts.
    """
    try:
        return why_bad_bytes(read_file(path), options, max_pixels=max_pixels)
    except OSError as error:
        return why_unreadable(error)


def why_bad_bytes(
    data: bytes, options: ImageOptions | None = None, *, max_pixels: int = MAX_PIXELS
) -> str | None:
    """Returns why the bytes of one file cannot be decoded, or None where they can.

    Args: as in `why_bad`.
    """
    if options is not None:
        max_pixels = options.max_pixels
    try:
        return why_undecodable(decodable(data, max_pixels), options)
    except UndecodableError as error:
        return str(error)


def why_undecodable(data: bytes, options: ImageOptions | None = None) -> str | None:
    """Returns why TensorFlow cannot decode what `decodable` returned; None where it can."""
    try:
        if options is None:
            tf.io.decode_image(tf.constant(data), expand_animations=False)
        else:
            decode(tf.constant(data), options)
    except tf.errors.OpError as error:
        return _first_line(error)
    return None


def leave_out_undecodable(files: Files, options: ImageOptions) -> tuple[Files, dict[int, str]]:
    """Returns files without those that TensorFlow cannot decode, and why it cannot, by place."""
    reasons = {}
    for place in np.flatnonzero(~files.bad).tolist():
        reason = why_undecodable(files.file_bytes[place], options)
        if reason is not None:
            reasons[place] = reason
    return leave_out(files, list(reasons)), reasons


def _first_line(error: tf.errors.OpError) -> str:
    """Returns the sentence of a TensorFlow error, without the name of the operation."""
    text = (error.message or str(error)).splitlines()[0]
    text = text.partition("}} ")[2] or text
    return text.partition(" [Op:")[0].strip().rstrip(".")


def refuse_bad_image(
    error: tf.errors.OpError, manifest: Manifest, indices: Iterable[int], options: ImageOptions
) -> None:
    """Raises `BadImageError` naming the file that made a batch fail; else returns.

    Args:
      error: what TensorFlow raised for the batch, kept as the cause.
      indices: the images of the batch.
    """
    bad = find_bad_image(manifest, indices, options)
    if bad is None:
        return
    index, reason = bad
    key = manifest.keys[index]
    raise BadImageError(
        f"The image '{readable_key(key)}' cannot be decoded: {reason}.\n"
        f"  file: {os.fsdecode(manifest.path(index))}\n"
        "Replace or remove the file; `streamkd scan --check` lists every bad file.",
        key=key,
    ) from error
