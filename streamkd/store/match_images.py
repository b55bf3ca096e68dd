"""Matches the images of a manifest with those of a store: by key, else by the content of files.

    in_store = match_images(scan("photos/train"), open_store("teacher.h5"), progress=True)

Only files whose key the store does not know are read.
"""

from __future__ import annotations

import numpy as np

from streamkd.manifest.manifest import Manifest
from streamkd.pixels.content_digest import digest_files
from streamkd.progress import image_progress
from streamkd.store.row_store import RowStore


def match_images(images: Manifest, store: RowStore, progress: bool) -> np.ndarray:
    """Returns int64 `[num_images]`, each image's number in the store; -1 where the store has none.

    Renamed and moved files are recognized by their content; `progress` shows how they are read.
    """
    in_store = store.images_of_keys(images.keys)
    unknown = np.flatnonzero(in_store < 0)
    if len(unknown):
        with image_progress(len(unknown), 0, "finding renamed files", progress) as bar:
            content_digests, readable = digest_files(images.paths(unknown), progress=bar.update)
        in_store[unknown] = np.where(readable, store.images_of_content(content_digests), -1)
    return in_store
