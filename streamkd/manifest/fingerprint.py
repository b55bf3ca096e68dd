"""The fingerprint: a digest of keys, labels and classes, equal on both sides of a join."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from streamkd.keys import Keys

_CHUNK_KEYS = 65_536


def fingerprint(keys: Keys, labels: np.ndarray, class_names: list[str] | None) -> str:
    """Returns 32 hexadecimal digits; the order of the images does not matter.

    Args:
      keys: one an image, each once.
      labels: int `[num_images]`, class numbers, -1 where there is none.
      class_names: the classes in order, or None where there are none.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(["streamkd manifest", 1, class_names]).encode())
    order = keys.sort_order()
    for start in range(0, len(order), _CHUNK_KEYS):
        part = order[start : start + _CHUNK_KEYS]
        some = keys.take(part)
        digest.update(np.diff(some.offsets).astype("<u8").tobytes())
        digest.update(some.data.tobytes())
        digest.update(labels[part].astype("<i4").tobytes())
    return digest.hexdigest()
