"""The refusal of a store that was written for other images than those that are given.

raise other_images(images, store)
"""

from __future__ import annotations

import os

import numpy as np

from streamkd.errors import OtherImagesError, readable_key
from streamkd.manifest.manifest import Manifest
from streamkd.store.reader import LogitStore


def other_images(images: Manifest, store: LogitStore) -> OtherImagesError:
    """Returns the refusal of a store that was written for other images."""
    header = store.header
    return OtherImagesError(
        "The logit store was written for other images.\n"
        f"  images: {os.fsdecode(images.root)} ({len(images):,} images, "
        f"fingerprint {images.fingerprint[:8]})\n"
        f"  store:  {store.path} ({header.num_images:,} images, "
        f"fingerprint {header.fingerprint[:8]})\n"
        f"{_first_difference(images, store)}"
        f"{_way_on(images, store)}"
    )


def _way_on(images: Manifest, store: LogitStore) -> str:
    """Returns what to do; a pass that was cut can be finished where images only came to its own."""
    num_known = np.count_nonzero(store.images_of_keys(images.keys) >= 0)
    if not store.finished and store.num_images == num_known < len(images):
        return (
            "The pass of this store was cut. Move the new images away and give the same command, "
            "which finishes it. Then put them back: the same command answers only them."
        )
    return "Give another path with `--out`, or move the old store away."


def _first_difference(images: Manifest, store: LogitStore) -> str:
    """Returns a line that names the first image that only one side has."""
    missing = np.flatnonzero(store.images_of_keys(images.keys) < 0)
    if len(missing):
        key = readable_key(images.keys[missing[0]])
        return f"  first of {len(missing):,} images without logits: '{key}'\n"
    if len(images) < store.num_images:
        return f"  {store.num_images - len(images):,} images of the store are gone\n"
    return "  the same keys with other labels or class names\n"
