"""Blocks as the teacher sees them: every view of some images, rendered from their files.

drawn = DrawnViews(views, images.keys)
for pixels, contents in rendered_blocks(images, groups, drawn, options): ...
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.images.decode import content_digests, decode_batch
from streamkd.images.files import read_files
from streamkd.images.manifest import Manifest
from streamkd.images.pipeline import read_pipeline
from streamkd.images.rendering import render_block
from streamkd.images.views import Views
from streamkd.keys import Keys, hash_keys
from streamkd.options import ImageOptions


class DrawnViews:
    """The parameters of every view of some images, drawn where they are asked for.

    Attributes:
      views: the specification.

    With mixing the partners of all images are kept, 8 bytes for each view of each.
    """

    def __init__(self, views: Views, keys: Keys) -> None:
        self.views = views
        self._keys = keys
        self._matched: tuple[np.ndarray, np.ndarray] | None = None
        if views.mixes:
            hashes = hash_keys(keys)
            self._matched = hashes, views.match(hashes)

    def of(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parameters of all views of some images, each `[images, num_views, …]`."""
        if not self.views.datasets():
            return {}
        if self._matched is None:
            return self.views.draw(hash_keys(self._keys.take(images)))
        all_hashes, all_partners = self._matched
        hashes, partners = all_hashes[images], all_partners[images]
        drawn = self.views.draw(hashes)
        own = np.repeat(hashes[:, None], self.views.num_views, axis=1)
        theirs = np.where(partners < 0, own, all_hashes[partners])
        drawn |= {"view_partner": partners, **self.views.draw_mixing(own, theirs)}
        return {name: drawn[name] for name in self.views.datasets()}

    def as_rows(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the same, each `[images * num_views, …]`, in the order of the store's rows."""
        return {name: p.reshape(-1, *p.shape[2:]) for name, p in self.of(images).items()}

    def partners_of(self, images: np.ndarray) -> np.ndarray:
        """Returns int64 `[images * (num_views - 1)]`, who each drawn view is mixed with.

        An image that is not mixed is its own partner; without mixing there are none.
        """
        if self._matched is None:
            return np.empty(0, np.int64)
        partners = self._matched[1][images, 1:]
        return np.where(partners < 0, images[:, None], partners).reshape(-1)

    def of_partners(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parameters of the partners' own views, each `[images * (views - 1), …]`."""
        count = self.views.count
        partners = self.partners_of(images)
        parameters = self.of(partners)
        views = np.tile(np.arange(1, count + 1), len(images))
        return {name: p[np.arange(len(partners)), views] for name, p in parameters.items()}


def rendered_blocks(
    images: Manifest, groups: list[np.ndarray], drawn: DrawnViews, options: ImageOptions
) -> tf.data.Dataset:
    """Returns pixels, float32 `[images * num_views, …]`, and content digests of each group."""
    datasets, has_partners = drawn.views.datasets(), drawn.views.mixes

    def gather(number: int) -> list[Any]:
        group = groups[number]
        found: list[Any] = [*read_files(images.paths(group)), *drawn.of(group).values()]
        if has_partners:
            found += read_files(images.paths(drawn.partners_of(group)))
            found += drawn.of_partners(group).values()
        return found

    def read(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parameters = [(tf.as_dtype(np.dtype(dtype)), shape) for dtype, shape in datasets.values()]
        own: list[tuple[Any, tuple]] = [(tf.string, (None,)), (tf.bool, ())]
        own += [(dtype, (None, drawn.views.num_views, *shape)) for dtype, shape in parameters]
        partners: list[tuple[Any, tuple]] = [(tf.string, (None,)), (tf.bool, ())]
        partners += [(dtype, (None, *shape)) for dtype, shape in parameters]
        signature = [*own, *partners] if has_partners else own
        found = tf.numpy_function(gather, [number], [dtype for dtype, _ in signature])
        return tuple(
            tf.ensure_shape(part, shape) for part, (_, shape) in zip(found, signature, strict=True)
        )

    def decode(*found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        contents, one_size = found[:2]
        if not drawn.views.count and drawn.views.canonical_size is None:
            return decode_batch(contents, one_size, options)
        parameters = dict(zip(datasets, found[2:], strict=False))
        partners = None
        if has_partners:
            rest = found[2 + len(datasets) :]
            partners = (rest[0], rest[1], dict(zip(datasets, rest[2:], strict=True)))
        pixels = render_block(contents, one_size, parameters, partners, drawn.views, options)
        return pixels, content_digests(contents)

    return read_pipeline(tf.data.Dataset.range(len(groups)), read, decode)
