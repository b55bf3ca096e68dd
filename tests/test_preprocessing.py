"""Preprocessing against the applications' own, as a function and as a model's first layers."""

import sys

import helpers
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from streamkd.errors import OptionError
from streamkd.models.preprocessing import parse, with_preprocessing

APPLICATIONS = {
    "ResNet50": "resnet",
    "ResNet50V2": "resnet_v2",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "Xception": "xception",
    "InceptionV3": "inception_v3",
    "InceptionResNetV2": "inception_resnet_v2",
    "DenseNet121": "densenet",
    "NASNetMobile": "nasnet",
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "mobilenet_v3",
    "EfficientNetB0": "efficientnet",
    "EfficientNetV2B0": "efficientnet_v2",
    "ConvNeXtTiny": "convnext",
    "RegNetX002": "regnet",
    "ResNetRS50": "resnet_rs",
}


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).uniform(0, 255, (3, 4, 5, 3)).astype(np.float32)


@pytest.mark.parametrize("name", list(APPLICATIONS))
def test_an_application_is_preprocessed_as_by_its_own_function(name, pixels):
    module = getattr(tf_keras.applications, APPLICATIONS[name])
    expected = module.preprocess_input(pixels.copy())
    preprocessing = parse(name, 3)
    preprocessed = preprocessing(tf.constant(pixels)).numpy()
    assert preprocessed.dtype == np.float32
    np.testing.assert_allclose(
        preprocessed, expected, atol=1e-3 if np.abs(expected).max() > 4 else 1e-5
    )
    assert preprocessing.is_identity == bool(np.array_equal(expected, pixels))


def test_every_application_of_tf_keras_has_its_preprocessing():
    for name in dir(tf_keras.applications):
        if name[0].isupper():
            assert len(parse(name, 3).scale) == 3, name


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("none", lambda x: x),
        ("scale", lambda x: x / 255),
        ("127.5,63.75", lambda x: (x - 127.5) / 63.75),
        ("1,2,3,4,5,6", lambda x: (x - [1, 2, 3]) / [4, 5, 6]),
    ],
    ids=["none", "scale", "one mean", "three means"],
)
def test_a_scale_and_means_are_applied(text, function, pixels):
    np.testing.assert_allclose(parse(text, 3)(pixels), function(pixels), rtol=1e-5, atol=1e-4)


def test_one_mean_serves_one_channel():
    assert parse("10,2", 1)(np.full((1, 1, 1, 1), 14, np.float32)).item() == 2


@pytest.mark.parametrize("text", ["1,2,3", "1,0", "1,-2", "a,b", "1,2,3,4", ",", "1,2,3,4,5,0"])
def test_means_that_do_not_fit_are_refused(text):
    with pytest.raises(OptionError, match=r"The preprocessing is .*; write MEAN,STD"):
        parse(text, 3)


@pytest.mark.parametrize("name", ["ResNet", "resnet50", "preprocess_input", "layers", "__name__"])
def test_a_name_that_is_no_application_is_refused(name):
    with pytest.raises(OptionError, match=r"The preprocessing is .*; choose none, scale, MEAN,STD"):
        parse(name, 3)


def test_an_application_for_grey_images_is_refused():
    with pytest.raises(OptionError, match=r"is for RGB images, and these have 1 channel"):
        parse("MobileNetV2", 1)


@pytest.mark.parametrize("text", ["none", "scale", "VGG16", "MobileNetV2", "1,2,3,4,5,6"])
def test_a_model_on_pixels_answers_as_preprocessing_then_model(family, text, tmp_path):
    # Logits of a student without a Rescaling of its own.
    model = family.Sequential(
        [
            family.Input((6, 7, 3)),
            family.layers.Conv2D(2, 3, activation="relu"),
            family.layers.Flatten(),
            family.layers.Dense(3),
        ]
    )
    preprocessing = parse(text, 3)
    on_pixels = with_preprocessing(model, preprocessing)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 6, 7, 3)).astype(np.float32)
    expected = np.asarray(model(preprocessing(pixels)))
    answers = np.asarray(on_pixels(pixels))
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert (on_pixels is model) == (text == "none")
    on_pixels.save(tmp_path / "model.keras")
    again = family.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(np.asarray(again(pixels)), answers, rtol=1e-5, atol=1e-5)


def test_a_model_on_pixels_shares_the_weights(family):
    model = helpers.small_model(family)
    on_pixels = with_preprocessing(model, parse("VGG16", 3))
    assert [id(w) for w in on_pixels.trainable_weights] == [id(w) for w in model.trainable_weights]


def test_parsing_a_plain_preprocessing_needs_no_keras(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras.applications", None)
    assert parse("scale", 3).scale == (1 / 255,) * 3
