"""What a sample of the teacher's answers says about it, before the pass over all images.

sample = sampled(images, 256, seed=0)
store = teach(sample, teacher, "run/sample.h5", views=Views(1, flip=True))
answers = summary_of(store, sample)
answers.confidence, answers.accuracy, answers.mirror_agreement
"""

from __future__ import annotations

import dataclasses

import numpy as np

from streamkd.manifest.class_names import renumber
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.files import read_head
from streamkd.pixels.header import dimensions
from streamkd.store.decisions import chosen, right
from streamkd.store.judgement import confidence_and_entropy
from streamkd.store.layout import DONE
from streamkd.store.row_store import RowStore

# Images that the teacher is asked about: they tell a fraction to about three points.
NUM_SAMPLED = 256
# Files whose sizes are read, and bytes of each.
NUM_SIZES, HEAD_BYTES = 64, 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSummary:
    """What the answers say; see `recipe_choice.Facts`."""

    confidence: float
    accuracy: float | None
    mirror_agreement: float | None


def sampled(images: Manifest, count: int, seed: int) -> Manifest:
    """Returns at most `count` of the images, drawn by `seed`, in their order."""
    drawn = np.random.default_rng(seed).permutation(len(images))[:count]
    return images.select(np.sort(drawn))


def summary_of(store: RowStore, images: Manifest) -> SampleSummary:
    """Returns what a finished store with one mirrored or plain view besides says.

    Args:
      store: of views that are mirrored by a coin.
      images: those of the store.
    """
    numbers = store.images_of_keys(images.keys)
    plain = numbers * store.num_views
    is_done = store.done_of(plain) == DONE
    plain, labels = plain[is_done], images.labels[is_done]
    if not len(plain):
        return SampleSummary(confidence=1.0, accuracy=None, mirror_agreement=None)
    logits = store.gather(plain)
    accuracy = None
    if images.multi_hot is None:
        labels = renumber(labels, images.class_names, store.class_names, "the teacher")
        known = labels != UNLABELLED
        if known.any():
            accuracy = float(right(logits[known], labels[known], store.class_names).mean())
    confidence, _ = confidence_and_entropy(logits, is_sigmoid=store.header.is_sigmoid)
    return SampleSummary(
        confidence=float(np.median(confidence)),
        accuracy=accuracy,
        mirror_agreement=_mirror_agreement(store, plain),
    )


def _mirror_agreement(store: RowStore, plain: np.ndarray) -> float | None:
    """Returns the fraction of mirrored views with the first choice of the plain view."""
    if store.num_views < 2:
        return None
    views = plain + 1
    is_mirrored = store.view_parameters(views)["view_flip"] == 1
    if not is_mirrored.any():
        return None
    before, after = store.gather(plain[is_mirrored]), store.gather(views[is_mirrored])
    return float((chosen(before) == chosen(after)).mean())


def median_side(images: Manifest) -> int | None:
    """Returns the median shorter side of a few files, in pixels; None if no header says it."""
    step = -(-len(images) // NUM_SIZES)
    sides = []
    for index in range(0, len(images), step):
        try:
            size = dimensions(read_head(images.path(index), HEAD_BYTES))
        except (OSError, ValueError):  # the pass names a file that cannot be read
            continue
        if size is not None:
            sides.append(min(size))
    return int(np.median(sides)) if sides else None
