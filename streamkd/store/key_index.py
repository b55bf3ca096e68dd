"""The key index: from keys to images, without loading the keys of the store.

    images = key_index.find(file, store_keys, keys)         # -1 where a key is absent

`key_hash` is sorted, `key_row` tells whose hash it is. A hash only leads to a candidate; its key
is compared byte by byte, so that neither two keys with one hash nor a damaged index can give the
logits of another image.
"""

from __future__ import annotations

import numpy as np

from streamkd.keys import Keys, hash_keys
from streamkd.store.store_file import StoreFile
from streamkd.store.userblock import damaged

_CHUNK_KEYS = 16_384
# Of 100 million keys 3 in 10,000 sets have one pair with equal hashes; a longer run is no accident.
_MAX_EQUAL_HASHES = 64
# Hashes are evenly spread: of 100 million, the third guess is off by 10 or so.
_NUM_GUESSES, _WINDOW = 3, 32
# With fewer hashes to a wanted one, sorted look-ups meet on the same pages and cost less.
_SPARSE = 1024


def find(file: StoreFile, store_keys: Keys, keys: Keys) -> np.ndarray:
    """Returns int64 `[N]`, the image of each key, -1 where the store has no such key.

    About 2 µs a key, a third of it for the hash. Runs of keys that stand in the store in the same
    order, as in a manifest of the images it was taught with, are compared as one block of bytes:
    0.1 µs a key.

    Raises:
      DamagedStoreError: the index is damaged. It is read as a whole, once, before a key is
        called absent.
    """
    hashes, images = file.read("key_hash"), file.read("key_row")
    found = np.empty(len(keys), np.int64)
    following = 0
    for start in range(0, len(keys), _CHUNK_KEYS):
        part = keys.take(range(start, min(start + _CHUNK_KEYS, len(keys))))
        run = range(following, following + len(part))
        if len(part) > 1 and store_keys.take(run) == part:
            place = np.array(run)
        else:
            place = _find_part(file, hashes, images, store_keys, part)
        found[start : start + len(part)] = place
        following = int(place[-1]) + 1
    return found


def _places(hashes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns int64 `[N]`, where each hash stands in the sorted hashes, or would stand.

    Bisection of 10 million hashes on a cold disk reads 10 pages a key for the first keys and 4
    afterwards; guessing 1.4. From memory it takes 0.6 µs a key in the place of 1.7.
    """
    if len(hashes) < _SPARSE * len(wanted):
        order = np.argsort(wanted)
        place = np.empty(len(wanted), np.int64)
        place[order] = np.searchsorted(hashes, wanted[order])
        return place
    last, per_hash = len(hashes) - 1, len(hashes) / 2.0**64
    guess = np.minimum((wanted * per_hash).astype(np.int64), last)
    for _ in range(_NUM_GUESSES):
        distance = (wanted - hashes[guess]).view(np.int64)  # wraps: what is behind is negative
        guess = np.clip(guess + np.rint(distance * per_hash).astype(np.int64), 0, last)
    first = np.clip(guess - _WINDOW // 2, 0, len(hashes) - _WINDOW)
    window = hashes[first[:, None] + np.arange(_WINDOW)]
    smaller = (window < wanted[:, None]).sum(axis=1)
    place = first + smaller
    # A window that does not hold the place: the ends of the index, or a damaged one.
    outside = np.flatnonzero((smaller == 0) | (smaller == _WINDOW))
    place[outside] = np.searchsorted(hashes, wanted[outside])
    return place


def _find_part(
    file: StoreFile, hashes: np.ndarray, images: np.ndarray, store_keys: Keys, keys: Keys
) -> np.ndarray:
    wanted = hash_keys(keys)
    place = _places(hashes, wanted)
    found = np.full(len(keys), -1, np.int64)
    open_keys = np.arange(len(keys))
    for _ in range(_MAX_EQUAL_HASHES):
        open_keys = open_keys[place[open_keys] < len(hashes)]
        open_keys = open_keys[hashes[place[open_keys]] == wanted[open_keys]]
        if not len(open_keys):
            return found
        candidates = images[place[open_keys]].astype(np.int64)
        if candidates.min() < 0 or candidates.max() >= len(store_keys):
            raise damaged(file.path, "its key index names images that it does not have")
        equal = store_keys.equal_at(candidates, keys, open_keys)
        found[open_keys[equal]] = candidates[equal]
        open_keys = open_keys[~equal]
        place[open_keys] += 1
    raise damaged(file.path, f"its key index holds over {_MAX_EQUAL_HASHES} equal hashes")
