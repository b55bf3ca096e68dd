"""Deltas: images that are new or have changed since a store was finished, in stores next to it.

    store = teach_changes(setup, images, "teacher.h5")

A finished store never changes. Rows that it lacks go into `teacher.delta-1.h5`, and
`teacher.h5.index` lists the two stores; opening `teacher.h5` opens both. The next change makes
`teacher.delta-2.h5`. `streamkd merge` makes one store of all.
"""

from __future__ import annotations

import os

import numpy as np

from streamkd.errors import StoreError, readable_key
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.content_digest import digest_each, digest_files
from streamkd.progress import image_progress, say
from streamkd.store.collection import flatten, link_stores, open_store
from streamkd.store.reader import LogitStore
from streamkd.store.row_store import RowStore
from streamkd.store.store_list import index_beside, is_index_file
from streamkd.teachers.kept_pixels import KeptPixels
from streamkd.teachers.other_images import other_images
from streamkd.teachers.teacher_pass import TeacherPass, TeacherSetup


def teach_changes(
    setup: TeacherSetup,
    images: Manifest,
    path: str,
    *,
    skip_bad: bool = False,
    kept: KeptPixels | None = None,
    progress: bool = True,
) -> RowStore:
    """Returns the finished store at `path` once every image has its logits.

    Every file is read, and its digest compared with that of the file that the teacher saw. Renamed
    and moved files are recognized by their content, and the teacher is not asked about them again.
    Rows of images that are gone stay in the store.

    Args:
      setup: the setup of the pass that filled the store.
      images: the images, in key order.
      path: of a finished store, or of an index file.
      skip_bad, kept: as in `TeacherPass`, for all images.
      progress: show progress on standard error.

    Raises:
      OtherImagesError: the store has none of the images.
      StreamkdError: setup, images and store do not fit; nothing that was written is lost.
    """
    store = open_store(path)
    base = flatten([store])[0]
    setup.teacher.follow(base.header.teacher)
    setup.check_same(base)
    setup.teacher.settle_output(base.header.teacher["output"])
    TeacherPass(setup, images, path, skip_bad=skip_bad).check_answers(base)
    has_grown = False
    while True:
        delta = _next_delta(path, store)
        if os.path.exists(delta):
            changed = _images_of_begun(images, delta)
        else:
            changed = find_changes(images, store, progress)
        if not len(changed):
            words = (
                f"already finished: no image is new or has changed since {path}; nothing is done"
            )
            say(words, progress and not has_grown)
            return store
        if len(changed) == len(images):
            raise other_images(images, base)
        left = None if kept is None else kept.selected(changed)
        TeacherPass(setup, images.select(changed), delta, skip_bad=skip_bad, kept=left).run(
            progress
        )
        index = path if is_index_file(path) else index_beside(path)
        link_stores([path, delta], index)
        has_grown = True
        store = open_store(path)


def find_changes(images: Manifest, store: RowStore, progress: bool) -> np.ndarray:
    """Returns int64, the indices of new images and of images whose bytes have changed.

    A file that cannot be read counts as changed, and the pass refuses it by name, unless it could
    not be read by the pass before either and was skipped.
    """
    with image_progress(len(images), 0, "looking for changes", progress) as bar:
        paths = images.each_path()
        content_digests, readable = digest_files(paths, progress=bar.update)
    content_digests[~readable] = digest_each([b""])  # as a refused image is stored
    in_store = store.images_of_keys(images.keys)
    known = in_store >= 0
    same = np.zeros(len(images), bool)
    same[known] = store.content_of(in_store[known]) == content_digests[known]
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
    """Returns int64, the indices of the images of a delta that an earlier pass has begun.

    Raises:
      StoreError: images of the delta are gone, so that it can never be finished.
    """
    store = LogitStore(delta)
    present = np.flatnonzero(store.images_of_keys(images.keys) >= 0)
    if len(present) < store.num_images:
        present_keys = set(images.keys.take(present))
        gone = next(key for key in store.keys if key not in present_keys)
        raise StoreError(
            f"The delta {delta} was begun for {store.num_images:,} images, and "
            f"{store.num_images - len(present):,} of them are gone.\n"
            f"  first: '{readable_key(gone)}'\n"
            f"Move it away (`mv {delta} {delta}.old`) and give the same command again.",
            key=gone,
        )
    return present
