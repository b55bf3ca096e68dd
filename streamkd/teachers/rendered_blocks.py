"""Blocks of images as the teacher sees them: read, decoded, and rendered in every view.

drawn = DrawnViews(views, images.keys)
for block in rendered_blocks(images, Blocks(len(images), 64), drawn, options):
    logits = teacher(block.pixels)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.bad_images import leave_out_undecodable
from streamkd.pixels.decode import as_canonical, content_digests, decode_canonical, decoder_of
from streamkd.pixels.file_batch import Files, read_files
from streamkd.pixels.refusals import naming
from streamkd.teachers.drawn_views import DrawnViews, unmixed
from streamkd.teachers.kept_pixels import KeptPixels
from streamkd.tf_support.iterators import CollectableDataset
from streamkd.tf_support.python_calls import python_call
from streamkd.tf_support.read_pipeline import read_pipeline
from streamkd.views.render import canonical_options, render_block
from streamkd.views.views import Views

# The fields of `Files` as tensors.
FILES_SPEC = {
    "file_bytes": tf.TensorSpec([None], tf.string),
    "one_size": tf.TensorSpec([], tf.bool),
    "known_digests": tf.TensorSpec([None], tf.uint64),
    "bad": tf.TensorSpec([None], tf.bool),
}
# Prefix of the arrays that belong to the partners with which a block is mixed.
PARTNER = "partner_"


class Blocks(Sequence):
    """All images of a pass, block by block: a sequence of int64 indices.

    An entry is made when it is asked for: there may be millions. The last may have fewer images.
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
    """Images of a block as the teacher is shown them.

    Attributes:
      pixels: float32 `[images * num_views, height, width, channels]`.
      content_digests: uint64 `[images]`.
      refused: bool `[images]`, images that cannot be decoded; their pixels are black.
      alone: bool, as in `drawn_views.unmixed`.
    """

    pixels: tf.Tensor
    content_digests: tf.Tensor
    refused: tf.Tensor
    alone: tf.Tensor


class _ToKeep(NamedTuple):
    """A block, and what is kept of it for training.

    Attributes:
      block: as the teacher is shown it.
      indices: int64 `[images]`.
      canonical: uint8 `[images, height, width, channels]`, at the size of the cache.
    """

    block: Block
    indices: tf.Tensor
    canonical: tf.Tensor


def rendered_blocks(
    images: Manifest,
    blocks: Sequence[np.ndarray],
    drawn: DrawnViews,
    options: ImageOptions,
    *,
    skip_bad: bool = False,
    kept: KeptPixels | None = None,
) -> tf.data.Dataset:
    """Returns a dataset of one `Block` for each entry of `blocks`.

    Args:
      images: the manifest that the images belong to.
      blocks: int64 arrays, the indices of the images of each block.
      drawn: the parameters of their views.
      options: how files become pixels.
      skip_bad: a file that cannot be decoded is refused in its block; by default it is an error.
      kept: where the decoded images are left for training, before their block is handed out.
    """
    reader = _BlockReader(
        images=images, blocks=blocks, drawn=drawn, options=options, skip_bad=skip_bad, kept=kept
    )
    dataset = read_pipeline(
        tf.data.Dataset.range(len(blocks)),
        reader.fetch,
        functools.partial(
            _render if kept is None else _render_to_keep, views=drawn.views, options=options
        ),
        rescue=reader.rescue if skip_bad else None,
        after=[] if kept is None else [reader.keep],
    )
    return CollectableDataset(dataset)


def _render(block: dict[str, tf.Tensor], views: Views, options: ImageOptions) -> Block:
    """Returns a block with its pixels, in the graph; `_BlockReader.spec` names the tensors."""
    if not views.count and views.canonical_size is None:
        pixels = decoder_of(options).whole(block["file_bytes"], block["one_size"])
        return _block_of(block, pixels, views)
    return _block_of(block, _views_of(block, views, options), views)


def _render_to_keep(block: dict[str, tf.Tensor], views: Views, options: ImageOptions) -> _ToKeep:
    """Returns what `_render` returns, to the bit, and the images at the size of the cache."""
    file_bytes, one_size = block["file_bytes"], block["one_size"]
    canonical_size = canonical_options(views, options)
    if canonical_size is None:
        pixels = decoder_of(options).whole(file_bytes, one_size)
        canonical = as_canonical(pixels)
    else:
        canonical = decode_canonical(file_bytes, one_size, canonical_size)
        pixels = _views_of(block, views, options, canonical)
    return _ToKeep(_block_of(block, pixels, views), block["indices"], canonical)


def _block_of(block: dict[str, tf.Tensor], pixels: tf.Tensor, views: Views) -> Block:
    digests = content_digests(block["file_bytes"], block["known_digests"])
    alone = block[PARTNER + "bad"] if views.mixes else tf.zeros([0], tf.bool)
    return Block(pixels, digests, block["bad"], alone)


def _views_of(
    block: dict[str, tf.Tensor],
    views: Views,
    options: ImageOptions,
    canonical: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the views of a block's images; `canonical` as in `render_block`."""
    parameters = {name: block[name] for name in views.datasets()}
    partners = None
    if views.mixes:
        partners = (
            block[PARTNER + "file_bytes"],
            block[PARTNER + "one_size"],
            {name: block[PARTNER + name] for name in views.datasets()},
        )
    file_bytes, one_size = block["file_bytes"], block["one_size"]
    return render_block(file_bytes, one_size, parameters, partners, views, options, canonical)


class _BlockReader:
    """Reads the files of a block and draws its views: in Python, called from the graph.

    Attributes:
      spec: dtype and shape of each array: the fields of `Files`, the parameters of the views, and
        with mixing both of the partners, their names with the prefix `PARTNER`.
    """

    def __init__(
        self,
        *,
        images: Manifest,
        blocks: Sequence[np.ndarray],
        drawn: DrawnViews,
        options: ImageOptions,
        skip_bad: bool,
        kept: KeptPixels | None,
    ) -> None:
        self._images, self._blocks, self._kept = images, blocks, kept
        self._drawn, self._options = drawn, options
        self._report_bad = _leave_to_the_store if skip_bad else None
        self.spec = {**FILES_SPEC, **_parameter_spec(drawn.views, drawn.views.num_views)}
        if drawn.views.mixes:
            of_partners = {**FILES_SPEC, **_parameter_spec(drawn.views)}
            self.spec |= {PARTNER + name: tensor for name, tensor in of_partners.items()}
        if kept is not None:
            self.spec["indices"] = tf.TensorSpec([None], tf.int64)

    def fetch(self, number: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the tensors of the block with this number, int64."""
        return python_call(self._read, [number], self.spec)

    def rescue(self, block: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the tensors of a block with black pixels for files that cannot be decoded."""
        arrays = [block[name] for name in self.spec]
        return python_call(self._leave_out_undecodable, arrays, self.spec)

    def keep(self, rendered: _ToKeep) -> Block:
        """Returns a block whose images have been left for training."""
        block, indices, canonical = rendered
        arguments = [indices, canonical, block.content_digests, block.refused]
        spec = {"content_digests": FILES_SPEC["known_digests"]}
        return block._replace(**python_call(self._keep, arguments, spec))

    def _keep(
        self,
        indices: np.ndarray,
        canonical: np.ndarray,
        digests: np.ndarray,
        refused: np.ndarray,
    ) -> dict[str, np.ndarray]:
        assert self._kept is not None
        good = np.flatnonzero(~refused)
        self._kept.keep(indices[good], canonical[good], digests[good])
        return {"content_digests": digests}

    def _read(self, number: int) -> dict[str, Any]:
        """Returns the arrays of one block."""
        images = self._blocks[number]
        if self._kept is not None:
            self._kept.about_to_read(images)
        block = {**self._read_files(images)._asdict(), **self._drawn.of_images(images)}
        if self._kept is not None:
            block["indices"] = images
        if self._drawn.views.mixes:
            partners = self._read_files(self._drawn.partners_of(images))._asdict()
            partners |= self._drawn.of_partners(images)
            block |= {PARTNER + name: array for name, array in partners.items()}
        return self._without_bad_partners(block)

    def _leave_out_undecodable(self, *arrays: np.ndarray) -> dict[str, Any]:
        """Returns a block without the files that TensorFlow cannot decode.

        `arrays` are those that `_read` returned, in the order of `spec`.
        """
        block: dict[str, Any] = dict(zip(self.spec, arrays, strict=True))
        for prefix in ("", PARTNER) if self._drawn.views.mixes else ("",):
            files = Files(**{name: block[prefix + name] for name in FILES_SPEC})
            files, _ = leave_out_undecodable(files, self._options)
            block |= {prefix + name: array for name, array in files._asdict().items()}
        return self._without_bad_partners(block)

    def _read_files(self, images: np.ndarray) -> Files:
        paths = self._images.paths(images)
        with naming(self._images):
            return read_files(
                paths,
                report_bad=self._report_bad,
                **self._options.for_files(),
            )

    def _without_bad_partners(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a block in which images whose partner cannot be decoded are not mixed."""
        if not self._drawn.views.mixes:
            return dict(block)
        parameters = {name: block[name] for name in self._drawn.views.datasets()}
        return {**block, **unmixed(parameters, block[PARTNER + "bad"])}


def _leave_to_the_store(index: int, reason: str) -> None:
    """Ignores why a file is bad: its block marks it, and the store keeps the mark."""


def _parameter_spec(views: Views, *leading: int) -> dict[str, tf.TensorSpec]:
    """Returns dtype and shape of the parameters of views, with more axes after the first."""
    return {
        name: tf.TensorSpec([None, *leading, *shape], tf.as_dtype(np.dtype(dtype)))
        for name, (dtype, shape) in views.datasets().items()
    }
