"""Pixels that a model is given preprocessed twice or not at all, and what reaches its weights."""

from __future__ import annotations

import importlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import streamkd as kd
from streamkd.models import pixel_range, preprocessing
from streamkd.models.families import family_of
from streamkd.models.pixel_warnings import warn_of_pixels

SHAPE = (8, 8, 3)
FAMILIES = pytest.mark.parametrize("keras_family", [tf_keras, keras], ids=lambda k: k.__name__)


def model_of(family, *layers, size=SHAPE):
    """A classifier of two classes that begins with some layers."""
    last = [family.layers.GlobalAveragePooling2D(), family.layers.Dense(2)]
    return family.Sequential([family.Input(size), *layers, *last])


def net(family, *names, **options):
    """Convolutions with the names of an application's layers."""
    return [family.layers.Conv2D(2, 3, name=name, **options) for name in names]


def told(model, who="student", preprocess="none", shape=SHAPE):
    """Returns code and message of the one warning; ('', '') without any."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_pixels(model, who, preprocess=preprocess, shape=shape)
    assert len(caught) <= 1
    return (caught[0].message.code, str(caught[0].message)) if caught else ("", "")


def normalization(family, mean=(127.0,) * 3, variance=(60.0**2,) * 3):
    return family.layers.Normalization(mean=list(mean), variance=list(variance))


HEADS = {
    "rescaling": lambda f: [f.layers.Rescaling(1 / 255)],
    "rescaling to -1": lambda f: [f.layers.Rescaling(1 / 127.5, -1)],
    "normalization": lambda f: [normalization(f)],
    "lambda": lambda f: [f.layers.Lambda(lambda pixels: pixels / 127.5 - 1)],
    "nested": lambda f: [f.Sequential([f.layers.ZeroPadding2D(), f.layers.Rescaling(1 / 255)])],
    "two": lambda f: [f.layers.Rescaling(1 / 255), normalization(f, (0.5,) * 3, (0.25,) * 3)],
}


@FAMILIES
@pytest.mark.parametrize("who", ["teacher", "student"])
@pytest.mark.parametrize("head", HEADS)
def test_a_model_that_preprocesses_by_itself_and_is_given_preprocessed_pixels(
    keras_family, who, head
):
    model = model_of(keras_family, *HEADS[head](keras_family), *net(keras_family, "first"))
    assert told(model, who) == ("", "")
    flag = {"teacher": "--preprocess", "student": "--student-preprocess"}[who]
    for preprocess in ("scale", "MobileNetV2", "ResNet50", "127,60"):
        code, message = told(model, who, preprocess)
        assert code == "pixels_preprocessed_twice"
        start = f"The pixels of the {who} are preprocessed twice: by `{flag} {preprocess}` and by"
        assert message.startswith(start) and "reach its layer 'first'" in message
        assert message.endswith(f"Leave `{flag}` out.")


@FAMILIES
def test_layers_for_scaled_pixels_are_not_called_a_second_preprocessing(keras_family):
    # The mean and deviation of pixels from 0 to 1, as PyTorch's users have them.
    layers = [normalization(keras_family, (0.485, 0.456, 0.406), (0.0524, 0.0502, 0.0506))]
    model = model_of(keras_family, *layers, *net(keras_family, "first"))
    assert told(model, "teacher", "scale") == ("", "")
    assert told(model, "student", "scale") == ("", "")


@FAMILIES
def test_two_divisions_within_a_model_are_told(keras_family):
    scales = [keras_family.layers.Rescaling(1 / 255) for _ in range(2)]
    code, message = told(model_of(keras_family, *scales, *net(keras_family, "first")), "teacher")
    assert code == "pixels_preprocessed_twice"
    assert message.startswith("Numbers from 0 to 0.00392 reach its layer 'first' of the teacher")


@FAMILIES
def test_a_student_of_pixels_as_they_are_in_the_file(keras_family):
    layers = keras_family.layers
    code, message = told(model_of(keras_family, *net(keras_family, "first")))
    assert code == "pixels_not_preprocessed"
    assert message == (
        "Numbers from 0 to 255 reach its layer 'first' of the student. Most students learn better "
        "from numbers around -1 to 1: give `--student-preprocess scale`, or begin the student with "
        "a Rescaling layer."
    )
    flat = keras_family.Sequential([keras_family.Input(SHAPE), layers.Flatten(), layers.Dense(2)])
    assert told(flat)[0] == "pixels_not_preprocessed" and told(flat, preprocess="scale")[0] == ""
    # A norm after the first layer, or before it, makes the size of the numbers irrelevant.
    for normed in (
        [*net(keras_family, "first", use_bias=False), layers.BatchNormalization()],
        [layers.BatchNormalization(), *net(keras_family, "first")],
    ):
        assert told(model_of(keras_family, *normed)) == ("", "")
    # How a teacher was trained is unknown; its answers are looked at instead.
    assert told(model_of(keras_family, *net(keras_family, "first")), "teacher") == ("", "")


EXPECTED = {  # by the layers that stand for an application: name, smallest and largest number
    "MobileNetV2": (("Conv1", "expanded_conv_depthwise"), -1, 1),
    "ResNet50": (
        ("conv1_conv", "conv1_bn", "conv2_block1_1_conv", "conv2_block1_3_conv"),
        -124,
        151,
    ),
    "DenseNet121": (("conv2_block1_concat", "conv2_block1_0_bn"), -2.12, 2.64),
}


@FAMILIES
@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("nested", [False, True])
def test_an_application_is_known_by_its_layers_and_expects_its_own_numbers(
    keras_family, name, nested
):
    names, low, high = EXPECTED[name]
    convolutions = net(keras_family, *names, padding="same")
    if nested:
        convolutions = [keras_family.Sequential([keras_family.Input(SHAPE), *convolutions])]
    model = model_of(keras_family, *convolutions)
    code, message = told(model, "teacher")
    assert code == "pixels_not_preprocessed"
    assert message == (
        f"The teacher has the layers of {name}, which expects numbers from {low} to {high}. "
        f"Numbers from 0 to 255 reach its layer '{names[0]}'. Give `--preprocess {name}`."
    )
    assert told(model, "student", name) == ("", "")
    # Another preprocessing than its own.
    assert told(model, "student", "scale")[0] == "pixels_not_preprocessed"
    other = "MobileNetV2" if name != "MobileNetV2" else "ResNet50"
    assert f"Give `--preprocess {name}`" in told(model, "teacher", other)[1]


@FAMILIES
def test_an_application_with_its_preprocessing_in_the_graph(keras_family):
    inputs = keras_family.Input(SHAPE)
    pixels = keras_family.applications.mobilenet_v2.preprocess_input(inputs)
    convolutions = net(keras_family, "Conv1", "expanded_conv_depthwise")
    outputs = keras_family.Sequential([keras_family.Input(SHAPE), *convolutions])(pixels)
    model = keras_family.Model(inputs, outputs)
    assert told(model) == ("", "")
    assert told(model, "student", "MobileNetV2")[0] == "pixels_preprocessed_twice"
    scaled = keras_family.Sequential([*HEADS["rescaling"](keras_family), *convolutions])
    scaled.build((None, *SHAPE))
    assert told(scaled)[1].endswith("Change the layers before it.")


@FAMILIES
def test_models_that_cannot_be_followed_are_not_judged(keras_family):
    class Own(keras_family.Model):
        def call(self, images):
            return images[:, 0, 0, :2]

    class Odd(keras_family.layers.Layer):
        def call(self, images):
            if tf.executing_eagerly():
                raise RuntimeError("in graphs alone")
            return images

    assert told(Own()) == ("", "")
    inputs = keras_family.Input(SHAPE)
    outputs = keras_family.layers.Conv2D(2, 3)(Odd()(inputs))
    assert told(keras_family.Model(inputs, outputs)) == ("", "")
    without = keras_family.Sequential([keras_family.Input(SHAPE), keras_family.layers.Flatten()])
    assert told(without) == ("", "")


@FAMILIES
def test_other_shapes_of_images_are_judged_as_well(keras_family):
    layers = keras_family.layers

    def scaled():
        return [layers.Rescaling(1 / 255), *net(keras_family, "first")]

    grey = model_of(keras_family, *scaled(), size=(8, 8, 1))
    assert told(grey, preprocess="scale", shape=(8, 8, 1))[0] == "pixels_preprocessed_twice"
    of_any_size = model_of(keras_family, *scaled(), size=(None, None, 3))
    assert told(of_any_size, preprocess="scale")[0] == "pixels_preprocessed_twice"
    fixed = keras_family.Sequential([keras_family.Input(SHAPE, batch_size=2), *scaled()])
    assert told(fixed, preprocess="scale")[0] == "pixels_preprocessed_twice"


def reach_of(model, shape=SHAPE):
    return pixel_range.reach_of(model, preprocessing.parse("none", 3), shape)


@FAMILIES
def test_random_layers_before_the_first_weights_are_found(keras_family):
    layers = keras_family.layers
    flips = keras_family.Sequential(
        [layers.RandomRotation(0.1, name="turn"), layers.GaussianNoise(0.1, name="noise")]
    )
    model = model_of(
        keras_family,
        *[layers.RandomFlip(name="flip"), flips, layers.Rescaling(1 / 255)],
        *[layers.Conv2D(2, 3), layers.Dropout(0.5, name="later")],
    )
    states = [np.array(state) for state in family_of(model).random_states(model)]
    reach = reach_of(model)
    assert reach.random_layers == [
        *("RandomFlip 'flip'", "RandomRotation 'turn'", "GaussianNoise 'noise'")
    ]
    assert (reach.low, round(reach.high, 6)) == (0, 1)
    # The look draws no random number, and leaves the model as it was.
    after = [np.array(state) for state in family_of(model).random_states(model)]
    assert all(np.array_equal(a, b) for a, b in zip(states, after, strict=True))


@pytest.mark.slow
@FAMILIES
def test_every_application_is_known_or_has_its_preprocessing_inside(keras_family):
    sizes = {"InceptionV3": 96, "InceptionResNetV2": 96, "Xception": 96}
    without = (*pixel_range.SIGNATURES, "VGG19", "ResNet101", "ResNet101V2", "DenseNet169")
    inside = ("MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny")
    applications = importlib.import_module(f"{keras_family.__name__}.applications")
    for name in (*without, *inside, *(n for n in ("RegNetX002",) if hasattr(applications, n))):
        shape = (sizes.get(name, 32),) * 2 + (3,)
        model = getattr(applications, name)(weights=None, include_top=False, input_shape=shape)
        code, message = told(model, "teacher", shape=shape)
        assert code == ("pixels_not_preprocessed" if name in without else ""), name
        if name in without:
            assert told(model, "teacher", name, shape) == ("", ""), message
        else:
            assert told(model, "teacher", "scale", shape)[0] == "pixels_preprocessed_twice", name


def test_the_words_are_a_warning_with_a_code():
    with pytest.warns(kd.StreamkdWarning):
        warn_of_pixels(
            model_of(tf_keras, *HEADS["rescaling"](tf_keras), *net(tf_keras, "first")),
            "teacher",
            preprocess="scale",
            shape=SHAPE,
        )
