"""Stratified splits; Keras' own splits are in test_keras_sources."""

import numpy as np
import pytest

from streamkd.errors import OptionError
from streamkd.manifest.split import split_indices


def counts(labels, indices):
    """Returns the number of images of each class among `indices`."""
    return np.bincount(labels[indices], minlength=labels.max() + 1).tolist()


def both(labels, fraction, seed=1):
    """Returns the indices of training and of validation, stratified."""
    split = {"validation_split": fraction, "seed": seed, "stratify": True}
    return [split_indices(labels, subset=subset, **split) for subset in ("training", "validation")]


@pytest.mark.parametrize(
    ("sizes", "fraction", "validation"),
    [
        ([10, 10], 0.2, [2, 2]),
        ([100, 50, 10], 0.1, [10, 5, 1]),
        ([7, 7, 7], 0.25, [2, 2, 1]),
        ([3, 97], 0.1, [0, 10]),
        ([1, 1, 8], 0.5, [0, 0, 4]),
        ([2, 2], 0.9, [1, 1]),
    ],
    ids=["even", "uneven", "remainders", "small class", "lone images", "one stays for training"],
)
def test_every_class_gives_its_fraction(sizes, fraction, validation):
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    parts = both(labels, fraction)
    assert counts(labels, parts[1]) == validation
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))


def test_another_seed_chooses_other_images_and_the_same_seed_the_same():
    labels = np.repeat(np.arange(3), 40).astype(np.int32)
    first, again, other = (both(labels, 0.25, seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.all(np.diff(first) > 0), "in the order of the images"


def test_images_are_drawn_from_all_of_a_class():
    labels = np.zeros(1000, np.int32)
    chosen = both(labels, 0.5)[1]
    assert 400 < chosen.mean() < 600


def test_images_without_a_label_are_a_group_of_their_own():
    labels = np.array([-1] * 10 + [0] * 10, np.int32)
    training, validation = both(labels, 0.2)
    assert (labels[validation] == -1).sum() == 2 and len(training) == 16


def test_a_subset_without_images_is_refused():
    labels = np.arange(4, dtype=np.int32)
    with pytest.raises(OptionError, match="there are 4 images: validation gets none"):
        both(labels, 0.5)
