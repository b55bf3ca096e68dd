"""Checks that a file is the one that the teacher answered, and names the first that is not.

check_content_digests(images, paths, digests, stored, rows)        # in the graph
for batch in named_errors(iter(dataset), refuse): ...              # outside
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import ChangedImageError, readable_key
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.bad_images import refuse_bad_image

# Head of messages that are made inside the graph, where the class of an error is lost.
CHANGED = "streamkd: a changed image"
# Message with the key, the digest of the bytes just read, and that of the bytes the teacher saw.
CHANGED_TEXT = (
    "The image '{}' is not the file that the teacher answered.\n"
    "  content digest now:    {}\n"
    "  content digest taught: {}\n"
    "Put the old file back, or give the `teach` command of the store again: it answers only images "
    "that are new or changed. Imported logits are imported again: `streamkd import … --out NEW.h5`."
    "\nIf the store is that of another directory with the same names, give that directory."
)
# Text before the exact key at the end of a message.
KEY_LABEL = "\n  key in base64: "


def check_content_digests(
    images: Manifest, paths: tf.Tensor, digests: tf.Tensor, stored: tf.Tensor, rows: tf.Tensor
) -> tf.Tensor:
    """Returns True, or fails if a file is not the one the teacher answered.

    Args:
      images: the manifest, whose root the message leaves out.
      paths: string `[batch]`.
      digests: uint64 `[batch]`, digests of the bytes just read.
      stored: uint64 `[batch]`, digests of the bytes the teacher saw.
      rows: int64 `[batch]`; an image without logits (-1) is not compared.
    """
    different = tf.not_equal(digests, stored)

    def fail(changed: tf.Tensor) -> tf.Tensor:
        first = tf.argmax(changed)
        key = tf.strings.substr(paths[first], len(os.path.join(images.root, b"")), -1)
        # TensorFlow cannot raise what is not UTF-8; Python finds the exact key at the end.
        shown = tf.strings.unicode_transcode(key, "UTF-8", "UTF-8", replacement_char=ord("?"))
        now, taught = (tf.strings.as_string(values[first]) for values in (digests, stored))
        texts = CHANGED_TEXT.split("{}")
        parts = [texts[0], shown, texts[1], now, texts[2], taught, texts[3]]
        message = tf.strings.join([CHANGED + ": ", *parts, KEY_LABEL, tf.io.encode_base64(key)])
        with tf.control_dependencies(
            [tf.raw_ops.Assert(condition=False, data=[message], summarize=-1)]
        ):
            return tf.constant(False)

    def look_closer() -> tf.Tensor:
        changed = tf.logical_and(different, rows >= 0)
        return tf.cond(tf.reduce_any(changed), lambda: fail(changed), lambda: tf.constant(True))

    # Two operations and one branch if all files are the same: `tf.debugging.Assert` adds a branch,
    # and making a message for every batch takes longer than either.
    return tf.cond(tf.reduce_any(different), look_closer, lambda: tf.constant(True))


def refuse_changed(
    images: Manifest, indices: np.ndarray, digests: np.ndarray, stored: np.ndarray
) -> None:
    """Refuses, outside the graph, the first image that is not the one the teacher answered.

    Args:
      images: the manifest.
      indices: int64 `[batch]`, positions in the manifest.
      digests, stored: as in `check_content_digests`.

    Raises:
      ChangedImageError: names the image.
    """
    changed = np.flatnonzero(digests != stored)
    if len(changed):
        first = changed[0]
        raise _changed(images.keys[int(indices[first])], digests[first], stored[first])


def _changed(key: bytes, now: Any, taught: Any) -> ChangedImageError:
    """Returns the refusal of an image by its key and both content digests."""
    return ChangedImageError(CHANGED_TEXT.format(readable_key(key), now, taught), key=key)


def raise_named(
    error: tf.errors.OpError, images: Manifest, options: ImageOptions, indices: Any
) -> None:
    """Raises the refusal that a TensorFlow error of the input stands for; else returns.

    Args:
      error: raised for a batch.
      images, options: of the batch.
      indices: positions of the batch's images in the manifest.
    """
    pattern = rf"{CHANGED}.* now: +(\d+).* taught: +(\d+).*{KEY_LABEL.strip()} ([\w-]*)"
    match = re.search(pattern, str(error.message or error), re.DOTALL)
    if match:
        now, taught, encoded = match.groups()
        key = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        raise _changed(key, now, taught) from error
    refuse_bad_image(error, images, indices, options)


def named_errors(
    batches: Iterator[Any], refuse: Callable[[tf.errors.OpError, int], None]
) -> Iterator[Any]:
    """Yields the batches; an error of TensorFlow becomes a refusal that names the file.

    Args:
      batches: an iterator over a dataset.
      refuse: called with the error and the number of the batch; raises the refusal, if any.
    """
    number = 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            refuse(error, number)
            raise
        yield batch
        number += 1
