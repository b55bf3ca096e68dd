"""Heads as strangers write them: the soft targets are the model's own, at every temperature.

Reference: the model's own probabilities p in float64; softmax(z / T) is p ** (1 / T), normalised.
"""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from streamkd.errors import TeacherError
from streamkd.models.logits_head import logits_model
from streamkd.models.output_kind import output_kind, refuse_scaled, to_logits

SHAPE = (8, 8, 3)
PIXELS = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)


def softmax_operation(family):
    return keras.ops.softmax if family is keras else tf.nn.softmax


def ending(head):
    """Returns a maker of a functional model: `head(family, layers, features)` is its end."""

    def make(family):
        layers = family.layers
        inputs = family.Input(SHAPE)
        features = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu")(inputs))
        return family.Model(inputs, head(family, layers, features))

    return make


def half_softmax(family):
    """Returns a function of the user's own that is called softmax."""

    def softmax(x):
        return family.activations.softmax(x / 2)

    return softmax


def own_dense(family, layers, features):
    class Dense(layers.Dense):
        def call(self, x):
            return family.activations.softmax(super().call(x) / 2)

    return Dense(5, activation=None)(features)


def own_softmax_layer(family, layers, features):
    class Softmax(layers.Layer):
        def call(self, x):
            return family.activations.softmax(x / 2)

    return Softmax()(layers.Dense(5)(features))


def layer_that_looks_linear(family, layers, features):
    class Head(layers.Layer):
        def __init__(self):
            super().__init__()
            self.activation = family.activations.linear
            self.scores = layers.Dense(5)

        def call(self, x):
            return family.activations.softmax(self.scores(x))

    return Head()(features)


def replaced_call(family, layers, features):
    dense = layers.Dense(5, activation="softmax")
    dense(features)
    call = dense.call
    dense.call = lambda x: family.activations.softmax(3 * call(x))
    return dense(features)


def temperature_layer(family, layers, features):
    class Temperature(layers.Layer):
        def call(self, x):
            return x / 3

    return layers.Softmax()(Temperature()(layers.Dense(5)(features)))


def masked_softmax(family, layers, features):
    scores = layers.Dense(5)(features)
    return layers.Softmax()(scores, mask=scores > -100)


def ensemble(family, layers, features):
    return layers.Average()([layers.Dense(5, activation="softmax")(features) for _ in range(2)])


def places_of_a_map(family, layers, features):
    places = layers.Reshape((2, 3))(features)
    return layers.GlobalAveragePooling1D()(layers.Dense(5, activation="softmax")(places))


def operation_after_softmax(family, layers, features):
    reshape = keras.ops.reshape if family is keras else tf.reshape
    return reshape(layers.Dense(5, activation="softmax")(features), (-1, 5))


def nested(family):
    inner = ending(lambda f, k, x: k.Dense(5, activation="softmax")(x))(family)
    sequential = family.Sequential([family.Input(SHAPE), inner])
    inputs = family.Input(SHAPE)
    outputs = family.layers.Reshape((5,))(sequential(inputs, training=False))
    return family.Model(inputs, outputs)


def deferred(tail):
    """Returns a maker of nested Sequentials without inputs, which an image builds."""

    def make(family):
        layers = family.layers
        base = family.Sequential([layers.Conv2D(4, 3)])
        model = family.Sequential([base, layers.GlobalAveragePooling2D(), *tail(layers)])
        model(PIXELS[:1])
        return model

    return make


# Makers of models, by what their ends are; True where the logits are found.
HEADS = {
    "operation": (ending(lambda f, k, x: softmax_operation(f)(k.Dense(5)(x))), True),
    "operation on axis 1": (
        ending(lambda f, k, x: softmax_operation(f)(k.Dense(5)(x), axis=1)),
        True,
    ),
    "divided, then operation": (
        ending(lambda f, k, x: softmax_operation(f)(k.Dense(5)(x) / 2)),
        True,
    ),
    "function on a tensor": (ending(lambda f, k, x: f.activations.softmax(k.Dense(5)(x))), True),
    "function of the other family": (
        ending(
            lambda f, k, x: k.Dense(
                5, activation=(tf_keras if f is keras else keras).activations.softmax
            )(x)
        ),
        True,
    ),
    "temperature layer": (ending(temperature_layer), True),
    "softmax on axis 1": (ending(lambda f, k, x: k.Softmax(axis=1)(k.Dense(5)(x))), True),
    "softmax layer, reshape": (
        ending(lambda f, k, x: k.Reshape((5,))(k.Softmax()(k.Reshape((1, 5))(k.Dense(5)(x))))),
        True,
    ),
    "two softmaxes": (ending(lambda f, k, x: k.Softmax()(k.Dense(5, "softmax")(x))), True),
    "nested": (nested, True),
    "deferred": (deferred(lambda k: [k.Dense(5, "softmax")]), True),
    "deferred, activation": (deferred(lambda k: [k.Dense(5), k.Activation("softmax")]), True),
    "own Dense": (ending(own_dense), False),
    "own Softmax": (ending(own_softmax_layer), False),
    "own softmax": (ending(lambda f, k, x: k.Dense(5, half_softmax(f))(x)), False),
    "own softmax, linear": (
        ending(lambda f, k, x: k.Activation("linear")(k.Dense(5, half_softmax(f))(x))),
        False,
    ),
    "own Activation": (
        ending(lambda f, k, x: k.Activation(half_softmax(f))(k.Dense(5)(x))),
        False,
    ),
    "looks linear": (ending(layer_that_looks_linear), False),
    "replaced call": (ending(replaced_call), False),
    "masked": (ending(masked_softmax), False),
    "ensemble": (ending(ensemble), False),
    "places of a map": (ending(places_of_a_map), False),
    "operation after softmax": (ending(operation_after_softmax), False),
}


def softened(numbers, temperature):
    numbers = np.asarray(numbers, np.float64) / temperature
    powers = np.exp(numbers - numbers.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def logits_of(model):
    """Returns the logits that are found in a model, or judged by its answers; and whether found."""
    logits = logits_model(model)
    answers = np.asarray(logits.model(PIXELS))
    if not logits.inspected:
        answers = to_logits(answers, output_kind(answers))
    return answers, logits.removed is not None


def assert_soft_targets(model, found):
    probabilities = np.asarray(model(PIXELS), np.float64)
    logits, was_found = logits_of(model)
    assert was_found == found
    for temperature in (1, 3, 20):
        expected = softened(np.log(probabilities), temperature)
        np.testing.assert_allclose(softened(logits, temperature), expected, atol=2e-6)


@pytest.mark.parametrize("name", list(HEADS))
def test_the_soft_targets_are_the_models_own(family, name):
    make, found = HEADS[name]
    model = make(family)
    for weight in model.trainable_weights[-2:]:  # far from even, so that a wrong head shows
        weight.assign(4 * weight)
    assert_soft_targets(model, found)


def test_a_quantised_head_is_not_looked_into():
    layers = keras.layers
    head = layers.Dense(5, activation="softmax")
    model = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), head])
    head.quantize("int8")
    assert_soft_targets(model, found=False)


def test_a_head_with_a_low_rank_addition_has_it_in_its_logits():
    model = HEADS["nested"][0](keras)
    inner = model.layers[1].layers[0]
    head = inner.layers[-1]
    head.enable_lora(2)
    head.lora_kernel_b.assign(np.ones(head.lora_kernel_b.shape))
    assert_soft_targets(model, found=True)


NO_PROBABILITIES = {
    "operation over the batch": lambda f, k, x: softmax_operation(f)(k.Dense(5)(x), axis=0),
    "softmax over the batch": lambda f, k, x: k.Softmax(axis=0)(k.Dense(5)(x)),
    "multiplied": lambda f, k, x: k.Multiply()(
        [k.Dense(5, "softmax")(x), k.Dense(5, "sigmoid")(x)]
    ),
    "divided": lambda f, k, x: k.Dense(5, "softmax")(x) / 2,
    "cut": lambda f, k, x: k.Dense(5, "softmax")(x)[:, :4],
    "softmax of each place": lambda f, k, x: k.Flatten()(
        k.Dense(2, "softmax")(k.Reshape((3, 2))(x))
    ),
}


@pytest.mark.parametrize("name", list(NO_PROBABILITIES))
def test_what_changes_a_softmax_is_asked_about(family, name):
    model = ending(NO_PROBABILITIES[name])(family)
    with pytest.raises(TeacherError, match="Say which"):
        logits_of(model)


def test_probabilities_times_a_number_are_asked_about():
    per_cent = 100 * softened(np.random.default_rng(0).normal(size=(4, 5)), 1)
    with pytest.raises(TeacherError) as refused:
        refuse_scaled(per_cent, "net")
    assert str(refused.value) == (
        "The answers of the teacher 'net' are never negative, and those to every image sum to 100: "
        "probabilities times a number, or logits.\n"
        "Say which: `--teacher-output probabilities` or `--teacher-output logits`."
    )
    refuse_scaled(per_cent[:1], "one row says nothing")
    refuse_scaled(np.tile(per_cent[:1], (4, 1)), "nor do equal rows")
    refuse_scaled(np.abs(np.random.default_rng(0).normal(size=(4, 5))), "logits")


@pytest.mark.parametrize("operation", [True, False])
def test_a_sigmoid_is_found_as_an_operation(family, operation):
    make = ending(
        lambda f, k, x: (
            f.activations.sigmoid(k.Dense(5)(x)) if operation else k.Dense(5, tf.nn.sigmoid)(x)
        )
    )
    model = make(family)
    logits = logits_model(model)
    assert logits.removed == "sigmoid"
    expected = np.asarray(model(PIXELS))
    np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(logits.model(PIXELS)))), expected, 1e-5)


def test_dropout_that_never_rests_is_not_looked_through(family):
    make = ending(lambda f, k, x: k.Dropout(0.5)(k.Dense(5, "softmax")(x), training=True))
    assert not logits_model(make(family)).inspected


def test_a_class_of_ones_own_that_is_called_functional_is_not_looked_into(family):
    class Functional(family.Model):
        def __init__(self):
            super().__init__()
            self.inner = ending(lambda f, k, x: k.Dense(5, "softmax")(x))(family)

        def call(self, inputs, training=None):
            return self.inner(inputs) ** 2

    model = Functional()
    model(PIXELS)
    assert not logits_model(model).inspected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50", "MobileNet", "EfficientNetB0", "DenseNet121"])
def test_the_softmax_of_applications_is_found(family, name):
    applications = importlib.import_module(f"{family.__name__}.applications")
    model = getattr(applications, name)(weights=None, classes=5, input_shape=(32, 32, 3))
    assert logits_model(model).removed == "softmax"
