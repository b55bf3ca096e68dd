"""Merging: several stores become one, without asking the teacher again.

    stores = flatten([open_store("teacher.h5")])                # a base and its deltas
    merge_stores(stores, *effective_images(stores), "compact.h5")

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
from streamkd.keys import Keys
from streamkd.manifest.fingerprint import fingerprint
from streamkd.store.collection import StoreCollection, flatten
from streamkd.store.layout import REFUSED, StoreHeader
from streamkd.store.reader import LogitStore
from streamkd.store.store_list import refuse_stale_index
from streamkd.store.summary import teacher_summary
from streamkd.store.writer import StoreWriter, create_store
from streamkd.views.views import Views


def merge_stores(
    stores: Sequence[LogitStore],
    keys: Keys,
    images: np.ndarray,
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int], None] | None = None,
) -> LogitStore:
    """Writes one store with rows of several, or goes on where an earlier merge stopped.

    Args:
      stores: finished, of one teacher pass (`check_same_pass`).
      keys: of the images that the new store is to hold, each once.
      images: int64 `[num_keys]`, which image of `stores`, numbered through, each of them is;
        `effective_images` gives both for everything that there is.
      out: path of the new store.
      progress: called with the number of images copied so far.

    Returns:
      The finished store, open for reading.

    Raises:
      StoreError: `out` was begun from something else.
      MissingLogitsError: there are no keys.
    """
    if not len(keys):
        raise MissingLogitsError(
            f"None of the images has logits in {', '.join(s.path for s in stores[:5])}, so that "
            "the merged store would be empty.\nGive the directory that the stores were made of."
        )
    order = keys.sort_order()
    keys, images = keys.take(order), images[order]
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
    _copy(as_one(stores), images, out, progress)
    return LogitStore(out)


def as_one(stores: Sequence[LogitStore]) -> LogitStore | StoreCollection:
    """Returns stores numbered through, which no index file lists."""
    if len(stores) == 1:
        return stores[0]
    # The number of different images plays no part in reading rows by number.
    return StoreCollection(
        stores[0].path,
        stores,
        num_images=sum(store.num_images for store in stores),
        fingerprint=stores[0].header.fingerprint,
    )


def _copy(
    source: LogitStore | StoreCollection,
    images: np.ndarray,
    out: str,
    progress: Callable[[int], None] | None,
) -> None:
    """Fills and finishes the new store; `images` are the source's numbers, in its order."""
    if LogitStore(out).finished:
        return
    views = np.arange(source.num_views)
    new_numbers = _new_numbers(source, images)
    with StoreWriter(out) as writer:
        pending = writer.pending_blocks()
        num_copied = len(images) - sum(len(writer.images_of_block(b)) for b in pending)
        for block in pending.tolist():
            wanted = writer.images_of_block(block)
            mine = images[wanted.start : wanted.stop]
            rows = (mine[:, None] * source.num_views + views).reshape(-1)
            stored, done = source.stored_rows(rows)
            if new_numbers is not None:
                partners = source.view_parameters(rows)["view_partner"]
                stored["view_partner"] = np.where(partners < 0, partners, new_numbers[partners])
            refused = (done == REFUSED).reshape(len(mine), -1).any(axis=1)
            writer.write_stored(block, stored, source.content_of(mine), refused)
            num_copied += len(mine)
            if progress is not None:
                progress(num_copied)
        writer.finish(teacher_summary(LogitStore(out)))


def _new_numbers(source: LogitStore | StoreCollection, images: np.ndarray) -> np.ndarray | None:
    """Returns the new number of each image of `source` that is kept, -2 where it is not.

    None where views are not mixed, so that no image is named by its number.
    """
    if not Views.from_dict(source.header.views).mixes:
        return None
    stores = flatten([source])
    numbers = np.full(sum(store.num_images for store in stores), -2, np.int64)
    numbers[images] = np.arange(len(images))
    return numbers


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
