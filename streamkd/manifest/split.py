"""Splits images into training and validation, as Keras does or with every class in its share."""

from __future__ import annotations

import numpy as np

from streamkd.errors import OptionError

SUBSETS = ("training", "validation")


def check_split(validation_split: float | None, subset: str | None, seed: int | None) -> None:
    """Refuses a split that cannot be.

    Raises:
      OptionError: `validation_split` outside 0 to 1, an unknown `subset`, or no `seed`.
    """
    if validation_split is None:
        if subset is not None:
            raise OptionError("subset needs validation_split; add validation_split=0.2.")
        return
    if not 0 < validation_split < 1:
        raise OptionError(f"validation_split is {validation_split!r}; it must lie between 0 and 1.")
    if subset not in SUBSETS:
        raise OptionError(f"subset is {subset or ''!r}; choose one of training, validation.")
    if seed is None:
        raise OptionError(
            "validation_split needs a seed, so that both subsets come from one shuffle; "
            "add seed=1; on the command line --seed 1."
        )


def split_indices(
    labels: np.ndarray, validation_split: float, subset: str, seed: int, *, stratify: bool = False
) -> np.ndarray:
    """Returns the images of one subset, int64, ascending: the images keep their order.

    Args:
      labels: int32 `[num_images]`; -1 is a group of its own.
      validation_split: share of the images, between 0 and 1, that validation gets.
      subset: 'training' or 'validation'.
      seed: of the shuffle before the split.
      stratify: every class gives the same share, to within one image, and never its last one.

    Raises:
      OptionError: the subset gets no image.
    """
    num_images = len(labels)
    num_validation = int(validation_split * num_images)
    # Keras shuffles with RandomState(seed) and takes the tail.
    order = np.arange(num_images)
    np.random.RandomState(seed).shuffle(order)
    if stratify:
        chosen = _stratified(labels, order, validation_split, num_validation)
    else:
        chosen = np.zeros(num_images, bool)
        chosen[order[num_images - num_validation :]] = True
    indices = np.flatnonzero(chosen if subset == "validation" else ~chosen)
    if not len(indices):
        raise OptionError(
            f"validation_split is {validation_split!r}, and there are {num_images:,} images, so "
            f"that {subset} gets none.\nGive another share, or more images."
        )
    return indices


def _stratified(
    labels: np.ndarray, order: np.ndarray, validation_split: float, num_validation: int
) -> np.ndarray:
    """Returns bool `[num_images]`: whether an image is one of validation."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    exact = counts * validation_split
    shares = np.minimum(np.floor(exact).astype(np.int64), counts - 1)
    # Largest remainders first, so that the sum is what an ordinary split gives. A class keeps
    # at least one image to train on.
    for group in np.argsort(shares - exact, kind="stable"):
        if shares.sum() >= num_validation:
            break
        if exact[group] > shares[group] and shares[group] + 1 < counts[group]:
            shares[group] += 1
    by_class = order[np.argsort(classes[order], kind="stable")]
    chosen = np.zeros(len(labels), bool)
    for end, share in zip(np.cumsum(counts).tolist(), shares.tolist(), strict=True):
        chosen[by_class[end - share : end]] = True
    return chosen
