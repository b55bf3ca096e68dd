"""Verifies a store, and the images it was made of, without the teacher.

report = verify("teacher.h5", images=scan("photos/train"))
report.sound, report.problems
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from streamkd.images.digest import digest_files
from streamkd.images.manifest import Manifest
from streamkd.keys import Keys
from streamkd.progress import image_progress
from streamkd.store.verify import VerifyReport, verify_store


def verify(
    path: str | os.PathLike,
    *,
    images: Manifest | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> VerifyReport:
    """Returns whether a store is sound.

    Args:
      path: the store.
      images: the images it was made of; every file is read and its digest compared.
      sample: check about this many rows, drawn with `seed`, instead of all.
      seed: of the sample.
      progress: show progress on standard error.

    Raises:
      StoreError: there is no store at `path`.
    """
    digests = None
    if images is not None:
        digests = _digests_of(images, progress)
    with image_progress(None, 0, "verifying rows", progress) as bar:

        def advance(rows_checked: int, rows_to_check: int) -> None:
            bar.total = rows_to_check
            bar.update(rows_checked - bar.n)

        return verify_store(path, digests=digests, sample=sample, seed=seed, progress=advance)


def _digests_of(images: Manifest, progress: bool) -> Any:
    """Returns the function that reads the files of some keys."""

    def digests(keys: Keys) -> tuple[np.ndarray, np.ndarray]:
        paths = [os.path.join(images.root, key) for key in keys]
        with image_progress(len(paths), 0, "reading images", progress) as bar:
            return digest_files(paths, progress=bar.update)

    return digests
