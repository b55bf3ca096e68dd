"""The fingerprint: a digest of keys, labels and classes, equal on both sides of a join."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from streamkd.keys import Keys

# Number of keys that are digested at once.
_CHUNK_KEYS = 65_536


def fingerprint(
    keys: Keys,
    labels: np.ndarray,
    class_names: list[str] | None,
    multi_hot: np.ndarray | None = None,
) -> str:
    """Returns 32 hexadecimal digits; the order of the images does not matter.

    Args:
      keys: the key of each image, all different.
      labels: int `[num_images]`, class numbers; -1 for an image without a label.
      class_names: the classes in order, or None for images without classes.
      multi_hot: int8 `[num_images, num_classes]`, of images with several labels, or None.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(["streamkd manifest", 1, class_names]).encode())
    order = keys.sort_order()
    for start in range(0, len(order), _CHUNK_KEYS):
        indices = order[start : start + _CHUNK_KEYS]
        chunk = keys.take(indices)
        digest.update(np.diff(chunk.offsets).astype("<u8").tobytes())
        digest.update(chunk.data.tobytes())
        digest.update(labels[indices].astype("<i4").tobytes())
        if multi_hot is not None:
            digest.update(multi_hot[indices].astype("|i1").tobytes())
    return digest.hexdigest()
