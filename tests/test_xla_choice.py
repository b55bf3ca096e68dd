"""jit="auto": measured, nothing learned from it, kept with the run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from run_helpers import (
    SAME_LINES_FOR_BOTH,
    dense_student,
    fit,
    make_steps,
    same_weights,
    weights_of,
)

from streamkd.errors import ResumeError
from streamkd.manifest.manifest import scan
from streamkd.models.families import family_of
from streamkd.stream.join import join
from streamkd.training import xla_choice
from streamkd.training.keras_metrics import UserMetrics
from streamkd.training.xla_choice import XlaPolicy, faster_steps, random_batch


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=8, seed=3)


def batch_norm_student(family):
    layers = family.layers
    family.utils.set_random_seed(0)
    return family.Sequential(
        [
            family.Input((8, 8, 3)),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )


def pretend(monkeypatch, *, gradients, update):
    """XLA takes this share of the time for each part."""
    monkeypatch.setattr(xla_choice, "SHORT_RUN_SECS", 0.0)
    calls = iter([(1.0, gradients), (0.5, 0.5 * update)])
    monkeypatch.setattr(xla_choice, "_fastest", lambda one, other: next(calls))


def test_the_shortest_of_several_measurements_in_turns_counts(monkeypatch):
    order = []

    def measuring(name, *seconds):
        times = iter(seconds)
        return lambda: order.append(name) or next(times)

    monkeypatch.setattr(xla_choice, "NUM_ROUNDS", 3)
    one, other = measuring("one", 0.1, 5.0, 3.0, 4.0), measuring("other", 0.2, 2.0, 9.0, 1.0)
    assert xla_choice._fastest(one, other) == (3.0, 1.0), "not the first call, which compiles"
    assert order == ["one", "other"] * 4


@pytest.mark.parametrize(
    ("gradients", "update", "chosen"),
    [
        (0.5, 0.5, (True, True)),
        (2.0, 2.0, (False, False)),
        (0.5, 1.5, (True, False)),
        (3.0, 0.2, (False, True)),
        (0.98, 0.95, (False, False)),  # a gain that is noise
        (float("inf"), 0.5, (False, True)),  # what XLA cannot compile
    ],
)
def test_each_part_is_compiled_where_that_saves_a_twentieth_of_the_step(
    stream, monkeypatch, gradients, update, chosen
):
    pretend(monkeypatch, gradients=gradients, update=update)
    spec = iter(stream.dataset()).element_spec
    plain = make_steps(dense_student(activation=None))
    steps = XlaPolicy(jit="auto", num_steps=100).choose(plain, None, spec)
    assert (steps.jit, steps.jit_update) == chosen


def test_the_batch_of_measurements_is_like_a_real_one_and_lets_a_step_update(stream):
    spec = iter(stream.dataset()).element_spec
    batch = random_batch(spec)
    pairs = zip(tf.nest.flatten(batch), tf.nest.flatten(spec), strict=True)
    assert all(like.is_compatible_with(part) for part, like in pairs)
    model = dense_student()
    steps = make_steps(model)
    done, finite, _ = steps.run(iter(tf.data.Dataset.from_tensors(batch)), tf.constant(1))
    assert (int(done), bool(finite)) == (1, True)
    assert not same_weights(model, dense_student())


@SAME_LINES_FOR_BOTH
def test_measuring_for_real_learns_nothing(stream, family, monkeypatch):
    monkeypatch.setattr(xla_choice, "SHORT_RUN_SECS", 0.0)
    model = batch_norm_student(family)
    metrics = UserMetrics(
        ["sparse_categorical_crossentropy"], family_of(model), probabilities=False, num_classes=3
    )
    plain = make_steps(model, family.optimizers.Adam(0.1), metrics=metrics)
    state = plain.state
    before = [np.array(variable) for variable in state.changed_by_a_step()]
    assert len(before) > 10, "weights, statistics of batches, slots of Adam, its iterations"
    steps, seconds = faster_steps(plain, next(iter(stream.batches(0, 1))), 10**6)
    for old, variable in zip(before, state.changed_by_a_step(), strict=True):
        np.testing.assert_array_equal(old, variable)
    assert not any(np.any(variable) for variable in state.counted_by_a_step())
    assert len(state.counted_by_a_step()) > 2, "step, sums, those of the metric"
    names = ("step", "gradients", "gradients_xla", "update", "update_xla")
    assert sorted(seconds) == sorted(names) and all(seconds[name] > 0 for name in names)
    assert (steps is plain) == (not steps.jit and not steps.jit_update)


@pytest.mark.parametrize(
    ("jit", "begun", "chosen"),
    [
        ("on", None, (True, True)),
        ("off", None, (False, False)),
        ("off", {"jit": True, "jit_update": True}, (False, False)),
        ("auto", {"jit": True, "jit_update": False}, (True, False)),
        ("auto", {}, (False, False)),
    ],
    ids=str,
)
def test_nothing_is_measured_where_xla_was_asked_for_or_the_run_has_chosen(
    monkeypatch, jit, begun, chosen
):
    monkeypatch.setattr(xla_choice, "faster_steps", lambda *_: pytest.fail("measured"))
    plain = make_steps(dense_student(activation=None))
    steps = XlaPolicy(jit=jit, num_steps=10**9).choose(plain, begun, None)
    assert (steps.jit, steps.jit_update) == chosen
    assert steps.state is plain.state and steps.loss is plain.loss
    assert (steps is plain) == (chosen == (False, False))


def test_a_short_run_is_not_compiled_for(stream, monkeypatch):
    monkeypatch.setattr(xla_choice, "_fastest", lambda *_: pytest.fail("compiled"))
    _, history = fit(stream, jit="auto")
    assert (history.jit, history.jit_update) == (False, False)


def test_an_update_that_xla_cannot_compile_is_left_as_it_is(stream, monkeypatch):
    class Printing(tf_keras.optimizers.SGD):
        """Calls Python, which XLA does not compile."""

        def update_step(self, gradient, variable):
            seen = tf.numpy_function(lambda x: x, [gradient], tf.float32)
            super().update_step(tf.ensure_shape(seen, gradient.shape), variable)

    monkeypatch.setattr(xla_choice, "SHORT_RUN_SECS", 0.0)
    _, history = fit(stream, optimizer=Printing(0.1), jit="auto")
    assert not history.jit_update and history.last["loss"] > 0


def test_the_choice_is_kept_with_the_run_and_another_is_refused(stream, monkeypatch, tmp_path):
    def train(epochs, jit="auto"):
        # With the user's own optimizer more epochs are fine.
        optimizer = tf_keras.optimizers.SGD(0.1)
        return fit(stream, run=tmp_path / "run", epochs=epochs, optimizer=optimizer, jit=jit)

    with monkeypatch.context() as patch:
        pretend(patch, gradients=2.0, update=0.5)
        train(1)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["jit"], config["jit_update"]) == (False, True)
    monkeypatch.setattr(xla_choice, "faster_steps", lambda *_: pytest.fail("measured again"))
    _, history = train(2)
    assert (history.jit, history.jit_update) == (False, True)
    with pytest.raises(ResumeError, match=r"started with another jit\.\n  run: false\n  now: true"):
        train(2, jit="on")


@SAME_LINES_FOR_BOTH
def test_with_and_without_xla_the_weights_are_the_same_but_for_rounding(stream, family):
    students = []
    for jit in ("off", "on"):
        student = dense_student(family)
        options = {"optimizer": "adamw", "weight_decay": 0.1, "clip_norm": 0.5, "ema": 0.9}
        fit(stream, student, jit=jit, learning_rate=0.01, epochs=2, **options)
        students.append(student)
    assert not same_weights(*students)
    for one, other in zip(*map(weights_of, students), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
