"""The teacher's stored logits of images, in the order of a model's classes.

logits, digests = teacher_logits(names, images, store)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamkd.errors import ClassNamesError, StudentError, readable_names
from streamkd.manifest import look_alikes
from streamkd.manifest.manifest import Manifest
from streamkd.store.row_store import RowStore
from streamkd.stream.join import find_rows

# Rows of the store that are read at once.
MAX_GATHERED_ROWS = 4096


def teacher_logits(
    names: list[str], images: Manifest, store: RowStore, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits of each image's first view, and the digest that its file must have.

    These are float32 `[num_images, len(names)]` and uint64 `[num_images]`.

    Args:
      names: the model's classes; the teacher may know others, too.
      images: all of them have logits in the store.
      store: of a teacher that ends in softmax.
      progress: show progress while files are read to find renamed ones.

    Raises:
      MissingLogitsError: an image has no logits.
      ClassNamesError: the teacher does not know a class of the model.
      StudentError: the teacher answers with independent labels.
    """
    if store.header.is_sigmoid:
        raise StudentError(
            f"The teacher of {store.path} answers with independent labels, and a bias of classes "
            "is for classes that exclude each other.\nGive a store of a teacher that ends in "
            "softmax."
        )
    columns = _columns(names, store)
    rows = find_rows(images, store, "raise", progress)[1]
    logits = np.concatenate([block[:, columns] for block in gathered(store, rows)])
    return logits, store.content_of(rows // store.num_views)


def gathered(store: RowStore, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the logits of rows, float32 `[at most MAX_GATHERED_ROWS, num_classes]`, in order."""
    for start in range(0, len(rows), MAX_GATHERED_ROWS):
        yield store.gather(rows[start : start + MAX_GATHERED_ROWS])


def _columns(names: list[str], store: RowStore) -> np.ndarray:
    """Returns the store's column of each of the model's classes, int64."""
    known = store.class_names or (names if store.num_classes == len(names) else [])
    absent = [name for name in names if name not in known]
    if absent:
        raise ClassNamesError(
            f"The store {store.path} does not know the model's class "
            f"{look_alikes.shown(absent[0])}.\n"
            f"  the model: {readable_names(names)}\n"
            f"  the store: {readable_names(known) or f'{store.num_classes} classes, no names'}\n"
            f"{look_alikes.difference(absent[0], known)}"
            "Give the store of a teacher that knows all classes of the model."
        )
    return np.array([known.index(name) for name in names], np.int64)
