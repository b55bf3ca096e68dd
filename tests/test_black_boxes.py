"""Teachers that give the class alone, or rounded probabilities: taken, and what is lost is said."""

from __future__ import annotations

import numpy as np
import pytest

import streamkd as kd
from streamkd.errors import TeacherError
from streamkd.models.output_kind import rounding_step, to_logits

SIZE = (8, 8)
# The answers of these teachers have nothing to do with the labels.
pytestmark = pytest.mark.filterwarnings("ignore:The teacher .* is right on")


def class_numbers(pixels):
    return np.asarray(pixels)[:, 0, 0, 0].astype(np.int64) % 3


ANSWERS = {
    "numbers": class_numbers,
    "a column of numbers": lambda pixels: class_numbers(pixels)[:, None],
    "one-hot rows": lambda pixels: np.eye(3)[class_numbers(pixels)],
    "scores": lambda pixels: np.eye(3)[class_numbers(pixels)] * 7 - 2,
    "a list": lambda pixels: class_numbers(pixels).tolist(),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_a_class_is_stored_as_a_smoothed_label(images, tmp_path, answer):
    teacher = kd.load_teacher(answer, name="box", output="class")
    with pytest.warns(UserWarning, match="The teacher 'box' gives the class alone"):
        store = kd.teach(
            images, teacher, tmp_path / "s.h5", image_size=SIZE, codec="float32", progress=False
        )
    logits = store.gather(np.arange(len(images)))
    shares = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.sort(shares, axis=1), [[0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3]] * 30)
    assert store.header.teacher["output"] == "class"
    assert store.header.activation == "softmax"


def test_numbers_of_no_class_are_refused(images, tmp_path):
    for number, words in ((3, "answered 3, and its 3 classes"), (0.5, "answered 0.5, and")):
        teacher = kd.load_teacher(lambda pixels, n=number: np.full(len(pixels), n), output="class")
        with pytest.raises(TeacherError, match=words):
            kd.teach(images, teacher, tmp_path / "s.h5", image_size=SIZE, progress=False)
    assert not (tmp_path / "s.h5").exists()
    teacher = kd.load_teacher(class_numbers, output="class")
    with pytest.raises(TeacherError, match=r"nothing says how many there are"):
        teacher(np.zeros((2, 8, 8, 3), np.float32))


def test_only_the_first_choice_of_scores_counts():
    logits = to_logits(np.array([[3.0, 9.0, -1.0], [0.2, 0.1, 0.7]]), "class")
    assert logits.argmax(axis=1).tolist() == [1, 2]
    np.testing.assert_allclose(logits[0], to_logits(np.array([[0, 1, 0]]), "class")[0])


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("step", [1 / 256, 1 / 255, 0.01, 0.001])
def test_rounded_probabilities_show_their_step(step):
    exact = softmax(np.random.default_rng(1).normal(0, 3, (200, 40)))
    assert rounding_step(np.round(exact / step) * step) == pytest.approx(step, rel=1e-3)
    assert rounding_step(exact) is None
    assert rounding_step(exact.astype(np.float32)) is None
    assert rounding_step(exact.astype(np.float16)) is None


def test_zeros_and_ones_are_the_class_alone():
    assert rounding_step(np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]]) == 1
    assert rounding_step(np.eye(3)) is None  # too few to tell


def test_rounded_probabilities_are_told_by_import(images, tmp_path):
    exact = softmax(np.random.default_rng(1).normal(0, 3, (len(images), 3)))
    rounded = np.round(exact * 50) / 50
    with pytest.warns(UserWarning, match=r"come in steps of 0\.02, and \d+% of them are 0"):
        kd.import_logits(
            rounded,
            [bytes(key) for key in images.keys],
            images,
            tmp_path / "s.h5",
            output="probabilities",
            progress=False,
        )
