"""Merges stores, and finds out which of their images are still there.

report = merge(["teacher.h5"], "compact.h5", images=scan("photos/train"))
report.store, report.num_superseded, report.num_dropped
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from streamkd.errors import OptionError
from streamkd.manifest.manifest import Manifest
from streamkd.progress import image_progress
from streamkd.store.collection import (
    StoreCollection,
    check_same_pass,
    effective_images,
    flatten,
    link_stores,
    open_store,
)
from streamkd.store.match_images import find_images
from streamkd.store.merge import as_one, merge_stores
from streamkd.store.reader import LogitStore


@dataclasses.dataclass(frozen=True)
class MergeReport:
    """What `merge` did.

    Attributes:
      store: the new store, or the collection that the index file lists.
      num_superseded: images that a later store has as well.
      num_dropped: images that are no longer there.
    """

    store: LogitStore | StoreCollection
    num_superseded: int
    num_dropped: int


def merge(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    images: Manifest | None = None,
    index: bool = False,
    progress: bool = True,
) -> MergeReport:
    """Makes one store of shards, of a store and its deltas, or of stores of different images.

    Args:
      paths: of finished stores. Of several that have an image the last one counts.
      out: path of the new store; one that an earlier call has begun is continued.
      images: keep the logits of these only, under the keys that they have now: a renamed file is
        found by its content. By default everything is kept.
      index: write an index file that lists the stores, and copy no row.
      progress: show progress on standard error.

    Raises:
      StoreError: stores that do not fit together.
      UnfinishedStoreError: one of them is unfinished.
      MissingLogitsError: the stores have none of `images`.
    """
    if os.path.realpath(out) in map(os.path.realpath, paths):
        raise OptionError(f"--out {out} is one of the stores.\nGive the path of a new file.")
    stores = flatten([open_store(path) for path in paths])
    num_listed = sum(store.num_images for store in stores)
    if index:
        linked = link_stores(paths, out)
        return MergeReport(linked, num_listed - linked.num_images, 0)
    check_same_pass(stores)
    keys, numbers = effective_images(stores)
    num_different = len(keys)
    if images is not None:
        found = find_images(images, as_one(stores), progress)
        there = np.flatnonzero(found >= 0)
        keys, numbers = images.keys.take(there), found[there]
    with image_progress(len(keys), 0, "merging", progress) as bar:
        store = merge_stores(
            stores, keys, numbers, out, progress=lambda num_copied: bar.update(num_copied - bar.n)
        )
    num_kept = len(np.unique(numbers))
    return MergeReport(store, num_listed - num_different, num_different - num_kept)
