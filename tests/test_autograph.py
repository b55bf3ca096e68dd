"""AutoGraph rewrites the user's code whose `if` tests tensors, as under `fit`, and none of ours."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import streamkd as kd
from streamkd.tf_support.autograph import converted, unconverted
from streamkd.views import render


class Doubled(tf_keras.layers.Layer):
    """Tests a tensor: returns twice its input if the sum of the input is positive."""

    def call(self, inputs):
        if tf.reduce_sum(inputs) > 0:
            outputs = 2 * inputs
        else:
            outputs = inputs
        return outputs


def brighter(pixels, seeds):
    changed = pixels
    if tf.reduce_max(pixels) < 1e9:
        changed = pixels + 1.0
    return changed


def branching_student():
    """Returns a student with a layer whose `if` tests a tensor."""
    inputs = tf_keras.Input((8, 8, 3))
    flat = tf_keras.layers.Flatten()(tf_keras.layers.Rescaling(1 / 255)(inputs))
    return tf_keras.Model(inputs, tf_keras.layers.Dense(3)(Doubled()(flat)))


def without_branch(layer):
    """Returns a copy of a layer; of `Doubled`, a layer that always doubles."""
    if isinstance(layer, Doubled):
        return tf_keras.layers.Rescaling(2.0)
    return layer.__class__.from_config(layer.get_config())


@pytest.fixture
def converted_modules(monkeypatch):
    """The modules of the functions that AutoGraph rewrites during the test."""
    from tensorflow.python.autograph.impl import api

    modules = []
    convert = api._convert_actual

    def counted(entity, *rest):
        modules.append(inspect.getmodule(entity).__name__)
        return convert(entity, *rest)

    monkeypatch.setattr(api, "_convert_actual", counted)
    return modules


class TestBoth:
    def test_a_converted_function_is_rewritten_in_an_unconverted_graph(self):
        def branches(number):
            result = tf.constant(0)
            if number > 0:
                result = tf.constant(1)
            return result

        graph = tf.function(lambda number: converted(branches)(number), autograph=False)
        assert [int(graph(tf.constant(n))) for n in (-3, 3)] == [0, 1]

    def test_an_unconverted_function_is_not_rewritten_in_a_converted_graph(self):
        def branches(number):
            return tf.constant(1) if number > 0 else tf.constant(0)

        graph = tf.function(lambda number: unconverted(branches)(number))
        with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
            graph(tf.constant(3))


class TestFit:
    # XLA compiles what was rewritten before.
    @pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_layers_may_test_tensors(self, images, store, jit):
        stream = kd.join(images, store, batch_size=8, seed=1)
        student = branching_student()
        plain = tf_keras.models.clone_model(student, clone_function=without_branch)
        plain.set_weights(student.get_weights())
        losses = []
        for model in (student, plain):
            history = kd.Distiller(model, optimizer="sgd", jit=jit).fit(
                stream, epochs=2, validation=images, progress=False
            )
            losses.append([(epoch["loss"], epoch["val_loss"]) for epoch in history.epochs])
        np.testing.assert_allclose(*losses, rtol=1e-5)

    def test_nothing_of_ours_is_rewritten(self, images, store, converted_modules):
        stream = kd.join(images, store, batch_size=8, seed=1)
        student = branching_student()
        kd.Distiller(student).fit(stream, epochs=1, validation=images, progress=False)
        assert __name__ in converted_modules
        assert [name for name in converted_modules if name.startswith("streamkd")] == []


def test_operations_may_test_tensors():
    operation = kd.ViewOperation("brighter", 1, brighter)
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)
    seeds = {"view_seed": tf.constant([5, 7], tf.uint64)}
    dataset = tf.data.Dataset.from_tensors(pixels).map(
        unconverted(lambda images: render.change(images, seeds, operation))
    )
    assert np.array_equal(next(iter(dataset)), pixels + 1)
