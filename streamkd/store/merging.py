"""Merging: several stores become one, without asking the teacher again.

    merge_stores(["shard-1.h5", "shard-2.h5"], "teacher.h5")
    merge_stores(["teacher.h5"], "compact.h5", keep=images.keys)     # base and deltas

Rows are copied as they lie on the disk, block by block, each compared with its checksum. The new
store is filled like any other, so that a merge that was killed goes on. Shards of one pass, merged,
are the same to the byte as the store of an undivided pass, where the blocks are.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np

from streamkd.errors import MissingLogitsError, StoreError
from streamkd.images.fingerprint import fingerprint
from streamkd.keys import Keys
from streamkd.store.collection import (
    StoreCollection,
    check_same_pass,
    effective_images,
    flatten,
    open_store,
)
from streamkd.store.index_file import IndexFile, refuse_stale_index
from streamkd.store.layout import REFUSED, StoreHeader
from streamkd.store.reader import LogitStore
from streamkd.store.summary import teacher_summary
from streamkd.store.writer import StoreWriter, create_store


def merge_stores(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    keep: tuple[Keys, np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LogitStore:
    """Writes one store with the rows of several, or goes on where an earlier merge stopped.

    Args:
      paths: of finished stores, their deltas included, or of index files. Of several stores that
        have an image the last one counts.
      out: path of the new store.
      keep: keys, and int64 `[N]`, the image of each in the stores numbered through: what the new
        store is to hold. By default every image, under its own key.
      progress: called with the images copied so far and the images in all.

    Returns:
      The finished store, open for reading.

    Raises:
      StoreError: stores that do not fit together, or `out` was begun from others.
      UnfinishedStoreError: one of them is unfinished.
      MissingLogitsError: nothing is left to be kept.
    """
    stores = flatten([open_store(path) for path in paths])
    check_same_pass(stores)
    source = as_one(stores)
    keys, images = effective_images(stores) if keep is None else _sorted(*keep)
    if not len(keys):
        raise MissingLogitsError(
            f"None of the images has logits in {', '.join(s.path for s in stores[:5])}, so that "
            "the merged store would be empty.\nGive the directory that the stores were made of."
        )
    labels = np.concatenate([store.labels for store in stores])[images]
    header = dataclasses.replace(
        stores[0].header,
        num_images=len(keys),
        fingerprint=fingerprint(keys, labels, stores[0].class_names or None),
    )
    out = os.fspath(out)
    if not os.path.lexists(out):
        refuse_stale_index(out)
        create_store(out, header, keys, labels, stores[0].class_names)
    _check_begun(out, header, keys)
    _copy(source, images, out, progress)
    return LogitStore(out)


def as_one(stores: Sequence[LogitStore]) -> LogitStore | StoreCollection:
    """Returns stores numbered through, which no index file lists."""
    if len(stores) == 1:
        return stores[0]
    # The number of different images plays no part in reading rows by number.
    index = IndexFile((), sum(store.num_images for store in stores), stores[0].header.fingerprint)
    return StoreCollection(stores[0].path, stores, index)


def _sorted(keys: Keys, images: np.ndarray) -> tuple[Keys, np.ndarray]:
    order = keys.sort_order()
    return keys.take(order), images[order]


def _copy(
    source: LogitStore | StoreCollection,
    images: np.ndarray,
    out: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fills and finishes the new store; `images` are the source's numbers, in its order."""
    if LogitStore(out).finished:
        return
    views = np.arange(source.num_views)
    with StoreWriter(out) as writer:
        pending = writer.pending_blocks()
        num_copied = len(images) - sum(len(writer.images_of_block(b)) for b in pending)
        for block in pending.tolist():
            wanted = writer.images_of_block(block)
            mine = images[wanted.start : wanted.stop]
            rows = (mine[:, None] * source.num_views + views).reshape(-1)
            stored, done = source.stored_rows(rows)
            refused = (done == REFUSED).reshape(len(mine), -1).any(axis=1)
            writer.write_stored(block, stored, source.content_of(mine), refused)
            num_copied += len(mine)
            if progress is not None:
                progress(num_copied, len(images))
        writer.finish(teacher_summary(LogitStore(out)))


def _check_begun(out: str, header: StoreHeader, keys: Keys) -> None:
    """Refuses to go on with a store that was not begun by the same merge."""
    store = LogitStore(out)
    if store.header != header or store.keys != keys:
        raise StoreError(
            f"{out} exists already and is not the beginning of this merge; it was left as it is.\n"
            f"  there: {store.num_images:,} images, fingerprint {store.header.fingerprint[:8]}\n"
            f"  merge: {header.num_images:,} images, fingerprint {header.fingerprint[:8]}\n"
            "Give another path with `--out`, or move the old file away."
        )
