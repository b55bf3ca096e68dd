"""Merging: shards, or a store and its deltas, become one store without asking the teacher again.

    report = merge(["shard-1.h5", "shard-2.h5"], "teacher.h5")
    report = merge(["teacher.h5"], "compact.h5", images=scan("photos/train"))
    report.store, report.num_superseded, report.num_dropped

Rows are copied as they lie on the disk, block by block, each compared with its checksum. The new
store is filled like any other, so that a merge that was killed resumes. Shards of one pass, merged,
are the same to the byte as the store of an undivided pass, if it has the same blocks.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamkd.checks import check_types
from streamkd.errors import MissingLogitsError, OptionError, StoreError
from streamkd.keys import Keys
from streamkd.manifest.fingerprint import fingerprint
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.progress import image_progress
from streamkd.public import public
from streamkd.store.collection import as_one, flatten, link_stores, open_store
from streamkd.store.creation import create_store
from streamkd.store.fill import say_what_is_done
from streamkd.store.layout import REFUSED, StoreHeader
from streamkd.store.match_images import match_images
from streamkd.store.reader import LogitStore
from streamkd.store.row_store import RowStore
from streamkd.store.same_pass import check_same_pass, effective_images
from streamkd.store.store_list import refuse_stale_index
from streamkd.store.summary import teacher_summary
from streamkd.store.writer import StoreWriter
from streamkd.views.views import Views


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeReport:
    """The merged store, and the numbers of images that it left behind.

    Attributes:
      store: the new store, or the collection that the index file lists.
      num_superseded: images that a later store has as well.
      num_dropped: images that `images` does not name.
    """

    store: RowStore
    num_superseded: int
    num_dropped: int


@public
def merge(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    images: Manifest | str | os.PathLike | None = None,
    index: bool = False,
    progress: bool = True,
) -> MergeReport:
    """Makes one store of shards, of a store and its deltas, or of stores of different images.

    Args:
      paths: of finished stores. The last store that has an image counts.
      out: path of the new store; a merge that was killed is resumed.
      images: keep the logits of these images only, under the keys that they have now: a renamed
        file is recognized by its content. By default everything is kept.
      index: write an index file that lists the stores, and copy no row.
      progress: show progress on standard error.

    Raises:
      StoreError: stores that do not fit together.
      UnfinishedStoreError: a store is unfinished.
      MissingLogitsError: the stores have none of `images`.
    """
    check_types(merge, locals())
    if images is not None:
        images = as_manifest(images)
    if os.path.realpath(out) in map(os.path.realpath, paths):
        raise OptionError(f"--out {out} is one of the stores.\nGive the path of a new file.")
    stores = flatten([open_store(path) for path in paths])
    num_listed = sum(store.num_images for store in stores)
    if index:
        linked = link_stores(paths, out)
        num_superseded = num_listed - linked.num_images
        return MergeReport(store=linked, num_superseded=num_superseded, num_dropped=0)
    check_same_pass(stores)
    keys, numbers = effective_images(stores)
    num_different = len(keys)
    if images is not None:
        matches = match_images(images, as_one(stores), progress)
        kept = np.flatnonzero(matches >= 0)
        keys, numbers = images.keys.take(kept), matches[kept]
    with image_progress(len(keys), 0, "merging", progress) as bar:
        store = _merge_rows(stores, keys, numbers, os.fspath(out), bar)
    return MergeReport(
        store=store,
        num_superseded=num_listed - num_different,
        num_dropped=num_different - len(np.unique(numbers)),
    )


def _merge_rows(
    stores: Sequence[LogitStore], keys: Keys, images: np.ndarray, out: str, bar: Any
) -> LogitStore:
    """Returns the finished store `out`, with rows of several stores; resumes an earlier merge.

    Args:
      stores: finished, of one teacher pass.
      keys: of the images of the new store, each once.
      images: int64 `[num_keys]`, the number of each of these images, across all `stores`.
      out: path of the new store.
      bar: progress bar that counts its images.
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
    if not os.path.lexists(out):
        refuse_stale_index(out)
        create_store(out, header, keys, labels, stores[0].class_names)
    _check_begun(out, header, keys)
    store = LogitStore(out)
    say_what_is_done(store, not bar.disable)
    if not store.finished:
        _copy(as_one(stores), images, out, bar)
    return LogitStore(out)


def _check_begun(out: str, header: StoreHeader, keys: Keys) -> None:
    """Refuses to resume a store that was not begun by the same merge."""
    store = LogitStore(out)
    if store.header != header or store.keys != keys:
        raise StoreError(
            f"{out} exists already and is not the beginning of this merge; it was left as it is.\n"
            f"  {out}: {store.num_images:,} images, fingerprint {store.header.fingerprint[:8]}\n"
            f"  this merge: {header.num_images:,} images, fingerprint {header.fingerprint[:8]}\n"
            "Give another path with `--out`, or move the old file away."
        )


def _copy(source: RowStore, images: np.ndarray, out: str, bar: Any) -> None:
    """Fills and finishes the new store; `images` are numbers of `source`, in the new order."""
    views = np.arange(source.num_views)
    new_numbers = _new_numbers(source, images)
    with StoreWriter(out) as writer:
        pending = writer.pending_blocks().tolist()
        bar.update(len(images) - sum(len(writer.images_of_block(block)) for block in pending))
        for block in pending:
            wanted = writer.images_of_block(block)
            originals = images[wanted.start : wanted.stop]
            rows = (originals[:, None] * source.num_views + views).reshape(-1)
            stored, done = source.stored_rows(rows)
            if new_numbers is not None:
                partners = source.view_parameters(rows)["view_partner"]
                stored["view_partner"] = np.where(partners < 0, partners, new_numbers[partners])
            refused = (done == REFUSED).reshape(len(originals), -1).any(axis=1)
            writer.write_stored(block, stored, source.content_of(originals), refused)
            bar.update(len(originals))
        writer.finish(teacher_summary(LogitStore(out)))


def _new_numbers(source: RowStore, images: np.ndarray) -> np.ndarray | None:
    """Returns the new number of each image of `source`, -2 for an image that is not kept.

    None for views without partners, which name no image by its number.
    """
    if not Views.from_dict(source.header.views).mixes:
        return None
    num_listed = sum(store.num_images for store in flatten([source]))
    numbers = np.full(num_listed, -2, np.int64)
    numbers[images] = np.arange(len(images))
    return numbers
