"""Pairs: images that share a batch because the teacher saw them mixed with each other.

    pairs = Pairs(store, store_images)
    units, views = pairs.of(view=3)        # int64 [num_units, 2], images and their views

With mixing the pair is the unit of the shuffle, so that each file is decoded once for both of its
roles. An image whose partner is gone, was changed, or was taught again elsewhere cannot be shown
mixed any more; it is shown plain, with the teacher's answer to the plain image.
"""

from __future__ import annotations

import numpy as np

from streamkd.store.row_store import RowStore

# Number of views whose pairs are kept: batches straddle two epochs.
_NUM_KEPT = 2


class Pairs:
    """Puts images into units of two, a different way for each view.

    Attributes:
      num_units: units an epoch, half the images rounded up.
    """

    def __init__(self, store: RowStore, images: np.ndarray) -> None:
        """Args: `images`, int64 `[num_images]`, each image's number in the store."""
        self._store = store
        self._images = images
        # The position in the manifest of each image of the store; -1 for an image without one.
        self._position = np.full(int(images.max()) + 1, -1, np.int64)
        self._position[images] = np.arange(len(images))
        self._made: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.num_units = -(-len(images) // 2)

    def of(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images of each unit, and the view that is shown of each image.

        Returns:
          int64 `[num_units, 2]`, positions in the manifest; an odd image fills both slots of its
          unit. And int64 `[num_units, 2]`, `view`, or 0 for an image that is shown plain.
        """
        if view not in self._made:
            made = dict(list(self._made.items())[1 - _NUM_KEPT :])
            self._made = {**made, view: self._make(view)}
        return self._made[view]

    def partners(self, view: int) -> np.ndarray:
        """Returns int64 `[num_images]`, the position in the manifest of each image's partner.

        -1 if the teacher saw the image unmixed, -2 if it can no longer be mixed as the teacher saw.
        """
        stored = self._store.partners_of(view)[self._images]
        partners = np.full(len(stored), -2, np.int64)
        partners[stored == -1] = -1
        known = (stored >= 0) & (stored < len(self._position))
        partners[known] = self._position[stored[known]]
        partners[known & (partners < 0)] = -2
        mixed = np.flatnonzero(partners >= 0)
        # Each must be the other's: an image that was taught again has another partner by now.
        partners[mixed[partners[partners[mixed]] != mixed]] = -2
        return partners

    def _make(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        partners = self.partners(view)
        numbers = np.arange(len(partners))
        leaders = np.flatnonzero(partners > numbers)
        single = np.flatnonzero(partners < 0)
        shown = np.where(partners[single] == -1, view, 0)
        if len(single) % 2:
            single, shown = np.append(single, single[-1]), np.append(shown, shown[-1])
        units = np.concatenate(
            [np.stack([leaders, partners[leaders]], axis=1), single.reshape(-1, 2)]
        )
        views = np.concatenate([np.full((len(leaders), 2), view), shown.reshape(-1, 2)])
        return units, views
