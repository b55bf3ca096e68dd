"""The views of a pass: parameters drawn when they are needed, partners matched once.

drawn = DrawnViews(Views(8, crop=(0.35, 1.0), mixup=0.8), images.keys)
drawn.of_images(np.array([0, 1]))          # {"view_crop": float32 [2, 9, 4], …}
"""

from __future__ import annotations

import numpy as np

from streamkd.keys import Keys, hash_keys
from streamkd.views.views import NEUTRAL, Views


class DrawnViews:
    """The parameters of every view (`views`) of every image of a pass.

    With mixing, the partners of all images are kept: 8 bytes for each view of each image.
    """

    def __init__(self, views: Views, keys: Keys) -> None:
        self.views = views
        self._keys = keys
        self._hashes_and_partners: tuple[np.ndarray, np.ndarray] | None = None
        if views.mixes:
            hashes = hash_keys(keys)
            self._hashes_and_partners = hashes, views.match(hashes)

    def of_images(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parameters of all views of images, each `[images, num_views, …]`."""
        if not self.views.datasets():
            return {}
        if self._hashes_and_partners is None:
            return self.views.draw(hash_keys(self._keys.take(images)))
        all_hashes, all_partners = self._hashes_and_partners
        hashes, partners = all_hashes[images], all_partners[images]
        drawn = self.views.draw(hashes)
        own = np.repeat(hashes[:, None], self.views.num_views, axis=1)
        partner_hashes = np.where(partners < 0, own, all_hashes[partners])
        drawn |= {"view_partner": partners, **self.views.draw_mixing(own, partner_hashes)}
        return {name: drawn[name] for name in self.views.datasets()}

    def of_rows(self, images: np.ndarray, alone: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parameters of all views, each `[images * num_views, …]`, as a store's rows.

        `alone` as in `unmixed`.
        """
        parameters = unmixed(self.of_images(images), alone)
        return {name: p.reshape(-1, *p.shape[2:]) for name, p in parameters.items()}

    def partners_of(self, images: np.ndarray) -> np.ndarray:
        """Returns int64 `[images * (num_views - 1)]`, the partner of each drawn view.

        An image that is not mixed is its own partner. Without mixing the array is empty.
        """
        if self._hashes_and_partners is None:
            return np.empty(0, np.int64)
        partners = self._hashes_and_partners[1][images, 1:]
        return np.where(partners < 0, images[:, None], partners).reshape(-1)

    def of_partners(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parameters of the partners' views, each `[images * (num_views - 1), …]`.

        `images` are the indices of the images, not of their partners.
        """
        partners = self.partners_of(images)
        parameters = self.of_images(partners)
        views = np.tile(np.arange(1, self.views.num_views), len(images))
        return {name: p[np.arange(len(partners)), views] for name, p in parameters.items()}


def unmixed(parameters: dict[str, np.ndarray], alone: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the parameters of a block in which the views `alone` are no longer mixed.

    Args:
      parameters: each `[images, num_views, …]`.
      alone: bool `[images * (num_views - 1)]`, the drawn views whose partner cannot be decoded;
        empty without mixing.
    """
    if not alone.any():
        return parameters
    changed = dict(parameters)
    for name in ("view_partner", "view_share", "view_paste"):
        if name in parameters:
            changed[name] = parameters[name].copy()
            changed[name][:, 1:][alone.reshape(len(changed[name]), -1)] = NEUTRAL[name]
    return changed
