"""Verifies a store, its deltas or shards, and the images they were made of, without the teacher.

report = verify("teacher.h5", images=scan("photos/train"))
report.sound, report.problems
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamkd.errors import DamagedStoreError
from streamkd.keys import Keys
from streamkd.manifest.manifest import UNLABELLED, Manifest
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
    images: Manifest | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> VerifyReport:
    """Returns whether a store is sound, and its deltas with it.

    Args:
      path: of a store or of an index file.
      images: the images it was made of; every file is read and compared with what the teacher
        saw, and so are the names of the classes. Images without logits are problems too; renamed
        files are not.
      sample: check about this many rows of each file, drawn with `seed`, instead of all.
      seed: of the sample.
      progress: show progress on standard error.

    Raises:
      StoreError: there is no store at `path`.
    """
    try:
        store = open_store(path)
    except DamagedStoreError as error:
        report = VerifyReport()
        report.add(str(error))
        return report
    parts = flatten([store])
    comparison = None
    if images is not None:
        # Images cannot be found by a damaged index; what is damaged is reported below.
        with contextlib.suppress(DamagedStoreError):
            comparison = _Comparison(store, images, progress)
    report = VerifyReport()
    for number, part in enumerate(parts):
        with image_progress(None, 0, "verifying rows", progress) as bar:
            found = verify_store(
                part.path,
                compare=None if comparison is None else comparison.of_store(number),
                sample=sample,
                seed=seed,
                progress=functools.partial(_advance, bar),
            )
        report.include(found, f" ({part.path})" if len(parts) > 1 else "")
    if comparison is not None:
        for key in comparison.without_logits():
            report.add("the image has no logits", key=key)
    return report


def _advance(bar: Any, rows_checked: int, rows_to_check: int) -> None:
    bar.total = rows_to_check
    bar.update(rows_checked - bar.n)


class _Comparison:
    """Compares the images of a manifest with what the teacher saw of them."""

    def __init__(self, store: RowStore, images: Manifest, progress: bool) -> None:
        self._store, self._images, self._progress = store, images, progress
        self._parts = flatten([store])
        found = store.images_of_keys(images.keys)
        self._new = np.flatnonzero(found < 0)
        self._new_digests = self._digest(images.paths(self._new))[0]
        # For each image of the stores, numbered through, its place in the manifest.
        self._places = np.full(sum(part.num_images for part in self._parts), -1, np.int64)
        self._places[found[found >= 0]] = np.flatnonzero(found >= 0)

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        """The labels of the stores, numbered through."""
        return np.concatenate([part.labels for part in self._parts])

    def of_store(self, number: int) -> Compare:
        """Returns what `verify_store` asks for to compare the images of one of the stores."""
        first = sum(part.num_images for part in self._parts[:number])

        def compare(
            images: np.ndarray, keys: Keys, content: np.ndarray
        ) -> Iterator[tuple[int, str]]:
            counts = np.flatnonzero(self._store.images_of_keys(keys) == images + first)
            yield from self._compare(images + first, keys, content, counts)

        return compare

    def without_logits(self) -> Iterator[bytes]:
        """Yields the keys of images that the stores know neither by name nor by content."""
        if len(self._new):
            unknown = self._store.images_of_content(self._new_digests) < 0
            yield from self._images.keys.take(self._new[unknown])

    def _compare(
        self, images: np.ndarray, keys: Keys, content: np.ndarray, counts: np.ndarray
    ) -> Iterator[tuple[int, str]]:
        """Yields what is wrong with those images that no later store has as well: `counts`."""
        paths = [os.path.join(self._images.root, key) for key in keys.take(counts)]
        now, found = self._digest(paths)
        renamed = np.isin(content[counts], self._new_digests)
        for place, index in enumerate(counts.tolist()):
            if not found[place]:
                if not renamed[place]:
                    yield index, "the image has vanished"
            elif now[place] != content[index]:
                yield index, "the image was changed since the teacher saw it"
            elif reason := self._class_fault(int(images[index])):
                yield index, reason

    def _class_fault(self, image: int) -> str | None:
        """Returns what is wrong with the class of an image, numbered through."""
        place, names = self._places[image], self._store.class_names
        if place < 0 or not names or self._images.class_names is None:
            return None
        then, now = int(self._labels[image]), int(self._images.labels[place])
        if UNLABELLED in (then, now) or names[then] == self._images.class_names[now]:
            return None
        return (
            f"its class is {self._images.class_names[now]!r}, and was {names[then]!r} when the "
            "teacher was asked"
        )

    def _digest(self, paths: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        if not paths:
            return np.empty(0, np.uint64), np.empty(0, bool)
        with image_progress(len(paths), 0, "reading images", self._progress) as bar:
            return digest_files(paths, progress=bar.update)
