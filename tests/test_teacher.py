"""Teachers of every kind: their answers, their names, and refusals."""

import helpers
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from streamkd.errors import OptionError, TeacherError
from streamkd.models.preprocessing import parse
from streamkd.teachers.load_teacher import load_teacher
from streamkd.teachers.teacher import Teacher, digest_of_weights

PIXELS = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
LOGITS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
PROBABILITIES = tf.nn.softmax(LOGITS).numpy()


def logits_of(family):
    """Returns the logits of the small model."""
    return np.asarray(helpers.small_model(family, activation=None)(PIXELS))


def same_but_for_a_constant(answers, expected):
    answers, expected = (x - x.mean(axis=1, keepdims=True) for x in (answers, expected))
    np.testing.assert_allclose(answers, expected, atol=2e-4)


def test_a_model_that_ends_in_softmax_answers_with_its_logits(family):
    teacher = load_teacher(helpers.small_model(family))
    answers = teacher(PIXELS)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, logits_of(family), atol=1e-4)
    assert (teacher.removed, teacher.output_kind, teacher.name) == ("softmax", "logits", "small")
    assert (teacher.num_outputs, teacher.image_size, teacher.num_channels) == (3, (8, 8), 3)


@pytest.mark.parametrize("output", ["auto", "logits", "probabilities"])
def test_a_softmax_is_left_out_whatever_kind_the_outputs_are_said_to_be(output):
    # The user describes the saved model: the logarithm of its logits would be wrong.
    teacher = load_teacher(helpers.small_model(tf_keras), output=output)
    np.testing.assert_allclose(teacher(PIXELS), logits_of(tf_keras), atol=1e-4)
    assert teacher.identity()["output"] == "logits"


def test_a_saved_model_answers_like_the_model(family, tmp_path):
    helpers.small_model(family).save(tmp_path / "model.keras")
    teacher = load_teacher(tmp_path / "model.keras")
    np.testing.assert_allclose(teacher(PIXELS), logits_of(family), atol=1e-4)
    assert teacher.name == "model.keras"
    assert teacher.identity() == {
        "name": "model.keras",
        "weights": digest_of_weights(helpers.small_model(family).weights),
        "output": "logits",
        "removed": "softmax",
        "preprocess": "none",
        "dropped_output": None,
    }


def test_a_subclassed_model_is_probed(family):
    class Own(family.Model):
        def __init__(self):
            super().__init__()
            self.inner = helpers.small_model(family)

        def call(self, inputs, training=None):
            return self.inner(inputs)

    teacher = load_teacher(Own(), name="own")
    assert (teacher.output_kind, teacher.image_size, teacher.num_outputs) == ("auto", None, None)
    same_but_for_a_constant(teacher(PIXELS), logits_of(family))
    assert teacher.output_kind == "probabilities"


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (LOGITS, "logits"),
        (PROBABILITIES, "probabilities"),
        (np.log(PROBABILITIES), "log-probabilities"),
    ],
    ids=["logits", "probabilities", "log-probabilities"],
)
@pytest.mark.parametrize("said", [False, True], ids=["probed", "said"])
def test_a_callable_is_probed_unless_its_output_is_said(answers, kind, said):
    teacher = load_teacher(lambda images: answers, output=kind if said else "auto")
    same_but_for_a_constant(teacher(PIXELS), LOGITS)
    assert teacher.output_kind == teacher.identity()["output"] == kind


def test_a_kind_that_is_settled_stays_as_it_is():
    teacher = load_teacher(lambda images: PROBABILITIES)
    assert teacher.identity()["output"] == "auto"
    assert teacher.identity(default_output="probabilities")["output"] == "probabilities"
    assert teacher.output_kind == "auto", "an identity is read, and not fixed"
    teacher.settle_output("logits")
    teacher.settle_output("probabilities")
    assert teacher.output_kind == teacher.identity(default_output="x")["output"] == "logits"
    np.testing.assert_array_equal(teacher(PIXELS), PROBABILITIES)


def test_a_callable_gets_float32_arrays_and_may_answer_with_anything_like_an_array():
    seen = []

    def answer(images):
        seen.append(images)
        return tf.constant(LOGITS).numpy().tolist()

    teacher = load_teacher(answer)
    np.testing.assert_allclose(teacher(tf.constant(PIXELS)), LOGITS, atol=1e-6)
    assert isinstance(seen[0], np.ndarray) and seen[0].dtype == np.float32
    np.testing.assert_array_equal(seen[0], PIXELS)
    assert teacher.name.endswith("answer") and teacher.weights_digest is None


def test_an_object_that_can_be_called_is_named_after_its_class():
    assert load_teacher(helpers.EncodingTeacher()).name == "EncodingTeacher"
    assert load_teacher(helpers.EncodingTeacher(), name="code").name == "code"


def test_a_teacher_is_returned_as_it_is():
    teacher = load_teacher(helpers.EncodingTeacher())
    assert load_teacher(teacher) is teacher


@pytest.mark.parametrize("preprocess", ["scale", "VGG16"])
def test_preprocessing_comes_before_the_teacher(preprocess):
    seen = []
    teacher = load_teacher(lambda x: seen.append(x) or LOGITS, preprocess=preprocess)
    teacher(PIXELS)
    np.testing.assert_array_equal(seen[0], parse(preprocess, 3)(PIXELS))
    assert teacher.identity()["preprocess"] == preprocess


@pytest.mark.parametrize("dropped", [0, 2])
@pytest.mark.parametrize("answers", [LOGITS, PROBABILITIES], ids=["logits", "probabilities"])
def test_an_output_that_is_no_class_is_left_out_of_the_logits(dropped, answers):
    teacher = load_teacher(lambda images: answers, drop_output=dropped)
    same_but_for_a_constant(teacher(PIXELS), np.delete(LOGITS, dropped, axis=1))
    assert teacher.identity()["dropped_output"] == dropped


@pytest.mark.parametrize("dropped", [3, -1])
def test_an_output_that_does_not_exist_cannot_be_left_out(dropped):
    teacher = load_teacher(lambda images: LOGITS, drop_output=dropped, name="code")
    with pytest.raises(
        TeacherError, match=rf"--drop-output is {dropped}, .* outputs 0 to 2\.\nGive"
    ):
        teacher(PIXELS)


@pytest.mark.parametrize("given", [[0, 2], (2, 0), np.array([2, 0])], ids=str)
def test_several_outputs_are_left_out_whatever_their_order(given):
    answers = np.arange(20, dtype=np.float32).reshape(4, 5)
    teacher = load_teacher(lambda images: answers, drop_output=given)
    np.testing.assert_array_equal(teacher(PIXELS), answers[:, [1, 3, 4]])
    assert teacher.identity()["dropped_output"] == [0, 2]


def test_one_output_in_a_list_is_stored_as_its_number():
    for given, stored in (([1], 1), (np.int64(1), 1), ((), None), (None, None)):
        teacher = load_teacher(lambda images: LOGITS, drop_output=given)
        assert teacher.identity()["dropped_output"] == stored
        assert type(teacher.identity()["dropped_output"]) is type(stored)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1, 1], r"--drop-output has 1 twice\.\nGive every output once\."),
        ("0", r"drop_output is '0'; it must be a whole number or a list"),
        ([0, True], r"drop_output is \[0, True\]; it must be a whole number or a list"),
        (0.0, r"drop_output is 0\.0; it must be a whole number or a list"),
    ],
)
def test_what_is_no_number_of_an_output_is_refused(given, words):
    with pytest.raises(OptionError, match=words):
        load_teacher(lambda images: LOGITS, drop_output=given)


def test_two_classes_must_be_left():
    teacher = load_teacher(lambda images: LOGITS, drop_output=[0, 2])
    words = r"leaves out 2 of the 3 outputs .* at least two classes\.\nLeave out fewer outputs\."
    with pytest.raises(TeacherError, match=words):
        teacher(PIXELS)


@pytest.mark.parametrize(
    "answers",
    [LOGITS[0], LOGITS[:3], LOGITS[:, :0], LOGITS[:, :, None], np.float32(3)],
    ids=["vector", "too few", "no class", "rank three", "number"],
)
def test_answers_that_are_not_one_row_an_image_are_refused(answers):
    teacher = load_teacher(lambda images: answers, name="mystery")
    words = r"'mystery' answered 4 images with an array of shape \[.*\]\.\nIt must .* two classes\."
    with pytest.raises(TeacherError, match=words):
        teacher(PIXELS)


@pytest.mark.parametrize("source", [3, None, ["teacher.keras"]], ids=repr)
def test_a_source_that_is_no_teacher_is_refused(source):
    with pytest.raises(TeacherError, match="A teacher cannot be made of"):
        load_teacher(source)


@pytest.mark.parametrize("source", ["model", "callable"])
def test_an_unknown_output_is_refused(source):
    source = helpers.small_model(tf_keras) if source == "model" else helpers.EncodingTeacher()
    with pytest.raises(OptionError, match="--teacher-output is 'scores'; choose one of auto"):
        load_teacher(source, output="scores")


def test_a_model_without_fixed_size_takes_any(family):
    layers = family.layers
    model = family.Sequential(
        [family.Input((None, None, 3)), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    )
    teacher = Teacher.from_model(model, name="any")
    assert teacher.image_size is None and teacher.num_channels == 3
    assert teacher(PIXELS).shape == teacher(PIXELS[:, :5, :6]).shape == (4, 2)


def test_the_digest_of_weights_sees_values_shapes_and_order():
    zeros, ones = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    digests = {
        digest_of_weights(weights)
        for weights in ([zeros, ones], [ones, zeros], [zeros, ones.T], [zeros], [zeros, ones + 1])
    }
    assert len(digests) == 5
    assert digest_of_weights([tf.Variable(zeros)]) == digest_of_weights([zeros])
