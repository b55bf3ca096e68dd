"""Splits images into training and validation, as Keras does or class by class.

check_split(0.2, "validation", seed=1)                       # refuses what cannot be
split_indices(labels, 0.2, "validation", seed=1)             # int64, ascending
"""

from __future__ import annotations

import numpy as np

from streamkd.errors import OptionError

SUBSETS = ("training", "validation")


def check_split(validation_split: float | None, subset: str | None, seed: int | None) -> None:
    """Raises OptionError for a fraction outside 0 to 1, an unknown or lone subset, or no seed."""
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
            "validation_split needs a seed, so that both subsets come from one shuffle.\n"
            "Add seed=1; on the command line --seed 1."
        )


def split_indices(
    labels: np.ndarray, validation_split: float, subset: str, seed: int, *, stratify: bool = False
) -> np.ndarray:
    """Returns the indices of the images of one subset, int64, ascending.

    Args:
      labels: int32 `[num_images]`; images with the label -1 are a class of their own.
      validation_split: fraction of the images, between 0 and 1, that validation gets.
      subset: 'training' or 'validation'.
      seed: seed of the shuffle before the split.
      stratify: take the same fraction of every class, to within one image, and never its last one.

    Raises:
      OptionError: the subset gets no image.
    """
    num_images = len(labels)
    num_validation = int(validation_split * num_images)
    # Keras shuffles with RandomState(seed) and takes the tail.
    order = np.arange(num_images)
    np.random.RandomState(seed).shuffle(order)
    if stratify:
        is_validation = _stratified(labels, order, validation_split, num_validation)
    else:
        is_validation = np.zeros(num_images, bool)
        is_validation[order[num_images - num_validation :]] = True
    indices = np.flatnonzero(is_validation if subset == "validation" else ~is_validation)
    if not len(indices):
        raise OptionError(
            f"validation_split is {validation_split!r}, and there are {num_images:,} images: "
            f"{subset} gets none.\nGive another fraction, or more images."
        )
    return indices


def _stratified(
    labels: np.ndarray, order: np.ndarray, validation_split: float, num_validation: int
) -> np.ndarray:
    """Returns bool `[num_images]`: whether an image belongs to validation.

    Args:
      labels, validation_split: as in `split_indices`.
      order: int64 `[num_images]`, the shuffled indices of all images.
      num_validation: number of images that an ordinary split gives validation.
    """
    _, class_of, class_sizes = np.unique(labels, return_inverse=True, return_counts=True)
    exact = class_sizes * validation_split
    num_taken = np.minimum(np.floor(exact).astype(np.int64), class_sizes - 1)
    # Largest remainders first, so that the sum is that of an ordinary split. A class keeps at
    # least one image to train on.
    for number in np.argsort(num_taken - exact, kind="stable"):
        if num_taken.sum() >= num_validation:
            break
        if exact[number] > num_taken[number] and num_taken[number] + 1 < class_sizes[number]:
            num_taken[number] += 1
    by_class = order[np.argsort(class_of[order], kind="stable")]
    is_validation = np.zeros(len(labels), bool)
    ends = np.cumsum(class_sizes).tolist()
    for end, count in zip(ends, num_taken.tolist(), strict=True):
        is_validation[by_class[end - count : end]] = True
    return is_validation
