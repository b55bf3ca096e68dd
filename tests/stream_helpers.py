"""Streams of the numbered images of `helpers.py`, and batches that are compared to the bit.

stream = joined(images, store, batch_size=7)
assert_paired(stream, (0, 9))                    # every image with its own logits
assert_same(batches_of(stream), batches_of(other))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import helpers
import numpy as np

from streamkd.manifest.manifest import Manifest
from streamkd.stream.join import join
from streamkd.stream.stream import Stream

Batch = dict[str, np.ndarray]


def joined(images: Manifest, store: Any, **options: Any) -> Stream:
    """Returns `join(...)` with batches of 4 images, unless `options` of `join` say otherwise."""
    return join(images, store, **{"batch_size": 4, "seed": 1, "progress": False, **options})


def assert_paired(stream: Stream, steps: tuple[int, int], labels: Any = None) -> list[int]:
    """Asserts that pixels, logits, labels and rows of some steps are of the same images.

    Args:
      stream: of images of `draw_image`, and logits of `EncodingTeacher`.
      steps: the first step, and the one after the last.
      labels: of the stream, for each class number that the images hold; the same by default.

    Returns:
      The numbers of the images, in their order.
    """
    numbers = []
    for pixels, targets, _ in stream.batches(*steps):
        of_pixels = helpers.pixel_numbers(pixels)
        of_logits = helpers.encoded_numbers(targets["teacher_logits"])
        np.testing.assert_array_equal(of_pixels[:, 0], of_logits[:, 0])
        classes = of_pixels[:, 1] if labels is None else np.array(labels)[of_pixels[:, 1]]
        np.testing.assert_array_equal(targets["labels"][:, 0], classes)
        stored = stream.store.gather(targets["rows"].numpy())
        np.testing.assert_array_equal(targets["teacher_logits"], stored)
        numbers += of_pixels[:, 0].tolist()
    assert len(numbers) == (steps[1] - steps[0]) * stream.batch_size
    return numbers


def assert_all_paired(images: Manifest, store: Any) -> None:
    """Asserts that a stream shows every image of a manifest, each with its own logits."""
    stream = join(images, store, batch_size=8, seed=3, progress=False)
    numbers = set()
    for pixels, targets, _ in stream.batches(0, 2 * len(images) // 8 + 2):
        of_logits = helpers.encoded_numbers(targets["teacher_logits"])
        assert np.array_equal(of_logits, helpers.pixel_numbers(pixels))
        numbers |= set(of_logits[:, 0].tolist())
    assert len(numbers) == len(images)


def arrays_of(dataset: Iterable[Any]) -> list[Batch]:
    """Returns every batch of a dataset as one dict of arrays."""
    return [
        {name: np.array(part) for name, part in {"pixels": x, "weights": w, **targets}.items()}
        for x, targets, w in dataset
    ]


def batches_of(stream: Stream, start: int = 0, stop: int | None = None) -> list[Batch]:
    """Returns the batches of a stream, by default those of three epochs, as dicts of arrays."""
    stop = stream.end_of_epoch(3) if stop is None else stop
    batches = arrays_of(stream.batches(start, stop))
    assert len(batches) == stop - start
    return batches


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    """Asserts that two lists of batches are the same to the bit."""
    assert len(batches) == len(others)
    for one, other in zip(batches, others, strict=True):
        assert set(one) == set(other)
        for name, part in one.items():
            np.testing.assert_array_equal(part, other[name], name)


def assert_rounded(batches: list[Batch], others: list[Batch]) -> None:
    """Asserts that batches are the others with whole numbers as pixels."""
    for one, other in zip(batches, others, strict=True):
        assert np.abs(one["pixels"] - other["pixels"]).max() <= 0.5
        np.testing.assert_array_equal(one.pop("pixels"), np.round(other.pop("pixels")))
    assert_same(batches, others)
