"""The key index: from keys to images, without loading the keys of the store.

    images = key_index.find(file, store_keys, keys)         # -1 where a key is absent

`key_hash` is sorted, and `key_row` has the image of each hash. A hash only leads to a candidate,
whose key is compared byte by byte: neither two keys with one hash nor a damaged index can give the
logits of another image.
"""

from __future__ import annotations

import numpy as np

from streamkd.keys import Keys, hash_keys
from streamkd.store.store_file import StoreFile
from streamkd.store.userblock import damaged

# Keys that are looked up at a time.
_CHUNK_KEYS = 16_384
# Longest run of equal hashes. Among 100 million keys, 3 in 10,000 sets have one pair with equal
# hashes; a longer run is no accident.
_MAX_EQUAL_HASHES = 64
# Guesses of a hash's position, and hashes compared around the last. Hashes are evenly spread: among
# 100 million, the third guess is off by about 10.
_NUM_GUESSES, _WINDOW = 3, 32
# Smallest number of hashes for each wanted hash that is worth guessing. With fewer, sorted look-ups
# meet on the same pages and cost less.
_SPARSE = 1024


def find(file: StoreFile, store_keys: Keys, keys: Keys) -> np.ndarray:
    """Returns int64 `[N]`, the image of each key, -1 where the store has no such key.

    About 2 µs a key, a third of it for the hash. A run of keys in the order of the store, as in a
    manifest of the images that it was taught with, is compared as one block of bytes: 0.1 µs a key.

    Raises:
      DamagedStoreError: the index is damaged.
    """
    hashes, hashed_images = file.read("key_hash"), file.read("key_row")
    images = np.empty(len(keys), np.int64)
    following = 0
    for start in range(0, len(keys), _CHUNK_KEYS):
        part = keys.take(range(start, min(start + _CHUNK_KEYS, len(keys))))
        run = range(following, following + len(part))
        if len(part) > 1 and store_keys.take(run) == part:
            part_images = np.array(run)
        else:
            part_images = _find_part(file, hashes, hashed_images, store_keys, part)
        images[start : start + len(part)] = part_images
        following = int(part_images[-1]) + 1
    return images


def _positions(hashes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns int64 `[N]`, the index of each wanted hash in the sorted hashes, as `searchsorted`.

    Bisection of 10 million hashes on a cold disk reads 10 pages a key for the first keys and 4
    afterwards; guessing reads 1.4. From memory guessing takes 0.6 µs a key instead of 1.7.
    """
    if len(hashes) < _SPARSE * len(wanted):
        order = np.argsort(wanted)
        positions = np.empty(len(wanted), np.int64)
        positions[order] = np.searchsorted(hashes, wanted[order])
        return positions
    last, per_hash = len(hashes) - 1, len(hashes) / 2.0**64
    guess = np.minimum((wanted * per_hash).astype(np.int64), last)
    for _ in range(_NUM_GUESSES):
        distance = (wanted - hashes[guess]).view(np.int64)  # wraps: negative for a guess too high
        guess = np.clip(guess + np.rint(distance * per_hash).astype(np.int64), 0, last)
    first = np.clip(guess - _WINDOW // 2, 0, len(hashes) - _WINDOW)
    window = hashes[first[:, None] + np.arange(_WINDOW)]
    smaller = (window < wanted[:, None]).sum(axis=1)
    positions = first + smaller
    # The window misses at the ends of the index, and in a damaged index.
    outside = np.flatnonzero((smaller == 0) | (smaller == _WINDOW))
    positions[outside] = np.searchsorted(hashes, wanted[outside])
    return positions


def _find_part(
    file: StoreFile, hashes: np.ndarray, hashed_images: np.ndarray, store_keys: Keys, keys: Keys
) -> np.ndarray:
    """Returns int64 `[N]`, the image of each key by its hash, -1 where the store has none."""
    wanted = hash_keys(keys)
    positions = _positions(hashes, wanted)
    images = np.full(len(keys), -1, np.int64)
    undecided = np.arange(len(keys))
    for _ in range(_MAX_EQUAL_HASHES):
        undecided = undecided[positions[undecided] < len(hashes)]
        undecided = undecided[hashes[positions[undecided]] == wanted[undecided]]
        if not len(undecided):
            return images
        candidates = hashed_images[positions[undecided]].astype(np.int64)
        if candidates.min() < 0 or candidates.max() >= len(store_keys):
            raise damaged(file.path, "its key index names images that it does not have")
        equal = store_keys.equal_at(candidates, keys, undecided)
        images[undecided[equal]] = candidates[equal]
        undecided = undecided[~equal]
        positions[undecided] += 1
    raise damaged(file.path, f"its key index holds over {_MAX_EQUAL_HASHES} equal hashes")
