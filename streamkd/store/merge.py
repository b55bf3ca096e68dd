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

from streamkd.errors import MissingLogitsError, OptionError, StoreError
from streamkd.keys import Keys
from streamkd.manifest.fingerprint import fingerprint
from streamkd.manifest.manifest import Manifest
from streamkd.progress import image_progress
from streamkd.public import public
from streamkd.store.collection import (
    StoreCollection,
    check_same_pass,
    effective_images,
    flatten,
    link_stores,
    open_store,
)
from streamkd.store.layout import REFUSED, StoreHeader
from streamkd.store.match_images import match_images
from streamkd.store.reader import LogitStore
from streamkd.store.store_list import refuse_stale_list
from streamkd.store.summary import teacher_summary
from streamkd.store.writer import StoreWriter, create_store
from streamkd.views.views import Views


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


@public
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
        found = match_images(images, as_one(stores), progress)
        there = np.flatnonzero(found >= 0)
        keys, numbers = images.keys.take(there), found[there]
    with image_progress(len(keys), 0, "merging", progress) as bar:
        store = merge_stores(
            stores, keys, numbers, out, progress=lambda num_copied: bar.update(num_copied - bar.n)
        )
    num_kept = len(np.unique(numbers))
    return MergeReport(store, num_listed - num_different, num_different - num_kept)


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
        refuse_stale_list(out)
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
