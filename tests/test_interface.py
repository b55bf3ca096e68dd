"""What a model takes and answers: brought into form without a guess, or refused by name."""

import numpy as np
import pytest
import tensorflow as tf

import streamkd as kd
from streamkd.errors import OptionError, StudentError, TeacherError
from streamkd.models.interface import check_interface
from streamkd.teachers.teacher import NO_WEIGHTS, Teacher
from streamkd.training.student_model import student_model

SHAPE = (8, 8, 3)


def pixels(number=3, shape=SHAPE):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (number, *shape)).astype(np.float32)


def two_outputs(family, kind):
    image = family.Input(SHAPE, name="image")
    features = family.layers.GlobalAveragePooling2D(name="features")(image)
    logits = family.layers.Dense(4, name="head", activation="softmax")(features)
    outputs = {"list": [features, logits], "dict": {"b": features, "a": {"c": logits}}}[kind]
    return family.Model(image, outputs, name="net"), family.Model(image, logits)


def check(model, **options):
    return check_interface(model, kind="teacher", refusal=TeacherError, **options)


def refusal(model, **options):
    with pytest.raises(TeacherError) as caught:
        check(model, **options)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "choices"), [("list", ["head", 1, "1"]), ("dict", ["a/c", 0])])
def test_one_of_several_outputs_is_taken_by_name_or_number(family, kind, choices):
    model, alone = two_outputs(family, kind)
    for choice in choices:
        interface = check(model, output=choice)
        assert interface.output == choices[0] and interface.logits.removed == "softmax"
        np.testing.assert_array_equal(interface.answers(pixels()), alone(pixels()))
    name, other = choices[0], "features" if kind == "list" else "b"
    text = refusal(model)
    assert text.startswith(
        "The teacher 'net' has 2 outputs, and only one of them can be the logits.\n"
    )
    assert f": '{name}', shape [4]\n" in text and f": '{other}', shape [3]\n" in text
    assert "Choose one by its name or number: `--output " in text
    for choice in ("heads", 2, "-1"):
        assert f"The teacher 'net' has no output '{choice}'.\n" in refusal(model, output=choice)


def test_a_dict_with_one_array_needs_no_choice(family):
    image = family.Input(SHAPE, name="image")
    hidden = family.layers.Flatten()(image)
    logits = family.layers.Dense(4)(hidden)
    model = family.Model({"image": image}, {"logits": logits})
    interface = check(model)
    assert interface.model is model and interface.output is None
    np.testing.assert_array_equal(
        interface.logits.model(pixels()), family.Model(image, logits)(pixels())
    )


def subclass(family, answer):
    class OfAUser(family.Model):
        def __init__(self):
            super().__init__(name="own")
            self.row, self.head = family.layers.Flatten(), family.layers.Dense(4)

        def call(self, inputs):
            return answer(self.head(self.row(inputs)))

    return OfAUser()


class Answer:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("answer", [lambda z: {"only": z}, lambda z: [z], lambda z: Answer(z)])
def test_the_one_array_of_a_subclassed_model_is_taken(family, answer):
    model = subclass(family, answer)
    assert not check(model).is_settled
    interface = check(model, shape=SHAPE)
    assert interface.logits.model(pixels()).shape == (3, 4) and interface.model is model


def test_several_outputs_of_a_subclassed_model_are_named(family, tmp_path):
    model = subclass(family, lambda z: {"main": z, "aux": 2 * z})
    assert "0: 'aux', shape [4]\n  1: 'main', shape [4]\n" in refusal(model, shape=SHAPE)
    interface = check(model, shape=SHAPE, output="main")
    np.testing.assert_array_equal(interface.answers(pixels()), model(pixels())["main"])


def test_two_inputs_are_refused_by_name(family):
    image, meta = family.Input(SHAPE, name="image"), family.Input((4,), name="meta")
    row = family.layers.Concatenate()([family.layers.Flatten()(image), meta])
    model = family.Model([image, meta], family.layers.Dense(4)(row), name="net")
    assert refusal(model) == (
        "The teacher 'net' takes 2 inputs, and an image is only one.\n"
        "  'image', shape [8, 8, 3]\n  'meta', shape [4]\n"
        "Give a model of images alone, in which the other inputs are constants: "
        "`keras.Model(image, model([image, …]))`."
    )


def row_model(family, sizes, **options):
    layers = [family.Input(sizes, **options), family.layers.Flatten(), family.layers.Dense(4)]
    return family.Sequential(layers, name="net")


@pytest.mark.parametrize(
    ("sizes", "shape"), [((192,), SHAPE), ((64,), (8, 8, 1)), ((8, 8), (8, 8, 1))], ids=str
)
def test_numbers_in_a_row_and_images_without_channels_are_made_of_images(family, sizes, shape):
    model = row_model(family, sizes)
    interface = check(model, shape=shape)
    images = pixels(5, shape)
    np.testing.assert_allclose(
        interface.logits.model(images), model(images.reshape(5, *sizes)), rtol=1e-5, atol=1e-3
    )
    parts = student_model(model, preprocess="scale", shape=shape)
    np.testing.assert_allclose(
        parts.student(images), model(images.reshape(5, *sizes) / 255), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("sizes", "shape", "words"),
    [
        ((64,), SHAPE, "takes 64 numbers for an image, and images of 8 x 8 x 3 have 192.\nAdd "
         "`--color-mode grayscale`. Or begin the model with images and a Flatten layer."),
        ((784,), SHAPE, "such as `--image-size 28x28 --color-mode grayscale`."),
        ((8, 8), SHAPE, "takes images without channels, [8, 8], and these have 3.\nAdd "
         "`--color-mode grayscale`, or begin the model with images and a Reshape layer."),
        ((9, 9), (8, 8, 1), "takes images of shape [9, 9], and these are 8 x 8 x 1.\n"),
        ((3, 8, 8), SHAPE, "takes images channels first, [3, 8, 8], and streamkd gives "),
        ((1, None, None), None, "takes images channels first, [1, any, any], and streamkd gives "),
        ((5, 8, 8, 3), None, "takes arrays of shape [5, 8, 8, 3], which no image has.\n"),
    ],
    ids=str,
)  # fmt: skip
def test_images_that_the_model_does_not_take_are_refused(family, sizes, shape, words):
    if None in sizes:
        model = family.Sequential([family.Input(sizes), family.layers.Activation("relu")])
    else:
        model = row_model(family, sizes)
    assert words in refusal(model, shape=shape)


def test_a_fixed_batch_size_is_filled_up(family):
    image = family.Input(SHAPE, batch_size=4)
    row = family.layers.Lambda(lambda x: tf.reshape(x, [4, 192]))(image)
    model = family.Model(image, family.layers.Dense(4, activation="softmax")(row))
    interface = check(model, shape=SHAPE)
    images = pixels(6)
    filled = np.concatenate([images, np.zeros((2, *SHAPE), np.float32)])
    expected = np.concatenate([model(filled[:4]), model(filled[4:])])[:6]
    np.testing.assert_allclose(interface.answers(images), expected, rtol=1e-5, atol=1e-6)
    traced = tf.function(interface.logits.model).get_concrete_function(
        tf.TensorSpec([None, *SHAPE]), training=False
    )
    found = tf.nn.softmax(traced(tf.constant(images)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_whole_numbers_are_what_the_model_casts_pixels_to(family):
    model = row_model(family, SHAPE, dtype="uint8")
    interface = check(model, shape=SHAPE)
    assert interface.takes.dtype == "uint8"
    np.testing.assert_array_equal(interface.answers(pixels()), model(pixels().astype("uint8")))
    with pytest.raises(OptionError, match=r"takes uint8, so its pixels are 0 to 255, and the pre"):
        Teacher.from_model(model, name="net", preprocess="scale")(pixels())


def unbuilt(family):
    layers = family.layers
    base = family.Sequential([layers.Rescaling(1 / 255), layers.Conv2D(2, 3)])
    return family.Sequential(
        [base, layers.GlobalAveragePooling2D(), layers.Dense(4, activation="softmax")]
    )


def test_a_model_that_is_not_built_has_its_weights_once_it_has_seen_an_image(family):
    first, second = (Teacher.from_model(unbuilt(family), name="net") for _ in range(2))
    assert first.weights_digest is None
    for teacher in (first, second):
        teacher.settle_model(SHAPE)
    assert first.removed == "softmax" and first.output_kind == "logits"
    assert len({first.weights_digest, second.weights_digest, NO_WEIGHTS, None}) == 4


def test_a_model_without_weights_has_no_digest_of_them(family):
    layers = [family.Input((8, 8, 4)), family.layers.GlobalAveragePooling2D()]
    assert Teacher.from_model(family.Sequential(layers), name="mean").weights_digest is None


def test_a_student_that_is_not_built_is_preprocessed_and_loses_its_softmax(family):
    student = unbuilt(family)
    assert student_model(student, preprocess="1,2") is None
    parts = student_model(student, preprocess="1,2", shape=SHAPE)
    assert parts.logits.removed == "softmax"
    np.testing.assert_allclose(
        parts.student(pixels()), student((pixels() - 1) / 2), rtol=1e-4, atol=1e-5
    )


def test_the_output_of_a_student_that_is_chosen_is_a_model_of_its_own(family):
    model, alone = two_outputs(family, "list")
    with pytest.raises(StudentError, match="The student 'net' has 2 outputs"):
        kd.Distiller(model)
    student = kd.Distiller(model, model_output="head").student
    np.testing.assert_array_equal(student(pixels()), alone(pixels()))
    assert student.count_params() == model.count_params()
