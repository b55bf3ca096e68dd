"""Writes the combined answers of several teachers as one ordinary store.

    store = write_combination(combine_stores(["a.h5", "b.h5"]), "both.h5")

The store is filled block by block, so that a process that was killed is continued by the same call,
and leaves the same bytes. Its header names the teachers, their weights and the rule.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from streamkd.differences import both_sides
from streamkd.errors import MissingLogitsError, OptionError, StoreError
from streamkd.keys import Keys
from streamkd.manifest.fingerprint import fingerprint
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.progress import image_progress
from streamkd.store.creation import create_store
from streamkd.store.fill import say_what_is_done
from streamkd.store.layout import REFUSED, StoreHeader
from streamkd.store.match_images import match_images
from streamkd.store.reader import LogitStore
from streamkd.store.store_list import refuse_stale_index
from streamkd.store.summary import teacher_summary
from streamkd.store.writer import StoreWriter
from streamkd.views.views import Views

if TYPE_CHECKING:
    from streamkd.ensemble.ensemble_store import EnsembleStore


def write_combination(
    combination: EnsembleStore,
    out: str | os.PathLike[str],
    *,
    images: Manifest | str | os.PathLike | None,
    codec: str,
    progress: bool,
) -> LogitStore:
    """Returns the finished store; see `EnsembleStore.write`."""
    out = os.fspath(out)
    _refuse_member(combination, out)
    keys, numbers = combination.keys, np.arange(combination.num_images)
    if images is not None:
        manifest = as_manifest(images)
        matched = match_images(manifest, combination, progress)
        kept = np.flatnonzero(matched >= 0)
        if not len(kept):
            raise MissingLogitsError(
                f"None of the images is in all of {combination.path}, so that the store would be "
                "empty.\nGive the directory that the stores were made of."
            )
        keys, numbers = manifest.keys.take(kept), matched[kept]
        order = keys.sort_order()
        keys, numbers = keys.take(order), numbers[order]
    labels = combination.labels[numbers]
    header = dataclasses.replace(
        combination.header,
        num_images=len(keys),
        codec=codec,
        fingerprint=fingerprint(keys, labels, combination.class_names or None),
    )
    if not os.path.lexists(out):
        refuse_stale_index(out)
        create_store(out, header, keys, labels, combination.class_names)
    _check_begun(out, header, keys)
    store = LogitStore(out)
    say_what_is_done(store, progress)
    with image_progress(len(keys), 0, "combining", progress) as bar:
        if not store.finished:
            _fill(combination, numbers, out, bar)
    return LogitStore(out)


def _refuse_member(combination: EnsembleStore, out: str) -> None:
    """Refuses to write over one of the stores."""
    paths = [path for member in combination.members for path in member.opened.describe().stores]
    paths += [member.opened.path for member in combination.members]
    if os.path.realpath(out) in map(os.path.realpath, paths):
        raise OptionError(f"--out {out} is one of the stores.\nGive the path of a new file.")


def _check_begun(out: str, header: StoreHeader, keys: Keys) -> None:
    """Refuses to continue a store that was not begun by the same combination."""
    store = LogitStore(out)
    if store.header != header or store.keys != keys:
        ours, theirs = (dataclasses.asdict(one) for one in (header, store.header))
        raise StoreError(
            f"{out} exists already and is not the beginning of this combination; it was left as it "
            f"is.\n{both_sides({out: theirs, 'now': ours})}"
            "Give another path with `--out`, or move the old file away."
        )


def _fill(combination: EnsembleStore, images: np.ndarray, out: str, bar: Any) -> None:
    """Fills and finishes the new store; `images` are those of the combination, in its order."""
    views = np.arange(combination.num_views)
    new_numbers = None
    if Views.from_dict(combination.header.views).mixes:
        new_numbers = np.full(combination.num_images, -2, np.int64)
        new_numbers[images] = np.arange(len(images))
    with StoreWriter(out) as writer:
        pending = writer.pending_blocks().tolist()
        bar.update(len(images) - sum(len(writer.images_of_block(block)) for block in pending))
        for block in pending:
            wanted = writer.images_of_block(block)
            originals = images[wanted.start : wanted.stop]
            rows = (originals[:, None] * combination.num_views + views).reshape(-1)
            stored, done = combination.stored_rows(rows)
            logits = stored.pop("logits")
            if new_numbers is not None:
                partners = stored["view_partner"]
                stored["view_partner"] = np.where(partners < 0, partners, new_numbers[partners])
            refused = (done == REFUSED).reshape(len(originals), -1).any(axis=1)
            content = combination.content_of(originals)
            writer.write_block(block, logits, content, refused, stored)
            bar.update(len(originals))
        writer.finish(teacher_summary(LogitStore(out)))
