"""What layers are told apart by: the settings that matter to a run that goes on, and not others."""

from __future__ import annotations

import functools

import pytest

from streamkd.training.architecture import describe_layers, settings_text


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
def test_what_a_layer_does_is_told_apart_and_named(family, settings):
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

    found = of_layers(family, lambda _: [Own(abs)])
    assert list(found)[1] == "1 Own"
    assert found == of_layers(family, lambda _: [Own(abs)])


def test_objects_are_told_by_their_type_and_arrays_by_their_numbers():
    import numpy as np

    assert settings_text({"rate": np.float32(0.5)}) == '{"rate": 0.5}'
    assert settings_text({"call": object()}) == settings_text({"call": object()})
    assert settings_text([np.arange(2)]) != settings_text([np.arange(3)])
