"""Answers of a teacher that is a function: anything like an array, all else refused by name."""

import numpy as np
import pytest
import tensorflow as tf

from streamkd.errors import TeacherError
from streamkd.teachers.callable_answers import answers_of

IMAGES = np.zeros((3, 8, 8, 3), np.float32)
LOGITS = np.arange(6, dtype=np.float32).reshape(3, 2)


class Torch:
    """An array that must be detached and brought to the processor first."""

    def __init__(self, steps=("detach", "cpu")):
        self.steps = steps

    def __array__(self, dtype=None, copy=None):
        if self.steps:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return LOGITS

    def detach(self):
        return Torch(self.steps[1:])

    cpu = detach


class Answer:
    logits = LOGITS


@pytest.mark.parametrize(
    "answer",
    [
        *(LOGITS.tolist(), list(LOGITS), tuple(LOGITS), LOGITS.astype(np.float64)),
        *(LOGITS.astype(np.float16), LOGITS.astype(np.uint8), tf.constant(LOGITS), Torch()),
        tf.cast(LOGITS, tf.bfloat16),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_anything_like_an_array_is_taken(answer):
    answers = answers_of(lambda images: answer, IMAGES, "mystery")
    assert answers.dtype == np.float32
    np.testing.assert_array_equal(answers, LOGITS)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "with None."),
        ((row for row in LOGITS), "with a generator."),
        (map(abs, LOGITS), "with a map."),
        (["cat"] * 3, "with text."),
        ([{"label": "cat"}] * 3, "around arrays: '0/label', '1/label', '2/label'."),
        (object(), "with an object."),
        (LOGITS + 1j, "with complex numbers."),
        ([[1, 2], [3]], "with a list that is no array."),
        (Answer(), "with an Answer around arrays: 'logits'.\nReturn one array, or choose it: "
         "`--output logits`, in Python `model_output='logits'`."),
        ((LOGITS, LOGITS[:, :1]), "with a tuple around arrays: '0', '1'."),
        ({"z": LOGITS, "a": LOGITS}, "with a dict around arrays: 'a', 'z'."),
    ],
    ids=lambda value: str(value).split(" at 0x")[0],
)  # fmt: skip
def test_what_is_no_array_of_numbers_is_refused_by_name(answer, words):
    with pytest.raises(TeacherError) as caught:
        answers_of(lambda images: answer, IMAGES, "mystery")
    text = str(caught.value)
    assert text.startswith("The teacher 'mystery' answered 3 images of 8 x 8 x 3 with ")
    assert words in text


@pytest.mark.parametrize(
    ("answer", "output"),
    [(Answer(), "logits"), ((LOGITS + 1, LOGITS), 1), ({"b": LOGITS, "a": LOGITS + 1}, "b")],
    ids=["object", "tuple", "dict"],
)
def test_an_array_among_others_is_taken_where_it_was_chosen(answer, output):
    np.testing.assert_array_equal(answers_of(lambda images: answer, IMAGES, "m", output), LOGITS)


def test_an_exception_of_the_function_is_told_with_its_line():
    def mystery(images):
        raise KeyError("no such table")

    line = mystery.__code__.co_firstlineno + 1
    for function, last in (
        (mystery, f"  KeyError: 'no such table' (line {line} of {__file__}, in mystery)\n"),
        (lambda: LOGITS, "takes 0 positional arguments but 1 was given\n"),
    ):
        with pytest.raises(TeacherError) as caught:
            answers_of(function, IMAGES, "mystery")
        text = str(caught.value)
        assert text.startswith(
            "The teacher 'mystery' raised an exception when it was asked about 3 images of 8 x 8"
        )
        assert last in text and text.endswith("float32 [batch, height, width, channels].")
