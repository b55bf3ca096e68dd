"""A small pixel cache whose images all differ, and the check that what comes out is what went in.

cache = fill(PixelCache.on_disk(images, OPTIONS, folder))
assert assert_right(cache) == ALL.tolist()
"""

import numpy as np

from streamkd.image_options import ImageOptions

OPTIONS = ImageOptions(image_size=(5, 6))
IMAGE_BYTES = 5 * 6 * 3
ALL = np.arange(30)


def pixels_of(indices):
    """Returns uint8 `[images, 5, 6, 3]`, different in every image."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (30, 5, 6, 3), np.uint8)[indices]


def content_digests_of(indices):
    return np.asarray(indices, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(7)


def fill(cache, indices=ALL):
    cache.put(indices, pixels_of(indices), content_digests_of(indices))
    return cache


def copied(cache, indices, dtype=np.uint8):
    out = np.empty((len(indices), 5, 6, 3), dtype)
    cache.copy_to(np.asarray(indices), out)
    return out


def assert_right(cache, indices=ALL):
    """Asserts that images of the cache are those that were put in; returns their indices."""
    kept = indices[cache.has(indices)]
    np.testing.assert_array_equal(copied(cache, kept), pixels_of(kept))
    np.testing.assert_array_equal(cache.content_digests_of(kept), content_digests_of(kept))
    return kept.tolist()
