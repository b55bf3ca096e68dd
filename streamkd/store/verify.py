"""Verification of a store, its deltas or shards, and of the images they were made of.

    report = verify("teacher.h5", images=scan("photos/train"))
    report.sound, report.problems

The teacher is not needed. `verify_file.py` checks one file; this module compares the images.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamkd.checks import check_types
from streamkd.errors import DamagedStoreError
from streamkd.keys import Keys
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.pixels.content_digest import digest_files
from streamkd.progress import image_progress
from streamkd.public import public
from streamkd.store.collection import flatten, open_store
from streamkd.store.row_store import RowStore
from streamkd.store.verify_file import Compare, VerifyReport, verify_store


@public
def verify(
    path: str | os.PathLike,
    *,
    images: Manifest | str | os.PathLike | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> VerifyReport:
    """Returns whether a store and its deltas are sound.

    Args:
      path: of a store or of an index file.
      images: the images it was made of. Every file is compared with the bytes that the teacher saw,
        and class names with the store's. An image without logits is a problem, a renamed one not.
      sample: check about this many rows of each file, drawn with `seed`, instead of all.
      seed: of the sample.
      progress: show progress on standard error.

    Raises:
      StoreError: `path` is no store.
    """
    check_types(verify, locals())
    if images is not None:
        images = as_manifest(images)
    try:
        store = open_store(path)
    except DamagedStoreError as error:
        report = VerifyReport()
        report.add(str(error))
        return report
    files = flatten([store])
    comparison = None
    if images is not None:
        # A damaged index leads to no image; the damage is reported below.
        with contextlib.suppress(DamagedStoreError):
            comparison = _Comparison(store, images, progress)
    report = VerifyReport()
    for number, file in enumerate(files):
        with image_progress(None, 0, "verifying rows", progress) as bar:
            file_report = verify_store(
                file.path,
                compare=None if comparison is None else comparison.of_store(number),
                sample=sample,
                seed=seed,
                progress=functools.partial(_advance, bar),
            )
        report.include(file_report, f" ({file.path})" if len(files) > 1 else "")
    if comparison is not None:
        for key in comparison.without_logits():
            report.add("the image has no logits", key=key)
    return report


def _advance(bar: Any, rows_checked: int, rows_to_check: int) -> None:
    bar.total = rows_to_check
    bar.update(rows_checked - bar.n)


class _Comparison:
    """Compares the images of a manifest with the digests and classes that a store has of them."""

    def __init__(self, store: RowStore, images: Manifest, progress: bool) -> None:
        self._store, self._images, self._progress = store, images, progress
        self._files = flatten([store])
        numbers = store.images_of_keys(images.keys)
        self._new = np.flatnonzero(numbers < 0)
        self._new_digests = self._digest(images.paths(self._new))[0]
        # The manifest index of each image, numbered across all stores; -1 for none.
        self._manifest_indices = np.full(sum(file.num_images for file in self._files), -1, np.int64)
        self._manifest_indices[numbers[numbers >= 0]] = np.flatnonzero(numbers >= 0)

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        """The labels of all stores, one after the other."""
        return np.concatenate([file.labels for file in self._files])

    def of_store(self, number: int) -> Compare:
        """Returns the function that `verify_store` calls to compare the images of one store."""
        first = sum(file.num_images for file in self._files[:number])

        def compare(
            images: np.ndarray, keys: Keys, content_digests: np.ndarray
        ) -> Iterator[tuple[int, str]]:
            # An image that a later store has as well is compared with that store alone.
            compared = np.flatnonzero(self._store.images_of_keys(keys) == images + first)
            yield from self._compare(images + first, keys, content_digests, compared)

        return compare

    def without_logits(self) -> Iterator[bytes]:
        """Yields the keys of images that the stores know neither by name nor by content."""
        if len(self._new):
            unknown = self._store.images_of_content(self._new_digests) < 0
            yield from self._images.keys.take(self._new[unknown])

    def _compare(
        self, images: np.ndarray, keys: Keys, content_digests: np.ndarray, compared: np.ndarray
    ) -> Iterator[tuple[int, str]]:
        """Yields the index and the fault of each image at the indices `compared`."""
        paths = [os.path.join(self._images.root, key) for key in keys.take(compared)]
        digests, readable = self._digest(paths)
        renamed = np.isin(content_digests[compared], self._new_digests)
        for position, index in enumerate(compared.tolist()):
            if not readable[position]:
                if not renamed[position]:
                    yield index, "the image has vanished"
            elif digests[position] != content_digests[index]:
                yield index, "the image was changed since the teacher saw it"
            elif reason := self._class_fault(int(images[index])):
                yield index, reason

    def _class_fault(self, image: int) -> str | None:
        """Returns the fault of the class of an image, numbered across all stores, or None."""
        index, names = self._manifest_indices[image], self._store.class_names
        if index < 0 or not names or self._images.class_names is None:
            return None
        then, now = int(self._labels[image]), int(self._images.labels[index])
        name = self._images.class_names[now]
        if UNLABELLED in (then, now) or names[then] == name:
            return None
        # The folder is part of the key, and had its name then: a class map gave it its class.
        if name not in names and self._images.keys[index].startswith(os.fsencode(name) + b"/"):
            return None
        return f"its class is {name!r}, and was {names[then]!r} when the teacher was asked"

    def _digest(self, paths: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the digest of each file, uint64, and whether it could be read, bool."""
        if not paths:
            return np.empty(0, np.uint64), np.empty(0, bool)
        with image_progress(len(paths), 0, "reading images", self._progress) as bar:
            return digest_files(paths, progress=bar.update)
