"""Digests of layers: they differ by the settings that matter to a resumed run, and by no others."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from streamkd.models.layer_digests import describe_layers, settings_text


def of_layers(family, make):
    """Returns a functional model of the layers that `make` gives, and what is said of them."""
    layers = [family.Input((8, 8, 3)), *make(family.layers)]
    return describe_layers(functional(family, layers))


def functional(family, layers):
    first, *others = layers
    output = functools.reduce(lambda value, layer: layer(value), others, first)
    return family.Model(first, output)


def two_layers(layers, **settings):
    return [layers.Flatten(), layers.Dense(4, **settings)]


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "gelu"},
        {"use_bias": False},
        {"trainable": False},
        {"kernel_regularizer": "l2"},
    ],
    ids=str,
)
def test_layers_of_other_settings_are_told_apart_and_named(family, settings):
    usual = of_layers(family, two_layers)
    other = of_layers(family, lambda layers: two_layers(layers, **settings))
    assert [name.split()[1] for name in usual] == ["InputLayer", "Flatten", "Dense"]
    assert [name for name in usual if usual[name] != other[name]] == ["2 Dense"]


@pytest.mark.parametrize(
    "settings",
    [{"name": "another"}, {"kernel_initializer": "zeros"}],
    ids=str,
)
def test_names_and_first_weights_make_no_difference(family, settings):
    usual = of_layers(family, two_layers)
    assert of_layers(family, lambda layers: two_layers(layers, **settings)) == usual
    assert of_layers(family, two_layers) == usual, "Keras has numbered its layers anew"


def test_the_seed_of_what_is_dropped_makes_no_difference_and_its_share_does(family):
    def digest(**settings):
        return of_layers(family, lambda layers: [layers.Dropout(**settings)])

    assert digest(rate=0.5, seed=1) == digest(rate=0.5, seed=2) != digest(rate=0.4, seed=1)


def test_a_model_among_the_layers_is_entered(family):
    def digest(activation):
        def make(layers):
            return [family.Sequential([family.Input((8, 8, 3)), layers.Activation(activation)])]

        return of_layers(family, make)

    assert any(name.endswith(" Activation") for name in digest("relu"))
    assert digest("relu") == digest("relu") != digest("gelu")


def test_the_batch_that_a_model_was_first_called_with_makes_no_difference(family):
    def described(num_images):
        model = family.Sequential([family.layers.Flatten(), family.layers.Dense(2)])
        model(np.zeros((num_images, 8, 8, 3), np.float32))
        return describe_layers(model)

    assert described(1) == described(32)


def test_a_model_that_a_layer_wraps_is_told_by_what_it_does_and_not_by_its_names(family):
    def wrapped(activation):
        inner = functional(family, [family.Input((3,)), family.layers.Dense(2, activation)])
        return [family.layers.Reshape((64, 3)), family.layers.TimeDistributed(inner)]

    usual = of_layers(family, lambda _: wrapped("relu"))
    assert of_layers(family, lambda _: wrapped("relu")) == usual
    assert of_layers(family, lambda _: wrapped("gelu")) != usual


def test_the_module_of_a_function_makes_no_difference(family):
    def with_activation(module):
        def doubled(x):
            return x + x

        doubled.__module__ = module
        return of_layers(family, lambda layers: two_layers(layers, activation=doubled))

    assert with_activation("__main__") == with_activation("students")


def test_operations_on_tensors_are_told_apart(family):
    def described(name):
        ops = tf.nn if family.__name__ == "tf_keras" else family.ops
        return of_layers(family, lambda _: [lambda x: getattr(ops, name)(x)])

    assert described("relu") == described("relu") != described("gelu")


def test_a_layer_that_holds_layers_is_told_by_its_own_settings(family):
    class Own(family.layers.Layer):
        def __init__(self, share):
            super().__init__()
            self.share, self.layers = share, [family.layers.Activation("relu")]

        def call(self, inputs):
            return self.share * self.layers[0](inputs)

        def get_config(self):
            return {**super().get_config(), "share": self.share}

    assert of_layers(family, lambda _: [Own(1)]) == of_layers(family, lambda _: [Own(1)])
    assert of_layers(family, lambda _: [Own(1)]) != of_layers(family, lambda _: [Own(2)])


def test_a_model_that_was_saved_is_as_it_was(family, tmp_path):
    model = functional(
        family,
        [
            family.Input((8, 8, 3)),
            family.layers.Rescaling(1 / 255),
            family.layers.RandomFlip("horizontal"),
            family.layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2"),
            family.layers.BatchNormalization(),
            *two_layers(family.layers, activation="softmax"),
        ],
    )
    model.save(tmp_path / "model.keras")
    loaded = family.models.load_model(tmp_path / "model.keras", compile=False)
    assert describe_layers(loaded) == describe_layers(model)


def test_a_lambda_that_moved_to_another_line_is_the_same(family):
    def here(layers):
        return [layers.Lambda(lambda x: x + 1)]

    def there(layers):
        return [layers.Lambda(lambda x: x + 1)]

    assert of_layers(family, here) == of_layers(family, there)


def test_of_a_layer_that_does_not_describe_itself_the_class_is_there(family):
    class Own(family.layers.Layer):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def call(self, inputs):
            return self.function(inputs)

        def get_config(self):
            raise NotImplementedError

    digests = of_layers(family, lambda _: [Own(abs)])
    assert list(digests)[1] == "1 Own"
    assert digests == of_layers(family, lambda _: [Own(abs)])


def test_objects_are_told_by_their_type_functions_by_name_and_arrays_by_their_numbers():
    assert settings_text({"rate": np.float32(0.5)}) == '{"rate": 0.5}'
    assert settings_text({"call": object()}) == settings_text({"call": object()})
    assert settings_text([np.arange(2)]) != settings_text([np.arange(3)])
    assert settings_text(tf.constant(0.5)) == "0.5"
    assert settings_text(functools.reduce) == '"reduce"'
