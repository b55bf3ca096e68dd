"""Stores of one teacher pass: whether stores may be read as one, and which of their images count.

    check_same_pass(stores)                     # refuses stores of two teachers, unfinished ones
    keys, images = effective_images(stores)     # the last store that has a key counts

Shards, deltas, and stores that a merge is given have to pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamkd.differences import both_sides
from streamkd.errors import StoreError, UnfinishedStoreError
from streamkd.keys import Keys
from streamkd.store.reader import LogitStore
from streamkd.store.row_store import RowStore

# Header fields that the teacher's answers depend on; all stores of one pass have them in common.
_PASS_FIELDS = ("teacher", "images", "views", "decoder", "num_classes", "num_views", "codec")


def check_finished(store: RowStore) -> None:
    """Raises UnfinishedStoreError for a store in which rows are missing."""
    if not store.finished:
        raise UnfinishedStoreError(
            f"The store {store.path} is unfinished: {store.rows_done:,} of {store.rows_total:,} "
            "rows are done.\nRun the same `streamkd teach` command again; it resumes."
        )


def check_same_pass(stores: Sequence[LogitStore]) -> None:
    """Refuses stores that cannot stand for one teacher pass, and unfinished ones.

    Raises:
      UnfinishedStoreError, StoreError: names the two stores and both sides.
    """
    first = stores[0]
    for store in stores:
        check_finished(store)
        for name in _PASS_FIELDS:
            _check_equal(
                first, store, name, getattr(first.header, name), getattr(store.header, name)
            )
        _check_equal(first, store, "class_names", first.class_names, store.class_names)


def _check_equal(
    first: LogitStore, store: LogitStore, name: str, first_value: object, value: object
) -> None:
    if first_value != value:
        raise StoreError(
            f"Stores that differ in {name.replace('_', ' ')} cannot be read as one.\n"
            f"{both_sides({first.path: first_value, store.path: value})}"
            "Give stores of one teacher with the same options."
        )


def effective_images(stores: Sequence[LogitStore]) -> tuple[Keys, np.ndarray]:
    """Returns the sorted keys of all different images, and each image's number across all stores.

    The last store that has a key counts. Memory: the keys twice, and 16 bytes an image.
    """
    keys = Keys.concatenate([store.keys for store in stores])
    order = keys.sort_order()  # equal keys stay in the order of their stores
    ordered = keys.take(order)
    last = np.ones(len(order), bool)
    if len(order) > 1:
        indices = np.arange(len(order) - 1)
        last[:-1] = ~ordered.equal_at(indices, ordered, indices + 1)
    return (ordered if last.all() else ordered.take(last)), order[last]
