"""Logits of models of both families: softmax(logits) equals the model, which stays as it was."""

import importlib

import numpy as np
import pytest
import tensorflow as tf

from streamkd.models.logits_head import logits_model

SHAPE = (8, 8, 3)
PIXELS = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)


def body(family):
    layers = family.layers
    inputs = family.Input(SHAPE)
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(inputs))
    return inputs, features


def functional(*tail):
    """Returns a maker of a functional model with the layers of `tail` at its end."""

    def make(family):
        inputs, outputs = body(family)
        for layer in tail:
            outputs = layer(family.layers)(outputs)
        return family.Model(inputs, outputs)

    return make


def sequential(family):
    layers = family.layers
    return family.Sequential(
        [family.Input(SHAPE), layers.Flatten(), layers.Dense(5, activation="softmax")]
    )


def sequential_built_late(family):
    model = family.Sequential(
        [family.layers.Flatten(), family.layers.Dense(5, activation="softmax")]
    )
    model(PIXELS)
    return model


def nested(family):
    inputs = family.Input(SHAPE)
    return family.Model(inputs, sequential(family)(inputs))


def nested_twice_with_tail(family):
    inner = nested(family)
    return family.Sequential([family.Input(SHAPE), inner, family.layers.Reshape((5,))])


def shared_activation(family):
    # The same layer also stands elsewhere; only its last use is left out.
    layers = family.layers
    softmax = layers.Activation("softmax")
    inputs, features = body(family)
    gate = softmax(layers.Dense(4)(features))
    outputs = layers.Dense(5)(layers.Multiply()([features, gate]))
    return family.Model(inputs, softmax(outputs))


def without_bias(family):
    inputs, features = body(family)
    head = family.layers.Dense(5, activation="softmax", use_bias=False)
    return family.Model(inputs, head(features))


def conv_head(family):
    layers = family.layers
    inputs = family.Input(SHAPE)
    features = layers.Conv2D(4, 8, activation="relu")(inputs)
    head = layers.Conv2D(5, 1, activation="softmax")(features)
    return family.Model(inputs, layers.Dropout(0.5)(layers.Flatten()(head)))


def two_dense_on_top_of_a_map(family):
    # Dense on a tensor of rank four, flattened afterwards.
    layers = family.layers
    inputs = family.Input(SHAPE)
    features = layers.Conv2D(4, 8, activation="relu")(inputs)
    return family.Model(
        inputs, layers.Reshape((5,))(layers.Dense(5, activation="softmax")(features))
    )


def called_tf_softmax(family):
    inputs, features = body(family)
    return family.Model(inputs, family.layers.Dense(5, activation=tf.nn.softmax)(features))


def functional_subclass(family):
    class Named(family.Model):
        def twice(self):
            return 2

    inputs, features = body(family)
    return Named(inputs, family.layers.Dense(5, activation="softmax")(features))


SOFTMAX = {
    "dense with softmax": functional(lambda k: k.Dense(5, activation="softmax")),
    "dense, activation": functional(lambda k: k.Dense(5), lambda k: k.Activation("softmax")),
    "dense, softmax layer": functional(lambda k: k.Dense(5), lambda k: k.Softmax()),
    "dense without bias": without_bias,
    "dropout tail": functional(
        lambda k: k.Dense(5, activation="softmax"), lambda k: k.Dropout(0.5)
    ),
    "reshape tail": functional(
        lambda k: k.Reshape((1, 1, 4)),
        lambda k: k.Conv2D(5, 1),
        lambda k: k.Softmax(),
        lambda k: k.Reshape((5,)),
        lambda k: k.Activation("linear", dtype="float32"),
    ),
    "convolution": conv_head,
    "dense on a map": two_dense_on_top_of_a_map,
    "sequential": sequential,
    "sequential built late": sequential_built_late,
    "nested": nested,
    "nested twice with tail": nested_twice_with_tail,
    "shared activation": shared_activation,
    "tf.nn.softmax": called_tf_softmax,
    "subclass without a call": functional_subclass,
}


def layers_of(model):
    """Yields all layers, those of nested models as well."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from layers_of(layer)


def state_of(model):
    """Returns layers, inbound nodes, configurations and answers, which must not change."""
    layers = list(layers_of(model))
    nodes = [len(layer._inbound_nodes) for layer in layers]
    configs = [str(layer.get_config()) for layer in layers]
    return [id(layer) for layer in layers], nodes, configs, np.asarray(model(PIXELS)).tolist()


def assert_logits_of(model, removed):
    """Asserts that the logits are those of `model`, on the same weights, and `model` the same."""
    before = state_of(model)
    expected = np.asarray(model(PIXELS))
    logits = logits_model(model)
    assert (logits.removed, logits.inspected) == (removed, True)
    answers = tf.convert_to_tensor(logits.model(PIXELS))
    activation = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}[removed]
    np.testing.assert_allclose(activation(answers).numpy(), expected, atol=1e-5)
    assert np.abs(answers.numpy() - expected).max() > 0.01
    for kind in ("weights", "trainable_weights"):
        mine, theirs = getattr(logits.model, kind), getattr(model, kind)
        assert sorted(map(id, mine)) == sorted(map(id, theirs)), kind
    assert state_of(model) == before
    return logits


@pytest.mark.parametrize("name", list(SOFTMAX))
def test_a_softmax_is_left_out(family, name):
    assert_logits_of(SOFTMAX[name](family), "softmax")


@pytest.mark.parametrize(
    "tail",
    [
        [lambda k: k.Dense(5, activation="sigmoid")],
        [lambda k: k.Dense(5), lambda k: k.Activation("sigmoid")],
    ],
    ids=["dense", "activation"],
)
def test_a_sigmoid_is_left_out(family, tail):
    assert_logits_of(functional(*tail)(family), "sigmoid")


APPLICATIONS = {
    "MobileNetV2": {"alpha": 0.35, "weights": None, "classes": 5, "input_shape": (32, 32, 3)},
    "MobileNetV3Small": {"alpha": 0.75, "weights": None, "classes": 5, "input_shape": (32, 32, 3)},
}


@pytest.mark.parametrize("name", list(APPLICATIONS))
def test_the_logits_of_an_application_are_found(family, name):
    applications = importlib.import_module(f"{family.__name__}.applications")
    model = getattr(applications, name)(**APPLICATIONS[name])
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    num_nodes = [len(layer._inbound_nodes) for layer in model.layers]
    logits = logits_model(model)
    assert (logits.removed, logits.inspected) == ("softmax", True)
    answers = tf.convert_to_tensor(logits.model(pixels, training=False))
    expected = np.asarray(model(pixels, training=False))
    np.testing.assert_allclose(tf.nn.softmax(answers).numpy(), expected, atol=1e-5)
    assert len(logits.model.weights) == len(model.weights)
    assert [len(layer._inbound_nodes) for layer in model.layers] == num_nodes


@pytest.mark.parametrize("make", [SOFTMAX["dense with softmax"], nested], ids=["flat", "nested"])
def test_training_the_logits_trains_the_model(family, make):
    model = make(family)
    logits = logits_model(model).model
    before = np.asarray(model(PIXELS))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(tf.convert_to_tensor(logits(PIXELS, training=True))))
    gradients = tape.gradient(loss, logits.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    for weight, gradient in zip(logits.trainable_variables, gradients, strict=True):
        weight.assign(weight - 0.1 * gradient)
    assert np.abs(np.asarray(model(PIXELS)) - before).max() > 1e-4


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
def test_the_twin_computes_in_the_precision_of_its_layer(family, policy):
    model = functional(lambda k: k.Dense(5, activation="softmax", dtype=policy))(family)
    answers = tf.convert_to_tensor(logits_model(model).model(PIXELS))
    expected = tf.convert_to_tensor(model(PIXELS))
    assert answers.dtype == expected.dtype
    np.testing.assert_allclose(
        tf.nn.softmax(tf.cast(answers, tf.float32)), tf.cast(expected, tf.float32), atol=1e-2
    )


# Nothing to leave out.


@pytest.mark.parametrize(
    "make",
    [
        functional(lambda k: k.Dense(5)),
        functional(lambda k: k.Dense(5), lambda k: k.Reshape((5,)), lambda k: k.Dropout(0.1)),
        functional(lambda k: k.Dense(5), lambda k: k.Activation("linear")),
    ],
    ids=["dense", "reshape tail", "linear activation"],
)
def test_a_model_of_logits_is_taken_as_it_is(family, make):
    model = make(family)
    logits = logits_model(model)
    assert logits.model is model and logits.removed is None and logits.inspected


def subclassed(family):
    class Own(family.Model):
        def __init__(self):
            super().__init__()
            self.head = sequential(family)

        def call(self, inputs, training=None):
            return self.head(inputs)

    return Own()


def functional_with_its_own_call(family):
    class Sharp(family.Model):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask) ** 2

    inputs, features = body(family)
    return Sharp(inputs, family.layers.Dense(5, activation="softmax")(features))


def dense_subclass(family):
    class Head(family.layers.Dense):
        pass

    inputs, features = body(family)
    return family.Model(inputs, Head(5, activation="softmax")(features))


def averaged(family):
    layers = family.layers
    inputs = family.Input(SHAPE)
    cells = layers.Conv2D(5, 3, activation="softmax")(inputs)
    return family.Model(inputs, layers.GlobalAveragePooling2D()(cells))


def two_inputs_nested(family):
    layers = family.layers
    pair = [family.Input((4,)), family.Input((4,))]
    inner = family.Model(pair, layers.Dense(5, activation="softmax")(layers.Add()(pair)))
    inputs, features = body(family)
    return family.Model(inputs, inner([features, layers.Dense(4)(features)]))


OPAQUE = {
    "subclassed": subclassed,
    "functional with its own call": functional_with_its_own_call,
    "subclass of dense": dense_subclass,
    "average of softmaxes": averaged,
    "nested with two inputs": two_inputs_nested,
    "own function": functional(lambda k: k.Dense(5, activation=lambda x: x / 2)),
    "log softmax": functional(lambda k: k.Dense(5, activation=tf.nn.log_softmax)),
    "relu": functional(lambda k: k.Dense(5, activation="relu")),
    "reshape of a function": functional(
        lambda k: k.Dense(5, activation=lambda x: x), lambda k: k.Reshape((5,))
    ),
}


@pytest.mark.parametrize("name", list(OPAQUE))
def test_a_model_whose_end_cannot_be_seen_is_not_called_inspected(family, name):
    model = OPAQUE[name](family)
    expected = np.asarray(model(PIXELS))
    logits = logits_model(model)
    assert logits.removed is None and not logits.inspected
    np.testing.assert_array_equal(np.asarray(logits.model(PIXELS)), expected)


def test_a_model_that_was_never_built_is_not_called_inspected(family):
    model = family.Sequential([family.layers.Flatten(), family.layers.Dense(5)])
    assert not logits_model(model).inspected
