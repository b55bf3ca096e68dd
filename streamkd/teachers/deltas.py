"""Deltas: images that are new or were changed since a store was finished are taught beside it.

    store = teach_changes(setup, images, "teacher.h5")

A finished store never changes. What it lacks goes into `teacher.delta-1.h5`, and
`teacher.h5.index` lists the two; whoever opens `teacher.h5` gets both. The next change makes
`teacher.delta-2.h5`; `streamkd merge` makes one store of all of them.
"""

from __future__ import annotations

import os

import numpy as np

from streamkd.errors import StoreError, readable_key
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.content_digest import digest_each, digest_files
from streamkd.progress import image_progress
from streamkd.store.collection import flatten, link_stores, open_store
from streamkd.store.reader import LogitStore
from streamkd.store.row_store import RowStore
from streamkd.store.store_list import index_beside, is_index_file
from streamkd.teachers.teacher_pass import TeacherPass, TeacherSetup, other_images


def teach_changes(
    setup: TeacherSetup,
    images: Manifest,
    path: str,
    *,
    skip_bad: bool = False,
    progress: bool = True,
) -> RowStore:
    """Returns the finished store at `path` once every image has its logits.

    Every file is read and its digest compared with the one the teacher saw. Renamed and moved
    files are found by their content and not asked for again. Images of the store that are gone
    are left where they are.

    Args:
      setup: of the pass that filled the store.
      images: in key order.
      path: of a finished store, or of an index file.
      skip_bad: as in `TeacherPass`.
      progress: show progress on standard error.

    Raises:
      OtherImagesError: the store has none of the images.
      StreamkdError: what does not fit; nothing that was written is lost.
    """
    store = open_store(path)
    base = flatten([store])[0]
    setup.check_same(base)
    TeacherPass(setup, images, path, skip_bad=skip_bad).check_answers(base)
    while True:
        delta = _next_delta(path, store)
        if os.path.exists(delta):
            wanted = _images_of_begun(images, delta)
        else:
            wanted = find_changes(images, store, progress)
        if not len(wanted):
            return store
        if len(wanted) == len(images):
            raise other_images(images, base)
        TeacherPass(setup, images.select(wanted), delta, skip_bad=skip_bad).run(progress)
        index = path if is_index_file(path) else index_beside(path)
        link_stores([path, delta], index)
        store = open_store(path)


def find_changes(images: Manifest, store: RowStore, progress: bool) -> np.ndarray:
    """Returns int64, the images without logits: new, or other bytes than the teacher saw.

    A file that cannot be read counts as changed, and the pass refuses it by name; not so where it
    could not be read when the teacher was asked either, and was skipped.
    """
    with image_progress(len(images), 0, "looking for changes", progress) as bar:
        paths = images.each_path()
        content_digests, readable = digest_files(paths, progress=bar.update)
    content_digests[~readable] = digest_each([b""])  # as a refused image is stored
    found = store.images_of_keys(images.keys)
    known = found >= 0
    same = np.zeros(len(images), bool)
    same[known] = store.content_of(found[known]) == content_digests[known]
    same[~known] = store.images_of_content(content_digests[~known]) >= 0
    return np.flatnonzero(~same)


def _next_delta(path: str, store: RowStore) -> str:
    """Returns the path of the first delta that the index does not list."""
    listed = {os.path.basename(single.path) for single in flatten([store])}
    folder, name = os.path.split(path)
    stem = name.removesuffix(".index").removesuffix(".h5")
    number = 1
    while (delta := f"{stem}.delta-{number}.h5") in listed:
        number += 1
    return os.path.join(folder, delta)


def _images_of_begun(images: Manifest, delta: str) -> np.ndarray:
    """Returns the images of a delta that an earlier pass has begun.

    Raises:
      StoreError: some of them are gone, so that it can never be finished.
    """
    store = LogitStore(delta)
    wanted = np.flatnonzero(store.images_of_keys(images.keys) >= 0)
    if len(wanted) < store.num_images:
        there = set(images.keys.take(wanted))
        gone = next(key for key in store.keys if key not in there)
        raise StoreError(
            f"The delta {delta} was begun for {store.num_images:,} images, and "
            f"{store.num_images - len(wanted):,} of them are no longer there.\n"
            f"  first: '{readable_key(gone)}'\n"
            f"Move it away (`mv {delta} {delta}.old`) and give the same command again.",
            key=gone,
        )
    return wanted
