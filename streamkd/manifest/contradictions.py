"""Images with the same bytes under different labels: a student is taught both, and neither.

pairs = contradictions(labels, digests)             # int64 [num_pairs, 2]
described(keys, labels, class_names, pairs)         # ["cat/1.png (cat) and dog/7.png (dog)"]
"""

from __future__ import annotations

import numpy as np

from streamkd.errors import readable_key
from streamkd.keys import Keys


def contradictions(labels: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Returns a pair of images for each content that has several labels, int64 `[num_pairs, 2]`.

    Args:
      labels: int32 `[num_images]`; images with -1 contradict nobody.
      digests: uint64 `[num_images]`, digests of the files' bytes.
    """
    labelled = np.flatnonzero(labels >= 0)
    order = labelled[np.lexsort((labelled, digests[labelled]))]
    starts = np.ones(len(order), bool)
    starts[1:] = digests[order[1:]] != digests[order[:-1]]
    first = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    other = np.flatnonzero(labels[order] != labels[first])
    # One pair for each content, however often it is there.
    _, chosen = np.unique(digests[order[other]], return_index=True)
    pairs = np.stack([first[other[chosen]], order[other[chosen]]], axis=1)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def described(
    keys: Keys, labels: np.ndarray, class_names: list[str] | None, pairs: np.ndarray
) -> list[str]:
    """Returns each pair in words, with the class of both sides."""

    def side(index: int) -> str:
        number = int(labels[index])
        name = class_names[number] if class_names else str(number)
        return f"{readable_key(keys[index])} ({name})"

    return [f"{side(first)} and {side(other)}" for first, other in pairs.tolist()]
