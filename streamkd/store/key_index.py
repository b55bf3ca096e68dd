"""The key index: from keys to images, without loading the keys of the store.

    images = key_index.find(file, store_keys, keys)         # -1 where a key is absent

`key_hash` is sorted, `key_row` tells whose hash it is. A hash only leads to a candidate; its key
is compared byte by byte, so that neither two keys with one hash nor a damaged index can give the
logits of another image.
"""

from __future__ import annotations

import numpy as np

from streamkd.keys import Keys, hash_keys
from streamkd.store.opening import StoreFile
from streamkd.store.userblock import damaged

_CHUNK_KEYS = 65_536
# Of 100 million keys 3 in 10,000 sets have one pair with equal hashes; a longer run is no accident.
_MAX_EQUAL_HASHES = 64


def find(file: StoreFile, store_keys: Keys, keys: Keys) -> np.ndarray:
    """Returns int64 `[N]`, the image of each key, -1 where the store has no such key.

    About 2 µs a key, half of it for the hash.

    Raises:
      DamagedStoreError: the index is damaged. It is read as a whole, once, before a key is
        called absent.
    """
    hashes, images = file.read("key_hash"), file.read("key_row")
    found = np.empty(len(keys), np.int64)
    for start in range(0, len(keys), _CHUNK_KEYS):
        part = keys.take(range(start, min(start + _CHUNK_KEYS, len(keys))))
        found[start : start + len(part)] = _find_part(file, hashes, images, store_keys, part)
    return found


def _find_part(
    file: StoreFile, hashes: np.ndarray, images: np.ndarray, store_keys: Keys, keys: Keys
) -> np.ndarray:
    wanted = hash_keys(keys)
    # Sorted look-ups walk the index once; in random order each is a cache miss.
    by_hash = np.argsort(wanted)
    place = np.empty(len(keys), np.int64)
    place[by_hash] = np.searchsorted(hashes, wanted[by_hash])
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
