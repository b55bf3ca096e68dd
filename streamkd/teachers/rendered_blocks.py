"""Blocks as the teacher sees them: every view of some images, rendered from their files.

drawn = DrawnViews(views, images.keys)
for block in rendered_blocks(images, groups, drawn, options): ...
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.keys import Keys, hash_keys
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.bad_images import leave_out_undecodable
from streamkd.pixels.decode import content_digests, decode_batch
from streamkd.pixels.file_batch import Files, read_files
from streamkd.tf_support.iterators import CollectableDataset
from streamkd.tf_support.read_pipeline import read_pipeline
from streamkd.views.render import render_block
from streamkd.views.views import NEUTRAL, Views


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

    def as_rows(self, images: np.ndarray, alone: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the same, each `[images * num_views, …]`, in the order of the store's rows.

        Args:
          images: their numbers.
          alone: as in `unmixed`.
        """
        parameters = unmixed(self.of(images), alone)
        return {name: p.reshape(-1, *p.shape[2:]) for name, p in parameters.items()}

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


class AllInBlocks(Sequence):
    """All images of a pass, block by block; made when they are asked for, since there may be
    millions of blocks.

    Args:
      num_images: that there are.
      images_per_block: the last block may have fewer.
    """

    def __init__(self, num_images: int, images_per_block: int) -> None:
        self._firsts = range(0, num_images, images_per_block)
        self._num_images = num_images

    def __len__(self) -> int:
        return len(self._firsts)

    def __getitem__(self, number: Any) -> Any:
        first = self._firsts[number]
        return np.arange(first, min(first + self._firsts.step, self._num_images))


class Block(NamedTuple):
    """Some images as the teacher is shown them.

    Attributes:
      pixels: float32 `[images * num_views, height, width, channels]`.
      content_digests: uint64 `[images]`, content digests.
      refused: bool `[images]`, images that cannot be decoded; their pixels are black.
      alone: bool, as in `unmixed`.
    """

    pixels: tf.Tensor
    content_digests: tf.Tensor
    refused: tf.Tensor
    alone: tf.Tensor


def unmixed(parameters: dict[str, np.ndarray], alone: np.ndarray) -> dict[str, np.ndarray]:
    """Returns parameters in which some views are not mixed, as that of an odd image is not.

    Args:
      parameters: each `[images, num_views, …]`.
      alone: bool `[images * (num_views - 1)]`, drawn views whose partner cannot be decoded; of no
        length where nothing is mixed.
    """
    if not alone.any():
        return parameters
    changed = dict(parameters)
    for name in ("view_partner", "view_share", "view_paste"):
        if name in parameters:
            changed[name] = parameters[name].copy()
            changed[name][:, 1:][alone.reshape(len(changed[name]), -1)] = NEUTRAL[name]
    return changed


def rendered_blocks(
    images: Manifest,
    groups: Sequence[np.ndarray],
    drawn: DrawnViews,
    options: ImageOptions,
    *,
    skip_bad: bool = False,
) -> tf.data.Dataset:
    """Returns a dataset of one `Block` for each group of images.

    Args:
      images: where the files are.
      groups: numbers of images.
      drawn: the parameters of their views.
      options: how files become pixels.
      skip_bad: a file that cannot be decoded is refused in its block; by default it is an error.
    """
    datasets, has_partners = drawn.views.datasets(), drawn.views.mixes
    on_bad = (lambda place, reason: None) if skip_bad else None
    parameters = [(tf.as_dtype(np.dtype(dtype)), shape) for dtype, shape in datasets.values()]
    of_files: list[tuple[Any, tuple]] = [
        *((tf.string, (None,)), (tf.bool, ())),
        *((tf.uint64, (None,)), (tf.bool, (None,))),
    ]
    signature = [*of_files, *((t, (None, drawn.views.num_views, *s)) for t, s in parameters)]
    num_own = len(signature)
    if has_partners:
        signature += [*of_files, *((t, (None, *s)) for t, s in parameters)]

    def together(own: Files, drawn_own: Any, theirs: Files | None, drawn_theirs: Any) -> list[Any]:
        """Returns what belongs to a block; a partner that is bad leaves its image alone."""
        if theirs is None:
            return [*own, *drawn_own]
        mixed = unmixed(dict(zip(datasets, drawn_own, strict=True)), theirs.bad)
        return [*own, *mixed.values(), *theirs, *drawn_theirs]

    def gather(number: int) -> list[Any]:
        group, theirs, drawn_theirs = groups[number], None, None
        own = read_files(images.paths(group), on_bad=on_bad, max_pixels=options.max_pixels)
        if has_partners:
            partners = images.paths(drawn.partners_of(group))
            theirs = read_files(partners, on_bad=on_bad, max_pixels=options.max_pixels)
            drawn_theirs = drawn.of_partners(group).values()
        return together(own, drawn.of(group).values(), theirs, drawn_theirs)

    def gather_again(*found: Any) -> list[Any]:
        theirs = None
        own, _ = leave_out_undecodable(Files(*found[:4]), options)
        if has_partners:
            theirs, _ = leave_out_undecodable(Files(*found[num_own : num_own + 4]), options)
        return together(own, found[4:num_own], theirs, found[num_own + 4 :])

    def call(function: Any, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tf.numpy_function(function, arguments, [dtype for dtype, _ in signature])
        return tuple(
            tf.ensure_shape(part, shape) for part, (_, shape) in zip(found, signature, strict=True)
        )

    def decode(*found: tf.Tensor) -> Block:
        file_bytes, one_size, known_digests, refused = found[:4]
        alone = found[num_own + 3] if has_partners else tf.zeros([0], tf.bool)
        if not drawn.views.count and drawn.views.canonical_size is None:
            return Block(
                *decode_batch(file_bytes, one_size, options, known_digests), refused, alone
            )
        own = dict(zip(datasets, found[4:num_own], strict=True))
        partners = None
        if has_partners:
            rest = found[num_own:]
            partners = (rest[0], rest[1], dict(zip(datasets, rest[4:], strict=True)))
        pixels = render_block(file_bytes, one_size, own, partners, drawn.views, options)
        return Block(pixels, content_digests(file_bytes, known_digests), refused, alone)

    dataset = read_pipeline(
        tf.data.Dataset.range(len(groups)),
        functools.partial(call, gather),
        decode,
        functools.partial(call, gather_again) if skip_bad else None,
    )
    return CollectableDataset(dataset)
