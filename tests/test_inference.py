"""Models that load and fail when they are asked: refused by name, as a teacher and as a student."""

import numpy as np
import pytest
import tensorflow as tf

from streamkd.errors import StudentError, TeacherError
from streamkd.models.inference import compiled_answer


def failing_models(family):
    """Yields models that fail on images of 9 x 9 x 3: while traced, while run, and in a layer."""
    layers = family.layers

    class OfAUser(layers.Layer):
        def call(self, inputs):
            raise KeyError("no such table")

    anything = family.Input((None, None, 3))
    yield family.Model(anything, layers.Dense(3)(layers.Reshape((192,))(anything)), name="net")
    yield family.Sequential([OfAUser(), layers.Flatten()], name="net")
    yield family.Sequential(
        [family.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3)], name="net"
    )


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("refusal", [TeacherError, StudentError])
def test_a_model_that_fails_on_the_images_is_refused_by_name(family, number, refusal):
    answer = compiled_answer(list(failing_models(family))[number], refusal=refusal)
    with pytest.raises(refusal) as caught:
        answer(np.zeros((2, 9, 9, 3), np.float32))
    first, second = str(caught.value).split("\n")
    assert first.startswith("The model 'net' fails when it is asked about images of 9 x 9 x 3: ")
    assert len(first) > 80 and len(first) < 400
    assert second == (
        "Ask it in Python, `model(images)`, for the whole error; or give another model."
    )


class OfAUser:
    """Builds models of a user's own that answer, or fail, in some way."""

    def __init__(self, family, answer):
        class Own(family.Model):
            def call(self, images, training=False):
                return answer(images)

        self.model = Own(name="net")


def fail(images):
    raise ValueError("the table has no row")


def test_the_error_of_a_users_own_layer_is_shown_with_its_line(family):
    answer = compiled_answer(OfAUser(family, fail).model)
    with pytest.raises(TeacherError, match=": ValueError: the table has no row") as caught:
        answer(np.zeros((2, 9, 9, 3), np.float32))
    if family.__name__ == "keras":  # tf_keras calls a copy of the code, whose lines are others
        assert "test_inference.py, in fail)" in str(caught.value)


def test_an_error_of_tensorflow_is_shown_without_its_stack(family):
    def answer(images):
        return tf.reshape(images, [7, 7])

    with pytest.raises(TeacherError) as caught:
        compiled_answer(OfAUser(family, answer).model)(np.zeros((2, 9, 9, 3), np.float32))
    assert "[7,7]" in str(caught.value) or "the requested shape has 49" in str(caught.value)
    assert "Graph execution error" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda images: tf.strings.as_string(images), "with texts."),
        (lambda images: tf.cast(images, tf.complex64), "with numbers of the type complex64."),
        (lambda images: tf.sparse.from_dense(images), "with a sparse tensor."),
        (lambda images: tf.RaggedTensor.from_tensor(images), "with a ragged tensor."),
    ],
    ids=["texts", "complex", "sparse", "ragged"],
)
def test_answers_that_are_no_real_numbers_are_refused(family, answer, words):
    with pytest.raises(TeacherError, match=f"The model 'net' answers images {words}\nIt must"):
        compiled_answer(OfAUser(family, answer).model)(np.zeros((2, 9, 9, 3), np.float32))
