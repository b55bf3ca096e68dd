"""Class names of two sides."""

import numpy as np
import pytest

from streamkd.errors import ClassNamesError
from streamkd.manifest.class_names import class_numbers, renumber


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b", "c"], [0, 1, 2, -1]),
        (["c", "a", "b"], [2, 0, 1, -1]),
        (["b"], [1, -1]),
        ([], [-1]),
    ],
    ids=["same", "permuted", "subset", "none"],
)
def test_class_numbers_renumber_by_name(names, expected):
    mapped = class_numbers(names, ["a", "b", "c"], "the store")
    assert mapped.tolist() == expected and mapped.dtype == np.int32


def test_an_unknown_class_is_refused_with_both_sides():
    with pytest.raises(ClassNamesError, match="images and of the store disagree") as refusal:
        class_numbers(["cat", "dgo", "emu"], ["cat", "dog"], "the store")
    text = str(refusal.value)
    assert "images: 'cat', 'dgo', 'emu'" in text and "the store: 'cat', 'dog'" in text
    assert "first of 2 unknown to the store: 'dgo'" in text


def test_labels_are_renumbered_and_missing_ones_stay_missing():
    labels = renumber(np.array([0, 1, -1, 0]), ["b", "a"], ["a", "b", "c"], "the teacher")
    assert labels.tolist() == [1, 0, -1, 1]


@pytest.mark.parametrize(("names", "classes"), [(None, ["a"]), (["a"], None), (["a"], [])])
def test_labels_without_classes_on_both_sides_are_unlabelled(names, classes):
    assert renumber(np.zeros(3, np.int32), names, classes, "the store").tolist() == [-1] * 3
