"""A bias in the last layer of a copy: softmax(logits + bias), and the model stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from run_helpers import dense_student, drifting_model, log_softmax, same_weights, softmax

from streamkd.errors import StudentError
from streamkd.models.head_bias import num_logits_of, with_bias

BIAS = np.array([0.5, -2.0, 3.0])
SHAPE = (8, 8, 3)
PIXELS = np.random.default_rng(0).uniform(0, 255, (5, *SHAPE)).astype(np.float32)


def answers(model):
    return np.asarray(model(PIXELS, training=False), np.float64)


def dense(family, **options):
    layers = family.layers
    return family.Sequential(
        [
            family.Input(SHAPE),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(3, **options),
        ]
    )


def nested(family):
    inputs = family.Input(SHAPE)
    inner = dense(family, use_bias=False)
    return family.Model(inputs, family.layers.Softmax()(inner(inputs)))


def convolution(family):
    layers = family.layers
    pooled = [layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D(keepdims=True)]
    end = [layers.Conv2D(3, 1, use_bias=False), layers.Flatten(), layers.Activation("softmax")]
    return family.Sequential([family.Input((None, None, 3)), *pooled, *end])


def sliced(family):
    inputs = family.Input(SHAPE)
    outputs = family.layers.Dense(3)(family.layers.Flatten()(inputs[..., :2] / 255.0))
    softmax_of = tf.nn.softmax if family.__name__ == "tf_keras" else family.ops.softmax
    return family.Model(inputs, softmax_of(outputs))


def fixed_batch(family):
    inputs = family.Input(batch_size=5, shape=SHAPE)
    scaled = family.layers.Rescaling(1 / 255)(inputs)
    normed = family.layers.BatchNormalization()(family.layers.Flatten()(scaled))
    return family.Model(inputs, family.layers.Dense(3, "softmax", use_bias=False)(normed))


@pytest.mark.parametrize(
    "make",
    [
        lambda family: dense_student(family),
        lambda family: dense(family, activation="softmax", use_bias=False),
        nested,
        convolution,
        sliced,
        fixed_batch,
    ],
    ids=["dense", "without bias", "nested", "convolution", "sliced", "fixed batch"],
)
def test_the_copy_answers_with_the_bias_added(family, make):
    model = make(family)
    before, weights = answers(model), [w.copy() for w in model.get_weights()]
    copy = with_bias(model, BIAS)
    expected = softmax(np.log(before) + BIAS)
    assert answers(copy) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert type(copy) is type(model) and copy.name == model.name
    assert np.array_equal(answers(model), before)
    assert all(map(np.array_equal, model.get_weights(), weights))
    assert num_logits_of(copy) == 3


def test_logits_stay_logits_and_a_saved_copy_is_the_same(family, tmp_path):
    model = dense(family, use_bias=False)
    copy = with_bias(model, BIAS)
    assert answers(copy) == pytest.approx(answers(model) + BIAS, abs=1e-5)
    copy.save(tmp_path / "copy.keras")
    assert same_weights(copy, family.models.load_model(tmp_path / "copy.keras"))


def test_a_bias_of_lower_precision_is_within_its_rounding(family):
    model = dense(family, activation="softmax", dtype="mixed_bfloat16")
    copy = with_bias(model, BIAS)
    log_ratio = log_softmax(np.log(answers(copy)) - np.log(answers(model)))
    assert log_ratio == pytest.approx(np.tile(log_softmax(BIAS), (5, 1)), abs=0.1)


def with_own_layer(family):
    class Own(family.layers.Layer):
        def call(self, inputs):
            return inputs

    return family.Sequential([dense(family), Own()])


@pytest.mark.parametrize(
    "make",
    [
        lambda family: dense(family, activation="relu"),
        lambda family: family.Sequential([dense(family, activation="softmax"), _softmax(family)]),
        lambda family: family.Sequential([family.Input(SHAPE), family.layers.Conv2D(3, 1)]),
        lambda family: family.Sequential([family.Input(SHAPE), family.layers.Flatten()]),
        with_own_layer,
    ],
    ids=["relu", "two softmaxes", "a map", "no last weights", "own layer"],
)
def test_a_model_whose_layers_do_not_show_the_logits_is_refused(family, make):
    with pytest.raises(StudentError, match="do not show where a bias is added to each logit"):
        with_bias(make(family), BIAS)


def _softmax(family):
    return family.layers.Softmax()


def test_a_bias_of_other_length_is_refused(family):
    with pytest.raises(StudentError, match="has 3 logits, and the bias is for 2"):
        with_bias(dense(family), [1.0, 2.0])


def test_a_layer_that_forgets_its_settings_is_refused(family):
    with pytest.raises(StudentError, match="copied to get a bias: its copy answers otherwise, by"):
        with_bias(drifting_model(family), BIAS)
